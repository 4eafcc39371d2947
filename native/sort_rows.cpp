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

void RowSorter::count(const int32_t* row, int64_t n_readings, int shift, uint32_t mask) {
  counts_.assign(mask + 1, 0);
  for (int64_t m = 0; m < n_readings; ++m) ++counts_[(static_cast<uint32_t>(row[m]) >> shift) & mask];
  int32_t place = 0;
  for (int32_t& count : counts_) place += std::exchange(count, place);
}

// A reading goes through the passes together with its row: by itself it would have to look that up, at random.
void RowSorter::sort_by_digits(const int32_t* row, int64_t n_readings, int n_passes, int digit) {
  const uint32_t mask = (uint32_t{1} << digit) - 1;
  at_least(packed_[0], n_readings);
  at_least(packed_[1], n_readings);
  count(row, n_readings, 0, mask);
  for (int64_t m = 0; m < n_readings; ++m) {
    const auto j = static_cast<uint32_t>(row[m]);
    packed_[0][static_cast<size_t>(counts_[j & mask]++)] = uint64_t{j} << 32 | static_cast<uint32_t>(m);
  }
  for (int pass = 1; pass < n_passes; ++pass) {
    const uint64_t* from = packed_[(pass - 1) % 2].data();
    uint64_t* to = packed_[pass % 2].data();
    const int shift = pass * digit;
    count(row, n_readings, shift, mask);
    for (int64_t k = 0; k < n_readings; ++k) to[counts_[from[k] >> 32 >> shift & mask]++] = from[k];
  }
}

RowGroups RowSorter::sort(const int32_t* row, int64_t n_readings, int64_t n_rows) {
  at_least(order_, n_readings);
  at_least(rows_, n_readings + 1);
  at_least(begin_, n_readings + 1);

  const int bits = n_rows > 1 ? std::bit_width(static_cast<uint64_t>(n_rows - 1)) : 1;
  // Counting through many more counters than readings would take longer than another pass.
  const int width = static_cast<int>(std::bit_width(static_cast<uint64_t>(n_readings)));
  const int most_bits = std::clamp(width + 1, 5, kDigitBits);
  const int n_passes = (bits + most_bits - 1) / most_bits;
  const int digit = (bits + n_passes - 1) / n_passes;
  int64_t n_groups = 0;
  if (n_readings > kFew && n_passes == 1) {
    const uint32_t mask = (uint32_t{1} << digit) - 1;
    count(row, n_readings, 0, mask);
    for (int64_t m = 0; m < n_readings; ++m) order_[counts_[static_cast<uint32_t>(row[m]) & mask]++] = static_cast<int32_t>(m);
    int32_t begin = 0;  // counts_: where a row's readings end; the next overwrites an empty group
    for (int32_t j = 0; j < static_cast<int32_t>(counts_.size()) && begin < n_readings; ++j) {
      const int32_t end = counts_[static_cast<size_t>(j)];
      rows_[n_groups] = j;
      begin_[n_groups] = begin;
      n_groups += end > begin;
      begin = end;
    }
    begin_[n_groups] = static_cast<int32_t>(n_readings);
    return {order_.data(), begin_.data(), rows_.data(), n_groups};
  }

  int32_t before = -1;
  const auto add = [&](int64_t k, int32_t here) {
    const bool is_new = here != before;
    n_groups += is_new;
    rows_[n_groups - 1] = here;
    if (is_new) begin_[n_groups - 1] = static_cast<int32_t>(k);
    before = here;
  };
  if (n_readings <= kFew) {
    for (int32_t m = 0; m < static_cast<int32_t>(n_readings); ++m) {
      int32_t k = m;
      for (; k > 0 && row[order_[static_cast<size_t>(k - 1)]] > row[m]; --k) {
        order_[static_cast<size_t>(k)] = order_[static_cast<size_t>(k - 1)];
      }
      order_[static_cast<size_t>(k)] = m;
    }
    for (int64_t k = 0; k < n_readings; ++k) add(k, row[order_[k]]);
  } else {
    sort_by_digits(row, n_readings, n_passes, digit);
    const uint64_t* sorted = packed_[(n_passes - 1) % 2].data();
    for (int64_t k = 0; k < n_readings; ++k) {
      order_[k] = static_cast<int32_t>(sorted[k]);
      add(k, static_cast<int32_t>(sorted[k] >> 32));
    }
  }
  begin_[n_groups] = static_cast<int32_t>(n_readings);
  return {order_.data(), begin_.data(), rows_.data(), n_groups};
}

}  // namespace polychron
