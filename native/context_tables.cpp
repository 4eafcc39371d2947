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

// Gives its memory back, which assigning nothing would not.
template <class T> void release(std::vector<T>& numbers) { std::vector<T>().swap(numbers); }

// A branch that depends on a text's bytes is mispredicted half of the time: the search has none within.
uint32_t child_of(const ContextTrie& trie, uint32_t context, uint8_t symbol) {
  uint32_t begin = trie.first_child[context], n = trie.first_child[context + 1] - begin;
  if (n == 0) return 0;  // the root, which is no one's child
  while (n > 1) {
    const uint32_t half = n / 2;
    begin += trie.symbol[begin + half] <= symbol ? half : 0;
    n -= half;
  }
  return trie.symbol[begin] == symbol ? begin : 0;
}

// A row is dense where at least this part of the symbols has an entry, as long as there is room: shallow contexts, which
// are read most, come first.
constexpr uint32_t kDensePart = 4;
constexpr size_t kMostDenseNumbers = size_t{1} << 16;

}  // namespace

ContextValues::ContextValues(const ContextTrie& trie, const float* value) : value_(value) {
  const auto K = static_cast<size_t>(trie.n_symbols);
  for (uint32_t c = 0; c < trie.n_contexts && rows_.size() + K <= kMostDenseNumbers; ++c) {
    const uint32_t begin = trie.first_entry[c], end = trie.first_entry[c + 1];
    if (kDensePart * (end - begin) < K) continue;
    row_.resize(c + 1);
    row_[c] = static_cast<uint32_t>(rows_.size()) + 1;
    rows_.resize(rows_.size() + K);
    for (uint32_t e = begin; e < end; ++e) rows_[row_[c] - 1 + trie.entry_symbol[e]] = value[e];
  }
}

