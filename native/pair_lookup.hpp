// Drivers of the transformer's attention: one table row per pair of positions (paper, equations 14 and 15).
//
// Legend: B sequence, T position, P = B * T flat position, I table, R comparison, J row, K output, D distance.
// A row's index: query bits, then key bits, then the bits of the relative position, which are the lowest.
#pragma once

#include <cstdint>
#include <vector>

#include "lookup.hpp"
#include "sort_rows.hpp"

namespace polychron {

struct PairShape {
  int64_t n_sequences, n_positions, n_inputs, n_outputs, n_tables;
  int64_t n_query, n_key, n_code;  // comparisons of query, key and relative position
  int64_t n_distances;
  int64_t window;                  // a position attends to at most this many before it
  int64_t n_past = 0;              // positions before the first that have keys only

  int64_t n_flat() const { return n_sequences * n_positions; }
  int64_t n_keys() const { return n_sequences * (n_past + n_positions); }
  int64_t n_rows() const { return int64_t{1} << (n_query + n_key + n_code); }
};

enum class PositionGradient { additional, nearest };

// The relative-position code as addresses: each value compared with 0. Outputs (I, D).
void hash_position_code(const PairShape&, const float* code, int32_t* row, uint8_t* pair, float* u);

// One worker's scratch for some positions' pairs, made once.
struct PairScratch {
  explicit PairScratch(const PairShape&);
  std::vector<PairRun> runs;
  Buffer<int32_t> query, key, code;  // a table's addresses, every bit where it stands in a row's index
  RowSorter by_query;
};

// pair_gather for the flat positions [p_begin, p_end).
void pair_gather_range(const PairShape&, const Tables&, const int32_t* query_row, const int32_t* key_row,
                       const int32_t* code_row, float* y, int64_t p_begin, int64_t p_end, PairScratch&);

// y (P, K) += sum over earlier positions and tables of one row each. query_row (I, B, T), key_row (I, B, n_past + T).
void pair_gather(const PairShape&, const Tables&, const int32_t* query_row, const int32_t* key_row,
                 const int32_t* code_row, float* y, int n_threads);

struct PairGradients {
  float* query_slope;    // (I, P), or null when not wanted; with shared anchors the key's share is in here too
  float* key_slope;      // (I, P), or null: not wanted, or anchors are shared
  float* code;           // (I, D, n_code)
};

// Throws std::invalid_argument when a row lies outside the tables.
void pair_backward(const PairShape&, const Tables&, const ConstAddresses& query, const ConstAddresses& key,
                   const ConstAddresses& code, const float* v, PositionGradient, const PairGradients&,
                   const TableUpdate&, int n_threads);

// The same with the way back to the latencies: dx (P, n) or null; `residual`: v passes through to it as well.
// key_anchors null: keys share the query's, key is then the query's addresses.
void pair_latency_backward(const PairShape&, const Tables&, const Anchors& anchors, const Anchors* key_anchors,
                           const ConstAddresses& query, const ConstAddresses& key, const ConstAddresses& code,
                           const float* v, PositionGradient, bool residual, float* dx, float* code_gradient,
                           const TableUpdate&, int n_threads);

}  // namespace polychron
