// What a stream does for a text, counted while it is done: for whoever doubts a prediction.
//
// A counting stream runs the usual kernels; before each it walks the list of work that the kernel is given. Streams that
// do not count have kernels of their own and pay one branch a layer.
#pragma once

#include <cstdint>
#include <vector>

#include "recent_tables.hpp"
#include "runtime_model.hpp"

namespace polychron::runtime {

struct Counts {
  int64_t comparisons = 0;    // of two latencies
  int64_t filler = 0;         // of a latency with itself, to fill the last register
  int64_t latency_bytes = 0;  // of what was compared, filler left out
  int64_t joined = 0;         // bits of rows that tokens or earlier comparisons say, a number a table and delay
  int64_t keys = 0;           // remembered indices joined with a query's
  int64_t rows = 0;           // read
  int64_t additions = 0;      // numbers of these rows, those that fill a row up to whole registers included
  int64_t row_bytes = 0;      // of these numbers
  int64_t row_lines = 0;      // lines of the cache that they lie in, each row by itself
  int64_t distinct_rows = 0;  // rows read at least once
  int64_t place_bytes = 0;    // of contexts: what was read to find their rows
};

class Counters {
 public:
  explicit Counters(const Model& model);

  void forget();
  const std::vector<Counts>& stages() const { return counts_; }  // the readout, the kinds of contexts beside it, recent tables

  // What this thread's counting kernels do from now on is that stage's.
  void enter(size_t stage);
  void join_keys(int64_t n) { counts_[stage_].keys += n; }

  void hash(const HashPlan&, int64_t latency_size);
  void join(int64_t n_parts, int64_t n) { counts_[stage_].joined += n_parts * n; }
  void add(const RowList&, int64_t element_size);
  // What finding a path and adding its rows took; a dense row is read in place of its level's and the shorter ones'.
  void read_contexts(size_t kind, const Contexts&, const Path&);
  // A place of every recent table; then the cells whose numbers are added.
  void read_places();
  void add_cell(const int32_t* cells, int64_t cell);

 private:
  void read_bytes(const void* begin, int64_t n_bytes);
  void see(int64_t row);

  std::vector<Counts> counts_;
  std::vector<std::vector<bool>> seen_;
  size_t stage_ = 0;
  size_t n_kinds_ = 0;   // of contexts
  size_t n_recent_ = 0;  // 1: there are recent tables
};

// The usual kernels, each after it is counted.
Kernels counting_kernels();

}  // namespace polychron::runtime
