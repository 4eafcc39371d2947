#include "sort_rows.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <utility>

namespace polychron {
namespace {

// One pass of at most 11 bits: its 2,048 counters stay in the first-level cache.
constexpr int kDigitBits = 11;
constexpr int64_t kFew = 24;  // readings that are sorted by insertion: the counters of a pass take longer

template <class T> void at_least(std::vector<T>& v, int64_t size) {
  if (static_cast<int64_t>(v.size()) < size) v.resize(static_cast<size_t>(size));
}

}  // namespace

void RowSorter::counting_pass(const int32_t* row, int64_t n_readings, int shift, uint32_t mask, const int32_t* from,
                              int32_t* to) {
  counts_.assign(mask + 1, 0);
  for (int64_t m = 0; m < n_readings; ++m) ++counts_[(static_cast<uint32_t>(row[m]) >> shift) & mask];
  int32_t place = 0;
  for (int32_t& count : counts_) place += std::exchange(count, place);
  for (int64_t k = 0; k < n_readings; ++k) {
    const int32_t m = from ? from[k] : static_cast<int32_t>(k);
    to[counts_[(static_cast<uint32_t>(row[m]) >> shift) & mask]++] = m;
  }
}

RowGroups RowSorter::sort(const int32_t* row, int64_t n_readings, int64_t n_rows) {
  at_least(order_, n_readings);
  at_least(spare_, n_readings);
  at_least(rows_, n_readings + 1);
  at_least(begin_, n_readings + 1);

  const int bits = n_rows > 1 ? std::bit_width(static_cast<uint64_t>(n_rows - 1)) : 1;
  // Counting through many more counters than readings would take longer than another pass.
  const int width = static_cast<int>(std::bit_width(static_cast<uint64_t>(n_readings)));
  const int most_bits = std::clamp(width + 1, 5, kDigitBits);
  const int n_passes = (bits + most_bits - 1) / most_bits;
  const int digit = (bits + n_passes - 1) / n_passes;
  const int32_t* from = nullptr;
  if (n_readings <= kFew) {
    for (int32_t m = 0; m < static_cast<int32_t>(n_readings); ++m) {
      int32_t k = m;
      for (; k > 0 && row[order_[static_cast<size_t>(k - 1)]] > row[m]; --k) {
        order_[static_cast<size_t>(k)] = order_[static_cast<size_t>(k - 1)];
      }
      order_[static_cast<size_t>(k)] = m;
    }
    from = order_.data();
  }
  for (int pass = 0; pass < n_passes && n_readings > kFew; ++pass) {
    int32_t* to = pass % 2 == 0 ? order_.data() : spare_.data();
    counting_pass(row, n_readings, pass * digit, (uint32_t{1} << digit) - 1, from, to);
    from = to;
  }

  int64_t n_groups = 0;
  if (n_passes == 1 && n_readings > kFew) {  // counts_: where a row's readings end; the next overwrites an empty group
    int32_t begin = 0;
    for (int32_t j = 0; j < static_cast<int32_t>(counts_.size()) && begin < n_readings; ++j) {
      const int32_t end = counts_[static_cast<size_t>(j)];
      rows_[n_groups] = j;
      begin_[n_groups] = begin;
      n_groups += end > begin;
      begin = end;
    }
  } else {
    int32_t before = -1;
    for (int64_t k = 0; k < n_readings; ++k) {
      const int32_t here = row[from[k]];
      const bool is_new = here != before;
      n_groups += is_new;
      rows_[n_groups - 1] = here;
      if (is_new) begin_[n_groups - 1] = static_cast<int32_t>(k);
      before = here;
    }
  }
  begin_[n_groups] = static_cast<int32_t>(n_readings);
  return {from, begin_.data(), rows_.data(), n_groups};
}

}  // namespace polychron
