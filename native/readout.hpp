// Driver of the readout with cross-entropy: logits never exist for more than a few positions at a time.
#pragma once

#include <cstdint>

#include "lookup.hpp"

namespace polychron {

// `logits.y` (P, y_stride) receives softmax(logits) - one-hot, the gradient of nats (P) with respect to the logits.
void readout_cross_entropy(const GatherSum& logits, int64_t n_flat, const int64_t* target, float* nats,
                           int n_threads);

// The same for the positions [begin, end), by the calling thread.
// Logits are multiplied by `scale` first; then `base` (P, n_outputs) is added, if given.
void readout_range(const GatherSum& logits, int64_t begin, int64_t end, const int64_t* target, float* nats,
                   float scale = 1.0f, const float* base = nullptr);

// nats (P) of the positions [begin, end) alone, by the calling thread: `scratch`, of score_scratch_floats(), holds the
// logits of a few positions at a time; logits.y is not used.
void score_range(const GatherSum& logits, int64_t begin, int64_t end, const int64_t* target, float* nats,
                 float* scratch, const float* base = nullptr);
int64_t score_scratch_floats(int64_t n_outputs);

// out (P, stride) = weight[p] * error[p].
void weigh_error(const float* error, const float* weight, int64_t n_flat, int64_t n_outputs, int64_t stride, float* out,
                 int n_threads);

}  // namespace polychron
