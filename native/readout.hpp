// Driver of the readout with cross-entropy: logits never exist for more than a few positions at a time.
#pragma once

#include <cstdint>

#include "lookup.hpp"

namespace polychron {

// nats (P); error (P, K) = softmax(logits) - one-hot, the gradient of nats with respect to the logits.
void readout_cross_entropy(const float* tables, const Anchors&, const int32_t* row, int64_t n_flat,
                           int64_t n_outputs, const int64_t* target, float* nats, float* error, int n_threads);

// out (P, K) = weight[p] * error[p].
void weigh_error(const float* error, const float* weight, int64_t n_flat, int64_t n_outputs, float* out,
                 int n_threads);

}  // namespace polychron
