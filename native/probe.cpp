#include "probe.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "threads.hpp"

namespace polychron {
namespace {

using ReadRange = float (*)(const RowReads&, int64_t begin, int64_t end);

ReadRange of_current_set() {
  [[maybe_unused]] const std::string set = current_kernels();
#if defined(__x86_64__)
  if (set == "avx512") return avx512::read_row_range;
  if (set == "avx2") return avx2::read_row_range;
#elif defined(__aarch64__)
  if (set == "neon") return neon::read_row_range;
#endif
  return scalar::read_row_range;
}

}  // namespace

bool is_probe_width(int64_t row_floats) {
  return row_floats >= 8 && row_floats <= 256 && (row_floats & (row_floats - 1)) == 0;
}

ReadTime read_rows(const RowReads& reads, int64_t n_passes, int n_threads) {
  const ReadRange read_range = of_current_set();
  const int64_t part = (reads.n_reads + n_threads - 1) / n_threads;
  std::vector<float> sums(n_threads, 0.0f);
  const auto began = std::chrono::steady_clock::now();
  parallel_for(n_threads, n_threads, [&](int64_t task, int) {
    const int64_t begin = std::min(reads.n_reads, task * part);
    const int64_t end = std::min(reads.n_reads, begin + part);
    float sum = 0.0f;
    for (int64_t pass = 0; pass < n_passes; ++pass) sum += read_range(reads, begin, end);
    sums[task] = sum;
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
  float sum = 0.0f;
  for (const float part_sum : sums) sum += part_sum;
  return {seconds.count(), sum};
}

}  // namespace polychron
