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
  void counting_pass(const int32_t* row, int64_t n_readings, int shift, uint32_t mask, const int32_t* from, int32_t* to);

  std::vector<int32_t> order_, spare_, begin_, rows_, counts_;
};

}  // namespace polychron
