// Driver of the readout with cross-entropy: logits never exist for more than a few positions at a time.
#pragma once

#include <cstdint>

#include "lookup.hpp"

namespace polychron {

// `logits.y` (P, K) receives softmax(logits) - one-hot, the gradient of nats (P) with respect to the logits.
void readout_cross_entropy(const GatherSum& logits, int64_t n_flat, const int64_t* target, float* nats,
                           int n_threads);

// out (P, K) = weight[p] * error[p].
void weigh_error(const float* error, const float* weight, int64_t n_flat, int64_t n_outputs, float* out,
                 int n_threads);

}  // namespace polychron
