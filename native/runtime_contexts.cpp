#include "runtime_contexts.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

namespace polychron::runtime {
namespace {

constexpr int64_t kDenseBytes = int64_t{1} << 20;
constexpr size_t kDenseLengths = 3;  // contexts of 0, 1 and 2 bytes
constexpr size_t kInsertedTogether = 1024;

void ask_for(const void* begin, int64_t n_bytes) {
  const auto* p = static_cast<const char*>(begin);
  for (int64_t at = 0; at < n_bytes; at += static_cast<int64_t>(kLineBytes)) __builtin_prefetch(p + at);
}

int64_t n_lines_of(const void* begin, int64_t n_bytes) {
  if (n_bytes == 0) return 0;
  const auto at = reinterpret_cast<uintptr_t>(begin);
  return static_cast<int64_t>((at + static_cast<uintptr_t>(n_bytes) - 1) / kLineBytes - at / kLineBytes + 1);
}

}  // namespace

Contexts::Contexts(const ContextTrie& trie, const uint8_t* letter, const void* value, int64_t n_entries, bool integer,
                   int64_t row_width, int64_t most_copied)
    : trie_(trie), value_(value), integer_(integer), row_width_(row_width), letter_(letter, letter + trie.n_symbols) {
  if (const char* flaw = flaw_of(trie, n_entries)) throw std::invalid_argument(std::string("contexts: ") + flaw);
  // The lengths' ends: what is the child of one length's contexts is of the next.
  dense_end_ = {1};
  while (dense_end_.size() < std::min(kDenseLengths, static_cast<size_t>(trie.depth) + 1)) {
    const uint32_t end = trie.first_child[dense_end_.back()];
    if (static_cast<int64_t>(end) * row_width * 4 > kDenseBytes) break;
    dense_end_.push_back(end);
  }
  lay_out_dense(value);
  const int64_t n_bytes = ContextIndex::n_bytes(trie.n_contexts - n_dense()) + n_entries * entry_bytes();
  if (n_bytes > most_copied || !copy(value, n_entries)) {
    index_ = nullptr;
    entries_ = nullptr;
  }
}

template <class T, class Value> void Contexts::add_dense(const void* value) {
  const auto W = static_cast<size_t>(row_width_);
  std::vector<T> rows(static_cast<size_t>(n_dense()) * W, T{0});
  const auto add = [&](uint32_t context) {
    for (uint32_t e = trie_.first_entry[context]; e < trie_.first_entry[context + 1]; ++e) {
      rows[context * W + trie_.entry_symbol[e]] += static_cast<T>(static_cast<const Value*>(value)[e]);
    }
  };
  add(0);
  for (uint32_t parent = 0; dense_end_.size() > 1 && parent < dense_end_[dense_end_.size() - 2]; ++parent) {
    for (uint32_t child = trie_.first_child[parent]; child < trie_.first_child[parent + 1]; ++child) {
      std::copy_n(rows.data() + parent * W, W, rows.data() + child * W);
      add(child);
    }
  }
  dense_.resize(rows.size());
  std::transform(rows.begin(), rows.end(), dense_.begin(), [](T x) { return std::bit_cast<int32_t>(x); });
}

void Contexts::lay_out_dense(const void* value) {
  integer_ ? add_dense<int32_t, int16_t>(value) : add_dense<float, float>(value);
  const auto V = static_cast<size_t>(trie_.n_symbols);
  if (dense_end_.size() < 2) return;
  of_latest_.resize(V);
  for (size_t latest = 0; latest < V; ++latest) of_latest_[latest] = child_of(0, static_cast<uint8_t>(latest));
  if (dense_end_.size() < 3) return;
  of_two_.resize(V * V);
  for (size_t latest = 0; latest < V; ++latest) {
    for (size_t before = 0; before < V; ++before) {
      const uint32_t shorter = of_latest_[latest];
      const uint32_t of_both = shorter ? child_of(shorter, static_cast<uint8_t>(before)) : 0;
      of_two_[latest * V + before] = of_both ? of_both : shorter;
    }
  }
}

// False when contexts share places as only a file made for that has them.
bool Contexts::copy(const void* value, int64_t n_entries) {
  index_ = std::make_unique<ContextIndex>(trie_.n_contexts - n_dense());
  entries_ = std::make_unique<TableMemory>(static_cast<size_t>(n_entries * entry_bytes()));
  const size_t value_bytes = static_cast<size_t>(entry_bytes()) - 1;
  std::vector<ContextPlace> places;
  places.reserve(kInsertedTogether);
  char* out = entries_->get();
  uint32_t n_copied = 0;
  // A context's rows, then those of the longer ones that begin with it: they are read together.
  const auto visit = [&](const auto& self, uint32_t context, uint64_t symbols, int length) -> bool {
    if (static_cast<size_t>(length) >= dense_end_.size()) {
      const uint32_t first = trie_.first_entry[context], n = trie_.first_entry[context + 1] - first;
      places.push_back({ContextIndex::key(symbols, length), n_copied, n});
      std::memcpy(out, static_cast<const char*>(value) + first * value_bytes, n * value_bytes);
      std::memcpy(out + n * value_bytes, trie_.entry_symbol + first, n);
      out += n * (value_bytes + 1);
      n_copied += n;
      if (places.size() == kInsertedTogether) {
        if (!index_->insert(places)) return false;
        places.clear();
      }
    }
    if (length == trie_.depth) return true;
    for (uint32_t child = trie_.first_child[context]; child < trie_.first_child[context + 1]; ++child) {
      const uint64_t longer = symbols | static_cast<uint64_t>(trie_.symbol[child]) << 8 * length;
      if (!self(self, child, longer, length + 1)) return false;
    }
    return true;
  };
  return visit(visit, 0, 0, 0) && index_->insert(places);
}

int Contexts::length_of_dense(uint32_t context) const {
  return static_cast<int>(std::upper_bound(dense_end_.begin(), dense_end_.end(), context) - dense_end_.begin());
}

uint32_t Contexts::child_of(uint32_t context, uint8_t symbol) const {
  const uint8_t* begin = trie_.symbol + trie_.first_child[context];
  const uint8_t* end = trie_.symbol + trie_.first_child[context + 1];
  const uint8_t* found = std::lower_bound(begin, end, symbol);
  return found < end && *found == symbol ? static_cast<uint32_t>(found - trie_.symbol) : 0;
}

void Contexts::push(History& history, int64_t token) const {
  history.state.advance(token, letter_[static_cast<size_t>(token)]);
  std::array<uint8_t, kMaxContext> symbols;
  history.n_known = history.state.symbols(symbols.data());
  history.symbols = 0;
  for (int k = kMaxContext; k-- > 0;) history.symbols = history.symbols << 8 | symbols[static_cast<size_t>(k)];
}

Path Contexts::begin(const History& history) const {
  Path path;
  path.length = std::min(trie_.depth, history.n_known);
  const auto latest = static_cast<size_t>(history.symbols & 255);
  const auto before = static_cast<size_t>(history.symbols >> 8 & 255);
  if (!of_two_.empty() && path.length >= 2) {
    path.dense = of_two_[latest * static_cast<size_t>(trie_.n_symbols) + before];
  } else if (!of_latest_.empty() && path.length >= 1) {
    path.dense = of_latest_[latest];
  }
  ask_for(dense_row(path.dense), trie_.n_symbols * 4);
  const auto n_lengths = static_cast<int>(dense_end_.size());
  if (path.length >= n_lengths && n_lengths > 1 && path.dense < dense_end_[dense_end_.size() - 2]) path.length = 0;
  if (!index_) return path;
  for (int length = n_lengths; length <= path.length; ++length) {
    index_->ask_for(ContextIndex::key(history.symbols, length));
  }
  return path;
}

void Contexts::find(const History& history, Path& path) const {
  uint32_t context = path.dense;
  for (int length = static_cast<int>(dense_end_.size()); length <= path.length; ++length) {
    ContextRow& row = path.rows[static_cast<size_t>(path.n)];
    if (index_) {
      const ContextPlace* place = index_->find(ContextIndex::key(history.symbols, length), path.n_bytes);
      if (!place) return;
      row = {place->first_entry, place->n_entries, n_dense() + index_->number_of(place)};
    } else {
      // Where its children begin and end, and of their symbols as many as halving takes.
      path.n_bytes += 8 + std::bit_width(trie_.first_child[context + 1] - trie_.first_child[context]);
      context = child_of(context, static_cast<uint8_t>(history.symbols >> 8 * (length - 1)));
      if (!context) return;
      const uint32_t first_entry = trie_.first_entry[context];
      row = {first_entry, trie_.first_entry[context + 1] - first_entry, n_dense() + context};
    }
    ++path.n;
    if (index_) ask_for(values_of(row), row.n_entries * entry_bytes());
  }
}

const char* Contexts::values_of(const ContextRow& row) const {
  return entries_ ? entries_->get() + row.first_entry * entry_bytes()
                  : static_cast<const char*>(value_) + row.first_entry * (entry_bytes() - 1);
}

const uint8_t* Contexts::symbols_of(const ContextRow& row) const {
  return entries_ ? reinterpret_cast<const uint8_t*>(values_of(row)) + row.n_entries * (entry_bytes() - 1)
                  : trie_.entry_symbol + row.first_entry;
}

int64_t Contexts::n_lines(const ContextRow& row) const {
  if (entries_) return n_lines_of(values_of(row), row.n_entries * entry_bytes());
  return n_lines_of(values_of(row), row.n_entries * (entry_bytes() - 1)) + n_lines_of(symbols_of(row), row.n_entries);
}

template <class T, class Value> void Contexts::add_row(const ContextRow& row, T* y) const {
  const char* values = values_of(row);
  const uint8_t* symbols = symbols_of(row);
  for (uint32_t e = 0; e < row.n_entries; ++e) {
    Value value;  // of a row that begins anywhere
    std::memcpy(&value, values + e * sizeof value, sizeof value);
    y[symbols[e]] += static_cast<T>(value);
  }
}

void Contexts::add(const Path& path, float* sums, float* logits) const {
  const auto V = static_cast<size_t>(trie_.n_symbols);
  std::memcpy(sums, dense_row(path.dense), V * sizeof *sums);
  for (int m = 0; m < path.n; ++m) add_row<float, float>(path.rows[static_cast<size_t>(m)], sums);
  for (size_t k = 0; k < V; ++k) logits[k] += sums[k];
}

void Contexts::add_following(const Path& path, int32_t* logits) const {
  for (int m = 0; m < path.n; ++m) add_row<int32_t, int16_t>(path.rows[static_cast<size_t>(m)], logits);
}

}  // namespace polychron::runtime
