#include "runtime_contexts.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

namespace polychron::runtime {
namespace {

constexpr int64_t kCopiedBytes = int64_t{256} << 20;  // larger ones stay in the file but for their nodes
constexpr int64_t kDenseBytes = int64_t{1} << 20;
constexpr size_t kDenseLevels = 3;  // contexts of 0, 1 and 2 bytes

}  // namespace

Contexts::Contexts(const ContextTrie& trie, const uint8_t* letter, const void* value, int64_t n_entries, bool integer)
    : n_symbols_(trie.n_symbols), n_contexts_(trie.n_contexts), depth_(trie.depth), integer_(integer),
      letter_(letter, letter + trie.n_symbols), symbol_(trie.symbol), entry_symbol_(trie.entry_symbol), value_(value) {
  if (const char* flaw = flaw_of(trie, n_entries)) throw std::invalid_argument(std::string("contexts: ") + flaw);
  const int64_t node_bytes = (n_contexts_ + 1) * static_cast<int64_t>(sizeof(ContextNode));
  const int64_t array_bytes = n_contexts_ + n_entries * entry_bytes();
  const bool copied = node_bytes + array_bytes <= kCopiedBytes;
  memory_ = std::make_shared<TableMemory>(static_cast<size_t>(node_bytes + (copied ? array_bytes : 0)));
  nodes_ = reinterpret_cast<ContextNode*>(memory_->get());
  if (copied) {
    char* out = memory_->get() + node_bytes;
    const auto copy = [&](const void* in, int64_t n_bytes) {
      std::memcpy(out, in, static_cast<size_t>(n_bytes));
      out += n_bytes;
      return out - n_bytes;
    };
    value_ = copy(value, n_entries * (entry_bytes() - 1));  // first: the others need no alignment
    symbol_ = reinterpret_cast<const uint8_t*>(copy(trie.symbol, n_contexts_));
    entry_symbol_ = reinterpret_cast<const uint8_t*>(copy(trie.entry_symbol, n_entries));
  }
  // The levels' ends: what is the child of one level's contexts is the next level.
  dense_end_ = {1};
  while (dense_end_.size() < std::min(kDenseLevels, static_cast<size_t>(trie.depth) + 1)) {
    const uint32_t end = trie.first_child[dense_end_.back()];
    if (static_cast<int64_t>(end) * trie.n_symbols * 4 > kDenseBytes) break;
    dense_end_.push_back(end);
  }
  integer ? lay_out<int32_t, int16_t>(trie) : lay_out<float, float>(trie);
}

template <class T, class Value> void Contexts::lay_out(const ContextTrie& trie) {
  const auto* value = static_cast<const Value*>(value_);
  for (int64_t c = 0; c <= n_contexts_; ++c) {
    ContextNode& node = nodes_[c];
    node.first_child = trie.first_child[c];
    node.first_entry = trie.first_entry[c];
    if (c == n_contexts_) break;
    if (trie.first_entry[c + 1] == trie.first_entry[c]) continue;
    node.value = std::bit_cast<int32_t>(static_cast<T>(value[node.first_entry]));
    node.entry_symbol = trie.entry_symbol[node.first_entry];
  }

  const auto V = static_cast<size_t>(n_symbols_);
  std::vector<T> row(dense_end_.back() * V, T{0});
  add_row<T, Value>(0, row.data());
  for (uint32_t parent = 0; dense_end_.size() > 1 && parent < dense_end_[dense_end_.size() - 2]; ++parent) {
    for (uint32_t child = nodes_[parent].first_child; child < nodes_[parent + 1].first_child; ++child) {
      std::copy_n(row.data() + parent * V, V, row.data() + child * V);
      add_row<T, Value>(child, row.data() + child * V);
    }
  }
  dense_.resize(row.size());
  std::transform(row.begin(), row.end(), dense_.begin(), [](T x) { return std::bit_cast<int32_t>(x); });
  if (dense_end_.size() < kDenseLevels) return;
  pairs_.resize(V * V);
  for (size_t latest = 0; latest < V; ++latest) {
    const uint32_t of_latest = child_of(0, static_cast<uint8_t>(latest));
    for (size_t before = 0; before < V; ++before) {
      const uint32_t of_both = of_latest ? child_of(of_latest, static_cast<uint8_t>(before)) : 0;
      pairs_[latest * V + before] = of_both ? of_both : of_latest;
    }
  }
}

int Contexts::level_of_dense(uint32_t context) const {
  return static_cast<int>(std::upper_bound(dense_end_.begin(), dense_end_.end(), context) - dense_end_.begin());
}

uint32_t Contexts::child_of(uint32_t context, uint8_t symbol) const {
  uint32_t first = nodes_[context].first_child, n = nodes_[context + 1].first_child - first;
  if (n == 0) return 0;  // the empty context is no one's child
  while (n > 1) {
    const uint32_t half = n / 2;
    first += symbol_[first + half] <= symbol ? half : 0;
    n -= half;
  }
  return symbol_[first] == symbol ? first : 0;
}

int Contexts::n_halvings(uint32_t context) const {
  const uint32_t n = nodes_[context + 1].first_child - nodes_[context].first_child;
  return n > 0 ? std::bit_width(n - 1) + 1 : 0;
}

void Contexts::push(History& history, int64_t token) const {
  history.state.advance(letter_[static_cast<size_t>(token)]);
  history.state.bytes(ContextList::kText, history.symbols.data());
  history.n_known = kMaxContext;
}

Path Contexts::begin(const History& history) const {
  Path path;
  if (!pairs_.empty() && history.n_known >= 2) {
    const int64_t at = int64_t{history.symbols[0]} * n_symbols_ + history.symbols[1];
    path.deepest = path.dense = pairs_[static_cast<size_t>(at)];
    path.n_bytes = 2;
    path.complete = path.deepest < dense_end_[1];
  }
  path.complete = path.complete || path.n_bytes >= std::min(depth_, history.n_known);
  return path;
}

void Contexts::step(const History& history, Path& path) const {
  if (path.complete) return;
  if (path.n > 0) {  // the node is here now: its further entries may come
    const uint32_t second = nodes_[path.deepest].first_entry + 1;
    if (second < nodes_[path.deepest + 1].first_entry) {
      __builtin_prefetch(entry_symbol_ + second);
      __builtin_prefetch(static_cast<const char*>(value_) + second * (entry_bytes() - 1));
    }
  }
  const uint32_t context = child_of(path.deepest, history.symbols[static_cast<size_t>(path.n_bytes)]);
  ++path.n_bytes;
  path.complete = context == 0 || path.n_bytes >= std::min(depth_, history.n_known);
  if (context == 0) return;
  path.deepest = context;
  __builtin_prefetch(nodes_ + context);
  __builtin_prefetch(nodes_ + context + 1);  // where its children and entries end
  if (context < dense_end_.back()) {
    path.dense = context;
    return;
  }
  path.context[static_cast<size_t>(path.n++)] = context;
}

int64_t Contexts::n_lines(uint32_t context) const {
  const int64_t second = nodes_[context].first_entry + 1, end = nodes_[context + 1].first_entry;
  if (second >= end) return 0;
  const auto lines = [&](const void* array, int64_t size) {
    const auto begin = reinterpret_cast<uintptr_t>(array);
    return static_cast<int64_t>((begin + static_cast<uintptr_t>(end * size) - 1) / kLineBytes -
                                (begin + static_cast<uintptr_t>(second * size)) / kLineBytes + 1);
  };
  return lines(entry_symbol_, 1) + lines(value_, entry_bytes() - 1);
}

int64_t Contexts::n_bytes_read(const History& history) const {
  Path path = begin(history);
  int64_t n = 0;
  while (!path.complete) {
    n += static_cast<int64_t>(sizeof(ContextNode)) + n_halvings(path.deepest);
    step(history, path);
  }
  return n;
}

template <class T, class Value> void Contexts::add_row(uint32_t context, T* y) const {
  const ContextNode& node = nodes_[context];
  const uint32_t end = nodes_[context + 1].first_entry;
  if (node.first_entry == end) return;
  y[node.entry_symbol] += std::bit_cast<T>(node.value);
  const auto* value = static_cast<const Value*>(value_);
  for (uint32_t e = node.first_entry + 1; e < end; ++e) y[entry_symbol_[e]] += static_cast<T>(value[e]);
}

void Contexts::add(const Path& path, float* sums, float* logits) const {
  const auto V = static_cast<size_t>(n_symbols_);
  const int32_t* dense = dense_row(path.dense);
  std::transform(dense, dense + V, sums, [](int32_t bits) { return std::bit_cast<float>(bits); });
  for (int m = 0; m < path.n; ++m) add_row<float, float>(path.context[static_cast<size_t>(m)], sums);
  for (size_t k = 0; k < V; ++k) logits[k] += sums[k];
}

void Contexts::add(const Path& path, int32_t* logits) const {
  const auto V = static_cast<size_t>(n_symbols_);
  const int32_t* dense = dense_row(path.dense);
  for (size_t k = 0; k < V; ++k) logits[k] += dense[k];
  for (int m = 0; m < path.n; ++m) add_row<int32_t, int16_t>(path.context[static_cast<size_t>(m)], logits);
}

}  // namespace polychron::runtime