void add_context_rows(const ContextTrie& trie, const ContextValues& values, const uint8_t* bytes, int64_t n, float* y,
                      int64_t apart) {
  const float* value = values.entries();
  constexpr int64_t kTogether = 32;  // texts side by side: what one waits for from memory arrives while others are read
  std::array<uint32_t, kTogether> context{};
  std::array<int64_t, kTogether> of{};  // the texts that go on
  for (int64_t begin = 0; begin < n; begin += kTogether) {
    int64_t n_left = std::min(kTogether, n - begin);
    for (int64_t i = 0; i < n_left; ++i) {
      context[static_cast<size_t>(i)] = 0;
      of[static_cast<size_t>(i)] = begin + i;
    }
    for (int k = 0; n_left > 0; ++k) {
      for (int64_t i = 0; i < n_left; ++i) {
        const uint32_t c = context[static_cast<size_t>(i)], entry = trie.first_entry[c];
        __builtin_prefetch(trie.symbol + trie.first_child[c]);
        if (values.dense_row(c)) continue;
        __builtin_prefetch(value + entry);
        __builtin_prefetch(trie.entry_symbol + entry);
      }
      for (int64_t i = 0; i < n_left; ++i) {
        const uint32_t c = context[static_cast<size_t>(i)], end = trie.first_entry[c + 1];
        float* row = y + k * apart + of[static_cast<size_t>(i)] * trie.n_symbols;
        if (const float* dense = values.dense_row(c)) {
          for (int64_t w = 0; w < trie.n_symbols; ++w) row[w] += dense[w];
          continue;
        }
        for (uint32_t e = trie.first_entry[c]; e < end; ++e) row[trie.entry_symbol[e]] += value[e];
      }
      if (k == trie.depth) break;
      int64_t n_deeper = 0;
      for (int64_t i = 0; i < n_left; ++i) {
        const int64_t text = of[static_cast<size_t>(i)];
        const uint32_t child = child_of(trie, context[static_cast<size_t>(i)], bytes[text * kMaxContext + k]);
        if (child == 0) continue;
        __builtin_prefetch(trie.first_child + child);
        __builtin_prefetch(trie.first_entry + child);
        context[static_cast<size_t>(n_deeper)] = child;
        of[static_cast<size_t>(n_deeper++)] = text;
      }
      n_left = n_deeper;
    }
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
  for (int64_t c = 0; c < C; ++c) {
    for (uint32_t child = trie.first_child[c] + 1; child < trie.first_child[c + 1]; ++child) {
      if (trie.symbol[child] <= trie.symbol[child - 1]) return "symbol must ascend among the children of each context";
    }
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
                             const uint8_t* byte, int64_t n_symbols, ContextList list, int depth)
    : n_symbols_(n_symbols), depth_(std::min(depth, kListLength[static_cast<int>(list)])) {
  // A context's nearest byte in the highest digit, and what follows in the lowest: contexts of every depth are runs.
  std::vector<uint64_t> words;
  for (const auto& [begin, end] : segments) {
    ContextState state;
    for (int64_t t = begin; t < end; ++t) {
      if (t > begin) {
        uint8_t bytes[kMaxContext];
        state.bytes(list, bytes);
        uint64_t word = 0;
        for (int k = 0; k < depth_; ++k) word = word << 8 | bytes[k];
        words.push_back(word << 8 | text[t]);
      }
      state.advance(byte[text[t]]);
    }
  }
  if (words.empty()) throw std::invalid_argument("no segment has more than one symbol");
  sort_words(words);
  fill(words);
  for (int k = 0; k <= depth_; ++k) discounts_.push_back(discounts_of_level(k));
  find_values();
  leave_out_deeper_than_once();
}

void ContextCounts::fill(std::vector<uint64_t>& words) {
  const int depth = depth_;
  // Contexts a level: where a word's highest digits differ from those of the word before. A parent's first child is the
  // first word of that parent.
  symbol_ = {0};
  level_begin_ = {0};
  for (int k = 1; k <= depth; ++k) {
    level_begin_.push_back(static_cast<uint32_t>(symbol_.size()));
    const int shift = 8 * (depth - k + 1);
    for (size_t t = 0; t < words.size(); ++t) {
      const uint64_t differs = t == 0 ? ~uint64_t{0} : words[t] ^ words[t - 1];
      if (t == 0 || (k > 1 && differs >> (shift + 8) != 0)) first_child_.push_back(static_cast<uint32_t>(symbol_.size()));
      if (differs >> shift != 0) symbol_.push_back(static_cast<uint8_t>(words[t] >> shift & 255));
    }
  }
  const size_t C = symbol_.size();
  level_begin_.push_back(static_cast<uint32_t>(C));
  first_child_.resize(C + 1, static_cast<uint32_t>(C));

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
    release(words);
  }
  for (size_t k = static_cast<size_t>(depth); k-- > 0;) {
    std::array<uint32_t, kMaxContextSymbols> met{};
    for (uint32_t c = level_begin_[k]; c < level_begin_[k + 1]; ++c) {
      begins[k].push_back(static_cast<uint32_t>(symbols[k].size()));
      const uint32_t first = begins[k + 1][first_child_[c] - level_begin_[k + 1]];
      const uint32_t last = begins[k + 1][first_child_[c + 1] - level_begin_[k + 1]];
      if (first_child_[c + 1] - first_child_[c] == 1) {
        symbols[k].insert(symbols[k].end(), symbols[k + 1].begin() + first, symbols[k + 1].begin() + last);
        counts[k].resize(symbols[k].size(), 1);
        continue;
      }
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
    release(begins[k]);
    release(counts[k]);
    release(symbols[k]);
  }
  first_entry_.push_back(static_cast<uint32_t>(entry_symbol_.size()));

  met_.assign(C, 0);
  for (uint32_t c = level_begin_[static_cast<size_t>(depth)]; c < C; ++c) {
    for (uint32_t e = first_entry_[c]; e < first_entry_[c + 1]; ++e) met_[c] += entry_count_[e];
  }
  for (uint32_t c = level_begin_[static_cast<size_t>(depth)]; c-- > 0;) {
    for (uint32_t child = first_child_[c]; child < first_child_[c + 1]; ++child) met_[c] += met_[child];
  }
}

void ContextCounts::leave_out_deeper_than_once() {
  std::vector<uint8_t> symbol{symbol_[0]}, entry_symbol;
  std::vector<uint32_t> first_child, first_entry;
  std::vector<float> value;
  // Contexts are in order, and so are those that stay: a context's place is known when its parent has been seen.
  std::vector<bool> stays(symbol_.size(), false);
  stays[0] = true;
  for (size_t c = 0; c < symbol_.size(); ++c) {
    if (!stays[c]) continue;
    first_child.push_back(static_cast<uint32_t>(symbol.size()));
    first_entry.push_back(static_cast<uint32_t>(entry_symbol.size()));
    entry_symbol.insert(entry_symbol.end(), entry_symbol_.begin() + first_entry_[c], entry_symbol_.begin() + first_entry_[c + 1]);
    value.insert(value.end(), value_.begin() + first_entry_[c], value_.begin() + first_entry_[c + 1]);
    if (met_[c] == 1) continue;
    for (uint32_t child = first_child_[c]; child < first_child_[c + 1]; ++child) {
      stays[child] = true;
      symbol.push_back(symbol_[child]);
    }
  }
  first_child.push_back(static_cast<uint32_t>(symbol.size()));
  first_entry.push_back(static_cast<uint32_t>(entry_symbol.size()));
  symbol_ = std::move(symbol);
  entry_symbol_ = std::move(entry_symbol);
  first_child_ = std::move(first_child);
  first_entry_ = std::move(first_entry);
  value_ = std::move(value);
  release(entry_count_);
  release(met_);
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

void ContextCounts::find_values() {
  value_.resize(entry_symbol_.size());
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
    const bool is_read_deeper = met_[context] > 1 && first_child_[context] < first_child_[context + 1];
    if (is_read_deeper) {
      for (int64_t w = 0; w < n_symbols_; ++w) own[static_cast<size_t>(w)] = gamma * shorter[static_cast<size_t>(w)];
    }
    for (uint32_t e = first_entry_[context]; e < first_entry_[context + 1]; ++e) {
      const auto count = static_cast<float>(entry_count_[e]);
      const float backed_off = gamma * shorter[entry_symbol_[e]];
      const float p = backed_off + (count - discount(level, entry_count_[e])) / total;
      own[entry_symbol_[e]] = p;
      value_[e] = std::log(p / backed_off);
    }
    if (!is_read_deeper) return;
    for (uint32_t c = first_child_[context]; c < first_child_[context + 1]; ++c) self(self, c, level + 1);
  };
  visit(visit, 0, 0);
}

}  // namespace polychron
