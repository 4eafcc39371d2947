#include "readout.hpp"

#include <algorithm>

#include "threads.hpp"

namespace polychron {
namespace {

// A task's logits stay in the second-level cache between gather and softmax; while they do, a table's rows are read
// several times.
constexpr int64_t kPositions = 1024;

int64_t n_tasks(int64_t n_flat) { return (n_flat + kPositions - 1) / kPositions; }

void add_base(const float* base, int64_t first, int64_t count, int64_t width, float* y, int64_t stride) {
  for (int64_t q = 0; q < count; ++q) {
    for (int64_t k = 0; k < width; ++k) y[q * stride + k] += base[(first + q) * width + k];
  }
}

}  // namespace

void readout_range(const GatherSum& logits, int64_t begin, int64_t end, const int64_t* target, float* nats,
                   float scale, const float* base) {
  for (int64_t p = begin; p < end; p += kPositions) {
    const int64_t last = std::min(end, p + kPositions);
    kernels().gather_sum(logits, p, last);
    if (scale != 1.0f) {
      for (int64_t q = p; q < last; ++q) {
        for (int64_t k = 0; k < logits.n_outputs; ++k) logits.y[q * logits.y_stride + k] *= scale;
      }
    }
    if (base) add_base(base, p, last - p, logits.n_outputs, logits.y + p * logits.y_stride, logits.y_stride);
    kernels().softmax_cross_entropy(logits.y + p * logits.y_stride, logits.y_stride, target + p, nats + p, last - p,
                                    logits.n_outputs);
  }
}

int64_t score_scratch_floats(int64_t n_outputs) { return kPositions * merged_stride(n_outputs); }

void score_range(const GatherSum& logits, int64_t begin, int64_t end, const int64_t* target, float* nats,
                 float* scratch, const float* base) {
  GatherSum some = logits;
  some.y = scratch;
  some.y_stride = merged_stride(logits.n_outputs);
  for (int64_t p = begin; p < end; p += kPositions) {
    const int64_t count = std::min(end - p, kPositions);
    some.row = logits.row + p;
    kernels().gather_sum(some, 0, count);
    if (base) add_base(base, p, count, logits.n_outputs, scratch, some.y_stride);
    kernels().cross_entropy(scratch, some.y_stride, target + p, nats + p, count, logits.n_outputs);
  }
}

void readout_cross_entropy(const GatherSum& logits, int64_t n_flat, const int64_t* target, float* nats,
                           int n_threads) {
  parallel_for(n_threads, n_tasks(n_flat), [&](int64_t task, int) {
    readout_range(logits, task * kPositions, std::min(n_flat, (task + 1) * kPositions), target, nats);
  });
}

void weigh_error(const float* error, const float* weight, int64_t n_flat, int64_t n_outputs, int64_t stride,
                 float* out, int n_threads) {
  parallel_for(n_threads, n_tasks(n_flat), [&](int64_t task, int) {
    for (int64_t p = task * kPositions; p < std::min(n_flat, (task + 1) * kPositions); ++p) {
      for (int64_t k = 0; k < n_outputs; ++k) out[p * stride + k] = weight[p] * error[p * stride + k];
    }
  });
}

}  // namespace polychron
