// Groups a table's readings by row, so that equal rows' gradients are summed before the row is touched.
#pragma once

#include <cstdint>
#include <vector>

#include "contract.hpp"

namespace polychron {

// Scratch of one worker, grown as needed and kept between tables.
class RowSorter {
 public:
  // Stable: within a group readings ascend. The result points into this object until the next call.
  RowGroups sort(const int32_t* row, int64_t n_readings, int64_t n_rows);

 private:
  // counts_: where the readings of each digit begin.
  void count(const int32_t* row, int64_t n_readings, int shift, uint32_t mask);
  void sort_by_digits(const int32_t* row, int64_t n_readings, int n_passes, int digit);

  std::vector<int32_t> order_, begin_, rows_, counts_;
  std::vector<uint64_t> packed_[2];  // row and reading
};

}  // namespace polychron
