// Drivers of the layer of look-up tables: hash, gather, gradients, updates. They cut work into tasks for the pool.
//
// Legend: B sequence, T position, P = B * T flat position, I table, R comparison, J row, K output, D delay.
// Rows of tables, and of v and y where a stride is given, begin that many numbers apart: see contract.hpp.
#pragma once

#include <cstdint>
#include <vector>

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

struct Tables {
  void* data;                 // (., J, row_stride)
  int64_t n_rows, n_outputs, row_stride;
  RowType type = RowType::float32;
  const int32_t* which = nullptr;  // (I) the tables that are used, ascending; null: the first I

  int64_t index(int64_t i) const { return which ? which[i] : i; }
  int64_t table_bytes() const { return n_rows * row_stride * row_number_bytes(type); }
  void* table(int64_t i) const { return static_cast<char*>(data) + index(i) * table_bytes(); }
  bool far() const { return table_bytes() > kSecondLevelBytes; }
};

// Fewer additions of floats take one thread some 60 us at most: waking another, which the system may have put to sleep,
// costs as much as it brings. (Nor is less of it shared with one that is awake: as often as it gains, it waits.)
constexpr int64_t kFloatsWorthWaking = 1 << 20;
inline int threads_worth_waking(int64_t floats, int n_threads) { return floats < kFloatsWorthWaking ? 1 : n_threads; }

struct Addresses {            // each (I, plane); pair and u null where not wanted
  int32_t* row;
  uint8_t* pair;
  float* u;
  int64_t plane;
};

struct ConstAddresses {       // each (I, P)
  const int32_t* row;
  const uint8_t* pair;
  const float* u;
};

// Anchors as the kernel reads them: made once, used for any number of tiles. A tile is a run of positions whose
// latencies stay in the first-level cache while all tables read them.
class Hasher {
 public:
  Hasher(const Anchors&, int64_t n_inputs);

  int64_t n_comparisons() const { return n_comparisons_; }
  int64_t tile() const { return tile_; }
  int64_t max_delay() const { return max_delay_; }
  int64_t scratch_floats() const { return static_cast<int64_t>(neurons_.size()) * stride_; }

  // Positions [t_begin, t_begin + count) of one sequence, count <= tile(); `out` stands at the sequence's first
  // position. The scratch belongs to the caller's thread and must have been 0 once.
  void tile_of(const Latencies&, int64_t sequence, int64_t t_begin, int64_t count, const Addresses& out,
               float* scratch) const;
  // Flat positions [begin, end), of any sequences; `out` stands at flat position 0. Same scratch.
  void positions(const Latencies&, int64_t begin, int64_t end, const Addresses& out, float* scratch) const;

 private:
  int64_t n_tables_, n_comparisons_, max_delay_, tile_, stride_;
  std::vector<int32_t> neurons_;  // those that are compared, ascending: a tile holds no others
  std::vector<int32_t> offset_a_, offset_b_;
};

// A sequence's positions do not see each other without delays: all of them then count as one long sequence.
Latencies one_sequence(const Latencies&);

void hash(const Latencies&, const Anchors&, const Addresses&, int n_threads);

// y = [residual +] sum of rows, for all positions.
void gather(const GatherSum&, int64_t n_flat, int n_threads);

// dx[t - d_a, a] += slope, dx[t - d_b, b] -= slope for every table and position, tables ascending; dx (P, n) is
// overwritten, starting from `start` (P, start_stride) or 0, unless `accumulate`.
void scatter(const Anchors&, const uint8_t* pair, const float* slope, int64_t n_sequences, int64_t n_positions,
             int64_t n_inputs, const float* start, int64_t start_stride, float* dx, bool accumulate, int n_threads);

// v (P, v_stride); dx (P, n) or null; it starts from `through` (P, through_stride), what passes the layer by, or 0.
// Tables may be updated in place (TableUpdate).
void lookup_backward(const Tables&, const Anchors&, const ConstAddresses&, const float* v, int64_t v_stride,
                     int64_t n_sequences, int64_t n_positions, int64_t n_inputs, const float* through,
                     int64_t through_stride, float* dx, const TableUpdate&, int n_threads);

}  // namespace polychron
