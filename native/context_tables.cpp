#include "context_tables.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

namespace polychron {
namespace {

using Probabilities = std::array<float, kMaxContextSymbols>;

// Least part of a count that is taken away: of a very regular text nothing else would be left for what is new.
constexpr double kLeastDiscount = 0.1;

// Sorted by digits of a byte, the lowest first; digits that all have alike are passed over.
void sort_words(std::vector<uint64_t>& words) {
  std::vector<uint64_t> other(words.size());
  for (int shift = 0; shift < 64; shift += 8) {
    std::array<size_t, 257> begin{};
    for (const uint64_t word : words) ++begin[(word >> shift & 255) + 1];
    if (std::find(begin.begin(), begin.end(), words.size()) != begin.end()) continue;
    for (size_t digit = 0; digit < 256; ++digit) begin[digit + 1] += begin[digit];
    for (const uint64_t word : words) other[begin[word >> shift & 255]++] = word;
    words.swap(other);
  }
}

uint32_t child_of(const ContextTrie& trie, uint32_t context, uint8_t symbol) {
  const uint8_t* begin = trie.symbol + trie.first_child[context];
  const uint8_t* end = trie.symbol + trie.first_child[context + 1];
  const uint8_t* at = std::lower_bound(begin, end, symbol);
  return at != end && *at == symbol ? static_cast<uint32_t>(at - trie.symbol) : 0;  // 0, the root, is no one's child
}

}  // namespace

void add_context_rows(const ContextTrie& trie, const float* value, const uint8_t* symbols, int n_known, float* y) {
  uint32_t context = 0;
  for (int k = 0;; ++k) {
    const uint32_t last = trie.first_entry[context + 1];
    for (uint32_t e = trie.first_entry[context]; e < last; ++e) y[trie.entry_symbol[e]] += value[e];
    if (k == trie.depth || k == n_known) return;
    context = child_of(trie, context, symbols[k]);
    if (context == 0) return;
  }
}

const char* flaw_of(const ContextTrie& trie, int64_t n_entries) {
  const int64_t C = trie.n_contexts;
  if (C < 1 || trie.depth < 0 || trie.depth > kMaxContext) return "there must be the empty context at least, and contexts of at most 7 bytes";
  constexpr const char* kChildren = "first_child must ascend from 1 to the number of contexts, children after parents";
  constexpr const char* kEntries = "first_entry must ascend from 0 to the number of entries";
  if (trie.first_child[0] != 1 || trie.first_child[C] != C) return kChildren;
  if (trie.first_entry[0] != 0 || trie.first_entry[C] != n_entries) return kEntries;
  for (int64_t c = 0; c < C; ++c) {
    if (trie.first_child[c + 1] < trie.first_child[c] || trie.first_child[c] <= c) return kChildren;
    if (trie.first_entry[c + 1] < trie.first_entry[c]) return kEntries;
  }
  for (int64_t e = 0; e < n_entries; ++e) {
    if (trie.entry_symbol[e] >= trie.n_symbols) return "entry_symbol must lie below the vocabulary's size";
  }
  for (int64_t c = 0; c < C; ++c) {
    for (uint32_t e = trie.first_entry[c] + 1; e < trie.first_entry[c + 1]; ++e) {
      if (trie.entry_symbol[e] <= trie.entry_symbol[e - 1]) return "entry_symbol must ascend in each row";
    }
  }
  return nullptr;
}

ContextCounts::ContextCounts(const uint8_t* text, const std::vector<std::pair<int64_t, int64_t>>& segments,
                             const uint8_t* letter, int64_t n_symbols, int depth)
    : n_symbols_(n_symbols), depth_(depth) {
  // A context's nearest byte in the highest digit, and what follows in the lowest: contexts of every depth are runs.
  std::vector<uint64_t> words;
  for (const auto& [begin, end] : segments) {
    ContextState state;
    for (int64_t t = begin; t < end; ++t) {
      uint8_t symbols[kMaxContext];
      if (state.symbols(symbols) == kMaxContext) {
        uint64_t word = 0;
        for (int k = 0; k < depth; ++k) word = word << 8 | symbols[k];
        words.push_back(word << 8 | text[t]);
      }
      state.advance(text[t], letter[text[t]]);
    }
  }
  if (words.empty()) throw std::invalid_argument("no segment has more than three symbols");
  sort_words(words);

  // Contexts a level: where a word's highest digits differ from those of the word before.
  std::vector<std::vector<uint64_t>> contexts(static_cast<size_t>(depth) + 1);
  contexts[0] = {0};
  for (int k = 1; k <= depth; ++k) {
    auto& level = contexts[static_cast<size_t>(k)];
    const int shift = 8 * (depth - k + 1);
    for (const uint64_t word : words) {
      if (level.empty() || level.back() != word >> shift) level.push_back(word >> shift);
    }
  }
  for (const auto& level : contexts) {
    level_begin_.push_back(static_cast<uint32_t>(symbol_.size()));
    for (const uint64_t context : level) symbol_.push_back(static_cast<uint8_t>(context & 255));
  }
  const size_t C = symbol_.size();
  level_begin_.push_back(static_cast<uint32_t>(C));
  first_child_.assign(C + 1, static_cast<uint32_t>(C));
  for (size_t k = 0; k < static_cast<size_t>(depth); ++k) {
    uint32_t child = level_begin_[k + 1];
    for (size_t c = 0; c < contexts[k].size(); ++c) {
      first_child_[level_begin_[k] + c] = child;
      while (child < level_begin_[k + 2] && contexts[k + 1][child - level_begin_[k + 1]] >> 8 == contexts[k][c]) ++child;
    }
  }

  // The deepest contexts' entries, from the words; the others', from their children's; then all in the trie's order.
  std::vector<std::vector<uint8_t>> symbols(static_cast<size_t>(depth) + 1);
  std::vector<std::vector<uint32_t>> counts(symbols.size()), begins(symbols.size());
  {
    auto &s = symbols.back();
    auto &c = counts.back(), &b = begins.back();
    for (size_t t = 0; t < words.size(); ++t) {
      const bool same_context = t > 0 && words[t] >> 8 == words[t - 1] >> 8;
      if (!same_context) b.push_back(static_cast<uint32_t>(s.size()));
      if (same_context && words[t] == words[t - 1]) {
        ++c.back();
      } else {
        s.push_back(static_cast<uint8_t>(words[t] & 255));
        c.push_back(1);
      }
    }
    b.push_back(static_cast<uint32_t>(s.size()));
  }
  for (size_t k = static_cast<size_t>(depth); k-- > 0;) {
    std::array<uint32_t, kMaxContextSymbols> met{};
    for (uint32_t c = level_begin_[k]; c < level_begin_[k + 1]; ++c) {
      begins[k].push_back(static_cast<uint32_t>(symbols[k].size()));
      const uint32_t first = begins[k + 1][first_child_[c] - level_begin_[k + 1]];
      const uint32_t last = begins[k + 1][first_child_[c + 1] - level_begin_[k + 1]];
      for (uint32_t e = first; e < last; ++e) ++met[symbols[k + 1][e]];
      for (size_t w = 0; w < met.size(); ++w) {
        if (met[w] == 0) continue;
        symbols[k].push_back(static_cast<uint8_t>(w));
        counts[k].push_back(met[w]);
        met[w] = 0;
      }
    }
    begins[k].push_back(static_cast<uint32_t>(symbols[k].size()));
  }
  for (size_t k = 0; k <= static_cast<size_t>(depth); ++k) {
    const auto before = static_cast<uint32_t>(entry_symbol_.size());
    for (size_t c = 0; c + 1 < begins[k].size(); ++c) first_entry_.push_back(before + begins[k][c]);
    entry_symbol_.insert(entry_symbol_.end(), symbols[k].begin(), symbols[k].end());
    entry_count_.insert(entry_count_.end(), counts[k].begin(), counts[k].end());
  }
  first_entry_.push_back(static_cast<uint32_t>(entry_symbol_.size()));
  for (int k = 0; k <= depth; ++k) discounts_.push_back(discounts_of_level(k));
}

ContextCounts::Discounts ContextCounts::discounts_of_level(int level) const {
  double n[5] = {};
  const uint32_t begin = first_entry_[level_begin_[static_cast<size_t>(level)]];
  const uint32_t end = first_entry_[level_begin_[static_cast<size_t>(level) + 1]];
  for (uint32_t e = begin; e < end; ++e) n[std::min(entry_count_[e], uint32_t{5}) - 1] += 1.0;
  Discounts found{{0.0f, 0.5f, 0.5f, 0.5f}};
  if (n[0] > 0.0 && n[1] > 0.0) {
    const double y = n[0] / (n[0] + 2.0 * n[1]);
    for (int r = 1; r <= 3; ++r) {
      if (n[r - 1] == 0.0) continue;
      const double taken = r - (r + 1) * y * n[r] / n[r - 1];
      found.of[r] = static_cast<float>(std::clamp(taken, kLeastDiscount, static_cast<double>(r)));
    }
  }
  return found;
}

ContextTrie ContextCounts::trie() const {
  return {n_symbols_,           depth_,
          static_cast<int64_t>(symbol_.size()), symbol_.data(), first_child_.data(), first_entry_.data(),
          entry_symbol_.data()};
}

void ContextCounts::values(float* value) const {
  // P of the contexts on the way from the root to where we are.
  std::vector<Probabilities> way(static_cast<size_t>(depth_) + 2);
  way[0].fill(1.0f / static_cast<float>(n_symbols_));
  const auto visit = [&](const auto& self, uint32_t context, int level) -> void {
    const Probabilities& shorter = way[static_cast<size_t>(level)];
    Probabilities& own = way[static_cast<size_t>(level) + 1];
    float total = 0.0f, given = 0.0f;
    for (uint32_t e = first_entry_[context]; e < first_entry_[context + 1]; ++e) {
      total += static_cast<float>(entry_count_[e]);
      given += discount(level, entry_count_[e]);
    }
    const float gamma = given / total;
    for (int64_t w = 0; w < n_symbols_; ++w) own[static_cast<size_t>(w)] = gamma * shorter[static_cast<size_t>(w)];
    for (uint32_t e = first_entry_[context]; e < first_entry_[context + 1]; ++e) {
      const auto count = static_cast<float>(entry_count_[e]);
      float& p = own[entry_symbol_[e]];
      const float backed_off = p;
      p += (count - discount(level, entry_count_[e])) / total;
      value[e] = std::log(p / backed_off);
    }
    for (uint32_t c = first_child_[context]; c < first_child_[context + 1]; ++c) self(self, c, level + 1);
  };
  visit(visit, 0, 0);
}

}  // namespace polychron
