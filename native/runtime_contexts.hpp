// Counted contexts of one kind for one token at a time: which of them a text ends with, and the sum of their rows.
//
// Rows of contexts that hold many symbols are read often, and so are those of the shortest: such a row is laid out
// densely when the model is loaded, as the sum of it and of all shorter ones. A text's sum begins with the longest such
// row, so that the bits are those of adding row after row. What follows are short rows: longer contexts are looked up by
// their bytes in one table that holds the rows themselves, of which the lines are asked for as soon as the token is
// known. What is too large for copies stays in the mapped file and is found there byte after byte.
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
  const char* values;
  const uint8_t* symbols;
  uint32_t n_entries;
  bool inside;           // what leads to the row holds it
  int64_t number;        // below Contexts::n_rows(), each row its own
};

// The contexts that a text ends with, shallowest first.
struct Path {
  uint64_t bytes;        // of the list, the nearest lowest
  uint32_t dense;        // the last whose row is a sum of all up to it
  int n;                 // those that follow
  std::array<const ContextLine*, kMaxContext> line;  // of each length
  std::array<ContextRow, kMaxContext> rows;
  int64_t n_bytes;       // read to find them
};

class Contexts {
 public:
  // value: (E) float32, or int16 that count the logits' unit; row_width: of dense rows, at least V and a multiple of
  // kOutputPad; what needs more bytes than most_copied stays where it is. Throws std::invalid_argument when the arrays
  // are no trie.
  Contexts(const ContextTrie& trie, const void* value, int64_t n_entries, bool integer, int64_t row_width,
           int64_t most_copied);

  // Asks for what `find` reads, and `find` for what is added. bytes: kMaxContext of this kind's list, 0 behind its end.
  void begin(const uint8_t* bytes, Path&) const;
  void find(Path&) const;
  // y <- y + (rows that follow the dense one). In integers no order matters.
  void add_following(const Path&, float* y) const;
  void add_following(const Path&, int32_t* y) const;

  // Of float32; of integers int16, or int32 where some sum needs it.
  const void* dense_row(uint32_t row) const { return dense_->get() + row * row_width_ * dense_bytes_; }
  bool narrow() const { return dense_bytes_ == sizeof(int16_t); }

  int64_t n_symbols() const { return trie_.n_symbols; }
  int64_t n_rows() const { return n_dense() + (index_ ? index_->n_places() : trie_.n_contexts); }
  int64_t entry_bytes() const { return 1 + (integer_ ? sizeof(int16_t) : sizeof(float)); }
  int64_t dense_bytes() const { return dense_bytes_; }  // of a number
  int length_of_dense(uint32_t row) const { return dense_length_[row]; }  // bytes of the context whose dense row it is
  // Lines of the cache that a row's values and symbols lie in.
  int64_t n_lines(const ContextRow&) const;

 private:
  template <class Dense> struct Layout;

  int64_t n_dense() const { return static_cast<int64_t>(dense_length_.size()); }
  int64_t n_entries(uint32_t context) const { return trie_.first_entry[context + 1] - trie_.first_entry[context]; }
  int64_t value_bytes() const { return entry_bytes() - 1; }
  bool fits(int64_t n_entries) const {  // the index
    return n_entries <= kMostHeld && n_entries * entry_bytes() <= ContextLine::kRoom;
  }

  void plan_short_rows();
  template <class T, class Dense, class Value> bool lay_out(int64_t most_copied);
  template <class T, class Dense, class Value>
  bool add_dense(uint32_t context, int64_t parent_row, int length, Layout<Dense>&);
  template <class T, class Dense, class Value> bool copy(int64_t most_copied, Layout<Dense>&);
  template <class T, class Dense, class Value>
  bool visit(uint32_t context, uint64_t symbols, int length, int64_t parent_row, Layout<Dense>&);
  void copy_entries(uint32_t context, char* out) const;

  uint32_t child_of(uint32_t context, uint8_t symbol) const;  // 0 where there is none
  void find_in_index(Path&) const;
  void find_in_place(Path&) const;
  template <class T, class Value> void add_rows(const Path&, T* y) const;

  ContextTrie trie_;                  // in place
  const char* value_;
  bool integer_;
  int64_t row_width_;
  int64_t dense_bytes_ = 0;
  std::vector<uint32_t> short_end_;   // of each length of which all rows are dense: row numbers are those of contexts
  std::vector<uint8_t> dense_length_; // of each dense row
  std::unique_ptr<TableMemory> dense_;
  // The dense row of a nearest byte, and (256, 256) of it and the next; empty where such rows are not all dense.
  std::vector<uint32_t> of_nearest_, of_two_;
  std::unique_ptr<ContextIndex> index_;   // of all longer ones; null: they are looked for in the trie
  std::unique_ptr<TableMemory> elsewhere_;  // rows too long for the index: values, then symbols, row after row
};

}  // namespace polychron::runtime
