// Counted contexts of one kind for one token at a time: which of them a text ends with, and the sum of their rows.
//
// Rows of the shallowest contexts hold most symbols, and every token reads them: their sums are laid out densely when
// the model is loaded. They are the first that are added, so that the bits are those of adding row after row. All
// longer ones are looked up by their bytes in one table, of which the lines are asked for as soon as the token is known;
// a row's values and symbols stand together, and are asked for when its place has come. What is too large for copies
// stays in the mapped file and is found there byte after byte.
//
// Legend: V token, C context, E entry.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "context_tables.hpp"
#include "runtime_context_index.hpp"
#include "runtime_memory.hpp"

namespace polychron::runtime {

struct ContextRow {
  uint32_t first_entry;  // where it is `inside`, the value of its one entry
  uint16_t n_entries;
  uint16_t symbol;       // where it is `inside`
  bool inside;           // what leads to the row holds it
  int64_t number;        // below Contexts::n_rows(), each row its own
};

// The contexts that a text ends with, shallowest first.
struct Path {
  uint64_t bytes = 0;    // of the list, the nearest lowest
  uint32_t dense = 0;    // the last whose row is a sum of all up to it
  int length = 0;        // bytes of the longest that may have been met
  int n = 0;             // those that follow
  std::array<ContextRow, kMaxContext> rows;
  int64_t n_bytes = 0;   // read to find them
};

class Contexts {
 public:
  // value: (E) float32, or int16 that count the logits' unit; row_width: of dense rows, at least V; what needs more bytes
  // than most_copied stays where it is. Throws std::invalid_argument when the arrays are no trie.
  Contexts(const ContextTrie& trie, ContextList list, const void* value, int64_t n_entries, bool integer,
           int64_t row_width, int64_t most_copied);

  // Asks for what `find` reads, and `find` for what `add` reads.
  Path begin(const ContextState&) const;
  void find(Path&) const;
  // sums (V) <- the sum of the path's rows, in their order.
  void sum(const Path&, float* sums) const;
  // logits <- logits + (rows that follow the dense one). In integers no order matters.
  void add_following(const Path&, int32_t* logits) const;

  int64_t n_symbols() const { return trie_.n_symbols; }
  int64_t n_rows() const { return n_dense() + (index_ ? index_->n_places() : trie_.n_contexts); }
  int64_t entry_bytes() const { return 1 + (integer_ ? sizeof(int16_t) : sizeof(float)); }
  const int32_t* dense_row(uint32_t context) const { return dense_.data() + context * row_width_; }
  int length_of_dense(uint32_t context) const;  // bytes of the context whose dense row it is
  // Lines of the cache that a row's values and symbols lie in.
  int64_t n_lines(const ContextRow&) const;

 private:
  template <class T, class Value> void add_dense(const void* value);
  void lay_out_dense(const void* value);
  bool copy(const void* value, int64_t n_entries);
  template <class T, class Value> void add_row(const ContextRow&, T* y) const;
  int64_t n_dense() const { return dense_end_.back(); }
  uint32_t child_of(uint32_t context, uint8_t symbol) const;  // 0 where there is none
  const char* values_of(const ContextRow& row) const;
  const uint8_t* symbols_of(const ContextRow& row) const;

  ContextTrie trie_;                 // in place
  const void* value_;
  ContextList list_;
  bool integer_;
  int64_t row_width_;
  std::vector<uint32_t> dense_end_;  // of each length whose rows are dense
  std::vector<int32_t> dense_;       // (contexts, row width) float32 bits or int32
  // The dense context of a nearest byte, and (256, 256) of it and the next; empty where such rows are not dense.
  std::vector<uint32_t> of_nearest_, of_two_;
  std::unique_ptr<ContextIndex> index_;   // of all others; null: they are looked for in the trie
  std::unique_ptr<TableMemory> entries_;  // a row's values, then its symbols, row after row
};

}  // namespace polychron::runtime
