// The backward pass of one table: gains of the readings, then whatever is to become of the rows' gradient.
//
// Legend: I table, J row, K output.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.hpp"
#include "contract.hpp"
#include "sort_rows.hpp"

namespace polychron {

// What becomes of the gradient of the rows.
struct TableUpdate {
  enum class Kind { none, dense, sparse, sgd, adagrad, adam, online_sgd };
  Kind kind = Kind::none;
  float rate = 0.0f;
  float epsilon = 0.0f;
  float visit_cap = 0.0f;     // sgd: a row read more often than this in a step moves as if read this often
  uint32_t seed = 0;          // of the rounding of bfloat16 rows in this step
  float* state = nullptr;     // adagrad: (I, J); adam: (I, J, K + kAdamNumbers)
  float* dense = nullptr;     // dense: (I, J, K), not padded, zero where no row is read
  // sparse: per table, the rows that were read, ascending, and their gradients (n_rows_read, K)
  std::vector<std::vector<int32_t>>* sparse_rows = nullptr;
  std::vector<std::vector<float>>* sparse_values = nullptr;
  float beta1 = 0.0f, rest1 = 1.0f, beta2 = 0.0f, rest2 = 1.0f;  // adam; rest is 1 - beta
};

// Of Adam: beta1, 1 - beta1, beta2, 1 - beta2. Throws std::invalid_argument unless there are four.
void set_betas(TableUpdate&, const std::vector<float>& betas);

// What becomes of the summed gradients of some rows of one table: group q is `merged`'s row q. Of kind sparse the rows
// follow those that were given before. Not for online_sgd, which has no sums.
void update_rows(int64_t table_index, const TableRows&, int64_t n_rows, const RowGroups&, const float* merged,
                 const TableUpdate&);

// Throws std::invalid_argument unless every row lies in [0, n_rows).
void check_rows(const int32_t* row, int64_t n_readings, int64_t n_rows);

// One table's gains and update, by the thread that owns the table in this step. Throws std::invalid_argument when a
// row lies outside the table.
class TableOwner {
 public:
  TableOwner(int64_t n_readings, int64_t n_rows, int64_t n_outputs);
  void apply(int64_t table_index, const Readings&, const TableUpdate&);

 private:
  int64_t n_rows_;
  RowSorter sorter_;
  Buffer<float> merged_;
};

}  // namespace polychron
