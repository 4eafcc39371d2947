// Drivers of the layer of look-up tables: hash, gather, gradients, updates. They cut work into tasks for the pool.
//
// Legend: B sequence, T position, P = B * T flat position, I table, R comparison, J row, K output, D delay.
#pragma once

#include <cstdint>

#include "buffer.hpp"
#include "table_owner.hpp"

namespace polychron {

struct Latencies {
  const float* x;             // (B, T, n)
  int64_t n_sequences, n_positions, n_inputs;
  const float* history;       // (B, H, n): the H positions before the first; null: none
  int64_t n_history;
};

struct Anchors {
  const int32_t* anchors;     // (I, R, 2), each in [0, n_inputs)
  const int32_t* delays;      // (I, R, 2), each >= 0; null: all 0
  int64_t n_tables, n_comparisons;

  int64_t n_rows() const { return int64_t{1} << n_comparisons; }
  int32_t max_delay() const;
};

struct Addresses {            // each (I, P)
  int32_t* row;
  uint8_t* pair;
  float* u;
};

struct ConstAddresses {
  const int32_t* row;
  const uint8_t* pair;
  const float* u;
};

void hash(const Latencies&, const Anchors&, const Addresses&, int n_threads);

// y = [residual +] sum of rows, for all positions.
void gather(const GatherSum&, int64_t n_flat, int n_threads);

// dx[t - d_a, a] += slope, dx[t - d_b, b] -= slope for every position and table; dx is overwritten, starting from
// `start` (P, n) or 0.
void scatter(const Anchors&, const uint8_t* pair, const float* slope, int64_t n_sequences, int64_t n_positions,
             int64_t n_inputs, const float* start, float* dx, bool accumulate, int n_threads);

// dx (P, n) or null; `residual`: v passes through to dx as well. tables may be updated in place (TableUpdate).
void lookup_backward(float* tables, const Anchors&, const ConstAddresses&, const float* v, int64_t n_sequences,
                     int64_t n_positions, int64_t n_inputs, int64_t n_outputs, bool residual, float* dx,
                     const TableUpdate&, int n_threads);

}  // namespace polychron
