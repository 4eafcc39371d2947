#include "readout.hpp"

#include <algorithm>

#include "threads.hpp"

namespace polychron {
namespace {

constexpr int64_t kPositions = 256;  // a task's logits stay in the second-level cache between gather and softmax

int64_t n_tasks(int64_t n_flat) { return (n_flat + kPositions - 1) / kPositions; }

}  // namespace

void readout_cross_entropy(const GatherSum& logits, int64_t n_flat, const int64_t* target, float* nats,
                           int n_threads) {
  const int64_t K = logits.n_outputs;
  parallel_for(n_threads, n_tasks(n_flat), [&](int64_t task, int) {
    const int64_t begin = task * kPositions;
    const int64_t end = std::min(n_flat, begin + kPositions);
    kernels().gather_sum(logits, begin, end);
    kernels().softmax_cross_entropy(logits.y + begin * K, target + begin, nats + begin, end - begin, K);
  });
}

void weigh_error(const float* error, const float* weight, int64_t n_flat, int64_t n_outputs, float* out,
                 int n_threads) {
  parallel_for(n_threads, n_tasks(n_flat), [&](int64_t task, int) {
    for (int64_t p = task * kPositions; p < std::min(n_flat, (task + 1) * kPositions); ++p) {
      for (int64_t k = 0; k < n_outputs; ++k) out[p * n_outputs + k] = weight[p] * error[p * n_outputs + k];
    }
  });
}

}  // namespace polychron
