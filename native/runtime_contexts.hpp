// Counted contexts for one token at a time: which of them a text ends with, and their rows added to the logits.
//
// What is read together stands together: a context's places and first entry are one node, on huge pages, so that a step to
// a deeper context costs a line of the cache beside the symbols, of which a line has 64, and most rows' only number costs
// none. Symbols and further entries are copied there, too, or stay in a mapped file where they are large. Rows of the shallowest contexts hold most symbols, and every token reads them: their sums are
// laid out densely when the model is loaded. They are the first that are added, so that the bits are those of adding row
// after row.
//
// Legend: V token, C context, E entry.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "context_tables.hpp"
#include "runtime_memory.hpp"

namespace polychron::runtime {

// What the context of a text is made of.
struct History {
  ContextState state;
  std::array<uint8_t, kMaxContext> symbols{};
  int n_known = 0;  // of the symbols
};

// The contexts that a text ends with, shallowest first. They are found one by one, so that something else can be done while
// the nodes that the next step compares arrive from memory.
struct Path {
  uint32_t dense = 0;    // the last whose row is a sum of all up to it
  int n = 0;             // those that follow
  std::array<uint32_t, kMaxContext> context;
  uint32_t deepest = 0;  // found so far
  int n_bytes = 0;       // of it
  bool complete = false;
};

struct ContextNode {
  uint32_t first_child, first_entry;  // the next node's are the end
  int32_t value;                      // of the first entry: float32 bits, or the logits' units
  int32_t entry_symbol;
};

class Contexts {
 public:
  // letter: (V) what a token adds to a word's hash, 0: it ends the word; value: (E) float32, or int16 that count the logits' unit. Throws std::invalid_argument when the arrays are no trie.
  Contexts(const ContextTrie& trie, const uint8_t* letter, const void* value, int64_t n_entries, bool integer);

  // One token more.
  void push(History&, int64_t token) const;
  Path begin(const History&) const;
  // One byte further, unless the path is complete.
  void step(const History&, Path&) const;
  // logits <- logits + (sum of the path's rows, in their order); sums: (V) room. In integers no order matters.
  void add(const Path&, float* sums, float* logits) const;
  void add(const Path&, int32_t* logits) const;

  int64_t n_symbols() const { return n_symbols_; }
  int64_t n_contexts() const { return n_contexts_; }
  int64_t entry_bytes() const { return 1 + (integer_ ? sizeof(int16_t) : sizeof(float)); }
  uint32_t n_entries(uint32_t context) const { return nodes_[context + 1].first_entry - nodes_[context].first_entry; }
  const int32_t* dense_row(uint32_t context) const { return dense_.data() + context * n_symbols_; }
  int level_of_dense(uint32_t context) const;  // bytes of the context whose dense row it is
  // Lines of the cache that a row's entries lie in beside its node.
  int64_t n_lines(uint32_t context) const;
  // Bytes of symbols and nodes that are read to find a path.
  int64_t n_bytes_read(const History&) const;

 private:
  uint32_t child_of(uint32_t context, uint8_t symbol) const;  // 0 where there is none
  int n_halvings(uint32_t context) const;
  template <class T, class Value> void lay_out(const ContextTrie&);
  template <class T, class Value> void add_row(uint32_t context, T* y) const;

  int64_t n_symbols_, n_contexts_;
  int depth_;
  bool integer_;
  std::vector<uint8_t> letter_;
  const uint8_t *symbol_, *entry_symbol_;
  const void* value_;
  std::shared_ptr<TableMemory> memory_;
  ContextNode* nodes_;               // (C + 1)
  std::vector<uint32_t> dense_end_;  // of each level whose rows are dense
  std::vector<int32_t> dense_;       // (contexts, V) float32 bits or int32
  std::vector<uint32_t> pairs_;      // (V, V) the context of the latest and the token before it, where their rows are dense
};

}  // namespace polychron::runtime
