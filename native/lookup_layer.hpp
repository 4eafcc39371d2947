// A layer's forward pass in one go: a task hashes its positions and reads their rows while both are in its cache.
//
// Legend: B sequence, T position, P = B * T flat position, I table, K output.
#pragma once

#include <cstdint>

#include "lookup.hpp"

namespace polychron {

// y (P, K) = [residual +] sum of rows. `keep` gets rows, pairs and u of all positions for the backward pass; where its
// row is null they are not kept, and pairs and u never made. Additions run over tables in ascending order for any
// number of threads; little work is done by the caller alone.
void read_layer(const Hasher&, const Latencies&, const Tables&, int64_t n_tables, const float* residual, float* y,
                const Addresses& keep, int n_threads);

}  // namespace polychron
