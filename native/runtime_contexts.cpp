#include "runtime_contexts.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace polychron::runtime {
namespace {

constexpr int64_t kShortBytes = int64_t{1} << 20;
constexpr size_t kShortLengths = 3;         // contexts of 0, 1 and 2 bytes
constexpr int64_t kDenseBytes = int64_t{8} << 20;
constexpr int64_t kLeastDense = 7;          // entries of a longer context that has a dense row
constexpr size_t kInsertedTogether = 1024;
constexpr size_t kBytes = 256;

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

// What is laid out while the contexts are walked through.
template <class Dense> struct Contexts::Layout {
  std::vector<Dense> rows;
  std::vector<char> elsewhere;
  std::vector<ContextRecord> waiting;  // for the index, until there are enough to ask for their lines ahead
  int64_t least_dense = std::numeric_limits<int64_t>::max();
};

Contexts::Contexts(const ContextTrie& trie, const void* value, int64_t n_entries, bool integer, int64_t row_width,
                   int64_t most_copied)
    : trie_(trie), value_(static_cast<const char*>(value)), integer_(integer), row_width_(row_width) {
  if (const char* flaw = flaw_of(trie, n_entries)) throw std::invalid_argument(std::string("contexts: ") + flaw);
  plan_short_rows();
  if (!integer) {
    lay_out<float, float, float>(most_copied);
  } else if (!lay_out<int32_t, int16_t, int16_t>(most_copied)) {
    lay_out<int32_t, int32_t, int16_t>(most_copied);
  }
}

// The lengths' ends: what is the child of one length's contexts is of the next.
void Contexts::plan_short_rows() {
  short_end_ = {1};
  while (short_end_.size() < std::min(kShortLengths, static_cast<size_t>(trie_.depth) + 1)) {
    const uint32_t end = trie_.first_child[short_end_.back()];
    if (static_cast<int64_t>(end) * row_width_ * 4 > kShortBytes) break;
    short_end_.push_back(end);
  }
  if (short_end_.size() < 2) return;
  of_nearest_.resize(kBytes);
  for (size_t nearest = 0; nearest < kBytes; ++nearest) of_nearest_[nearest] = child_of(0, static_cast<uint8_t>(nearest));
  if (short_end_.size() < 3) return;
  of_two_.resize(kBytes * kBytes);
  for (size_t nearest = 0; nearest < kBytes; ++nearest) {
    const uint32_t shorter = of_nearest_[nearest];
    for (size_t next = 0; next < kBytes; ++next) {
      const uint32_t of_both = shorter ? child_of(shorter, static_cast<uint8_t>(next)) : 0;
      of_two_[nearest * kBytes + next] = of_both ? of_both : shorter;
    }
  }
}

// A dense row for a context: its parent's, none for the empty one's, and its own entries. False where a sum leaves Dense.
template <class T, class Dense, class Value>
bool Contexts::add_dense(uint32_t context, int64_t parent_row, int length, Layout<Dense>& layout) {
  const auto W = static_cast<size_t>(row_width_);
  const size_t begin = layout.rows.size();
  layout.rows.resize(begin + W, Dense{0});
  if (parent_row >= 0) std::copy_n(layout.rows.begin() + parent_row * row_width_, W, layout.rows.begin() + static_cast<int64_t>(begin));
  for (uint32_t e = trie_.first_entry[context]; e < trie_.first_entry[context + 1]; ++e) {
    Value value;
    std::memcpy(&value, value_ + e * sizeof value, sizeof value);
    Dense& sum = layout.rows[begin + trie_.entry_symbol[e]];
    const T exact = static_cast<T>(sum) + static_cast<T>(value);
    sum = static_cast<Dense>(exact);
    if constexpr (std::numeric_limits<T>::is_integer) {
      if (static_cast<T>(sum) == exact) continue;
      layout.rows.resize(begin);
      return false;
    }
  }
  dense_length_.push_back(static_cast<uint8_t>(length));
  return true;
}

// False where a sum of short contexts' rows leaves Dense.
template <class T, class Dense, class Value> bool Contexts::lay_out(int64_t most_copied) {
  Layout<Dense> layout;
  dense_length_.clear();
  if (!add_dense<T, Dense, Value>(0, -1, 0, layout)) return false;
  for (size_t length = 1; length < short_end_.size(); ++length) {
    for (uint32_t parent = length < 2 ? 0 : short_end_[length - 2]; parent < short_end_[length - 1]; ++parent) {
      for (uint32_t child = trie_.first_child[parent]; child < trie_.first_child[parent + 1]; ++child) {
        if (!add_dense<T, Dense, Value>(child, parent, static_cast<int>(length), layout)) return false;
      }
    }
  }
  const size_t n_short = dense_length_.size();
  if (!copy<T, Dense, Value>(most_copied, layout)) {
    index_ = nullptr;
    layout.elsewhere.clear();
    layout.rows.resize(n_short * static_cast<size_t>(row_width_));
    dense_length_.resize(n_short);
  }
  dense_bytes_ = sizeof(Dense);
  dense_ = std::make_unique<TableMemory>(layout.rows.size() * sizeof(Dense));
  std::memcpy(dense_->get(), layout.rows.data(), layout.rows.size() * sizeof(Dense));
  elsewhere_ = std::make_unique<TableMemory>(layout.elsewhere.size());
  std::copy(layout.elsewhere.begin(), layout.elsewhere.end(), elsewhere_->get());
  return true;
}

// False when copies would be larger, or when contexts share lines as only a file made for that has them.
template <class T, class Dense, class Value> bool Contexts::copy(int64_t most_copied, Layout<Dense>& layout) {
  std::array<int64_t, kMaxContextSymbols + 1> n_with{};  // contexts, by their entries
  for (auto context = static_cast<uint32_t>(n_dense()); context < trie_.n_contexts; ++context) {
    ++n_with[static_cast<size_t>(n_entries(context))];
  }
  int64_t n_rows = 0;
  layout.least_dense = kLeastDense;
  for (int64_t n = kMaxContextSymbols; n >= kLeastDense; --n) {
    n_rows += n_with[static_cast<size_t>(n)];
    if (n_rows * row_width_ * static_cast<int64_t>(sizeof(Dense)) <= kDenseBytes) continue;
    layout.least_dense = n + 1;
    break;
  }
  int64_t taken = 0, n_elsewhere = 0;
  for (size_t n = 0; n < n_with.size(); ++n) {
    const auto entries = static_cast<int64_t>(n);
    const int held = entries >= layout.least_dense ? kHoldsDenseRow : fits(entries) ? static_cast<int>(n) : kHoldsPlace;
    taken += n_with[n] * ContextIndex::taken_by(held, entry_bytes());
    if (!fits(entries)) n_elsewhere += n_with[n] * entries;
  }
  if (ContextIndex::n_bytes(taken) + n_elsewhere * entry_bytes() + kDenseBytes > most_copied) return false;
  index_ = std::make_unique<ContextIndex>(taken, entry_bytes());
  return visit<T, Dense, Value>(0, 0, 0, 0, layout) && index_->insert(layout.waiting);
}

// Lays out a context and the longer ones that begin with it; parent_row is below 0 where its parent has no dense row.
template <class T, class Dense, class Value>
bool Contexts::visit(uint32_t context, uint64_t symbols, int length, int64_t parent_row, Layout<Dense>& layout) {
  int64_t row = -1;
  if (static_cast<size_t>(length) < short_end_.size()) {
    row = context;
  } else {
    const int64_t n = n_entries(context);
    if (parent_row >= 0 && n >= layout.least_dense && add_dense<T, Dense, Value>(context, parent_row, length, layout)) {
      row = n_dense() - 1;
    }
    ContextRecord record{ContextIndex::key(symbols, length), kHoldsDenseRow, {}};
    if (row >= 0) {
      const auto number = static_cast<uint32_t>(row);
      std::memcpy(record.content.data(), &number, sizeof number);
    } else if (fits(n)) {
      record.holds = static_cast<int>(n);
      copy_entries(context, reinterpret_cast<char*>(record.content.data()));
    } else {
      const PlaceOfEntries place{static_cast<uint32_t>(static_cast<int64_t>(layout.elsewhere.size()) / entry_bytes()),
                                 static_cast<uint16_t>(n)};
      record.holds = kHoldsPlace;
      std::memcpy(record.content.data(), &place.first, sizeof place.first);
      std::memcpy(record.content.data() + sizeof place.first, &place.n, sizeof place.n);
      layout.elsewhere.resize(layout.elsewhere.size() + static_cast<size_t>(n * entry_bytes()));
      copy_entries(context, layout.elsewhere.data() + place.first * entry_bytes());
    }
    layout.waiting.push_back(record);
    if (layout.waiting.size() == kInsertedTogether) {
      if (!index_->insert(layout.waiting)) return false;
      layout.waiting.clear();
    }
  }
  if (length == trie_.depth) return true;
  for (uint32_t child = trie_.first_child[context]; child < trie_.first_child[context + 1]; ++child) {
    const uint64_t longer = symbols | static_cast<uint64_t>(trie_.symbol[child]) << 8 * length;
    if (!visit<T, Dense, Value>(child, longer, length + 1, row, layout)) return false;
  }
  return true;
}

// Values, then symbols.
void Contexts::copy_entries(uint32_t context, char* out) const {
  const uint32_t first = trie_.first_entry[context];
  const auto n = static_cast<size_t>(n_entries(context)), n_bytes = n * static_cast<size_t>(value_bytes());
  std::memcpy(out, value_ + first * value_bytes(), n_bytes);
  std::memcpy(out + n_bytes, trie_.entry_symbol + first, n);
}

uint32_t Contexts::child_of(uint32_t context, uint8_t symbol) const {
  const uint8_t* begin = trie_.symbol + trie_.first_child[context];
  const uint8_t* end = trie_.symbol + trie_.first_child[context + 1];
  const uint8_t* found = std::lower_bound(begin, end, symbol);
  return found < end && *found == symbol ? static_cast<uint32_t>(found - trie_.symbol) : 0;
}

void Contexts::begin(const uint8_t* bytes, Path& path) const {
  path.bytes = 0;
  std::memcpy(&path.bytes, bytes, kMaxContext);
  if constexpr (std::endian::native == std::endian::big) path.bytes = __builtin_bswap64(path.bytes);
  path.dense = !of_two_.empty() ? of_two_[bytes[0] * kBytes + bytes[1]] : !of_nearest_.empty() ? of_nearest_[bytes[0]] : 0;
  path.n = 0;
  path.n_bytes = 0;
  if (!index_) return;
  for (int length = length_of_dense(path.dense) + 1; length <= trie_.depth; ++length) {
    const ContextLine* line = index_->line(ContextIndex::key(path.bytes, length));
    path.line[static_cast<size_t>(length - 1)] = line;
    __builtin_prefetch(line);
  }
}

void Contexts::find(Path& path) const {
  index_ ? find_in_index(path) : find_in_place(path);
  ask_for(dense_row(path.dense), trie_.n_symbols * dense_bytes_);
}

void Contexts::find_in_index(Path& path) const {
  for (int length = length_of_dense(path.dense) + 1; length <= trie_.depth; ++length) {
    FoundContext found;
    const ContextLine* line = path.line[static_cast<size_t>(length - 1)];
    if (!index_->find(ContextIndex::key(path.bytes, length), line, found, path.n_bytes)) return;
    if (found.holds == kHoldsDenseRow) {
      std::memcpy(&path.dense, found.content, sizeof path.dense);
      continue;
    }
    ContextRow& row = path.rows[static_cast<size_t>(path.n++)];
    row = {reinterpret_cast<const char*>(found.content), nullptr, static_cast<uint32_t>(found.holds), true,
           n_dense() + found.number};
    if (found.holds == kHoldsPlace) {
      PlaceOfEntries place;
      std::memcpy(&place.first, found.content, sizeof place.first);
      std::memcpy(&place.n, found.content + sizeof place.first, sizeof place.n);
      row = {elsewhere_->get() + place.first * entry_bytes(), nullptr, place.n, false, row.number};
      ask_for(row.values, row.n_entries * entry_bytes());
    }
    row.symbols = reinterpret_cast<const uint8_t*>(row.values) + row.n_entries * value_bytes();
  }
}

void Contexts::find_in_place(Path& path) const {
  uint32_t context = path.dense;
  for (int length = length_of_dense(path.dense) + 1; length <= trie_.depth; ++length) {
    // Where its children begin and end, and of their symbols as many as halving takes.
    path.n_bytes += 8 + std::bit_width(trie_.first_child[context + 1] - trie_.first_child[context]);
    context = child_of(context, static_cast<uint8_t>(path.bytes >> 8 * (length - 1)));
    if (!context) return;
    const uint32_t first = trie_.first_entry[context];
    path.rows[static_cast<size_t>(path.n++)] = {value_ + first * value_bytes(), trie_.entry_symbol + first,
                                                static_cast<uint32_t>(n_entries(context)), false, n_dense() + context};
  }
}

int64_t Contexts::n_lines(const ContextRow& row) const {
  if (row.inside) return 0;
  if (index_) return n_lines_of(row.values, row.n_entries * entry_bytes());
  return n_lines_of(row.values, row.n_entries * value_bytes()) + n_lines_of(row.symbols, row.n_entries);
}

template <class T, class Value> void Contexts::add_rows(const Path& path, T* y) const {
  for (int m = 0; m < path.n; ++m) {
    const ContextRow& row = path.rows[static_cast<size_t>(m)];
    for (uint32_t e = 0; e < row.n_entries; ++e) {
      Value value;  // of a row that begins anywhere
      std::memcpy(&value, row.values + e * sizeof value, sizeof value);
      y[row.symbols[e]] += static_cast<T>(value);
    }
  }
}

void Contexts::add_following(const Path& path, float* y) const { add_rows<float, float>(path, y); }
void Contexts::add_following(const Path& path, int32_t* y) const { add_rows<int32_t, int16_t>(path, y); }

}  // namespace polychron::runtime
