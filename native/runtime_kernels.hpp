// The contract of the runtime's kernels: what one token costs, for every instruction set, with the same bits.
//
// A comparison has no rounding and a row's numbers are added one table after another, each output for itself: whatever
// the width of the vectors, the bits are those of training's kernels (contract.hpp). Rows are as wide as `kRowPad`
// asks, buffers of outputs as wide as `kOutputPad`: no kernel has a partial block.
//
// Legend: I table, R comparison, J row, K output.
#pragma once

#include <cstdint>

namespace polychron::runtime {

constexpr int64_t kHashLanes = 16;  // tables hashed side by side
constexpr int64_t kRowPad = 16;     // a row's width in memory is a multiple of it; 32 for int8
constexpr int64_t kOutputPad = 32;

// The comparisons of a layer, sixteen tables abreast: entry [(g * R + r) * 16 + l] is of table 16 g + l. Beyond the
// last table a neuron is compared with itself: bit 0.
struct HashPlan {
  const int32_t* a;     // where the latency of neuron a stands, from the present ones on; its delay makes it negative
  const int32_t* b;
  const int32_t* first; // (16 n_groups): index of the table's row 0 among the rows of all tables
  int64_t n_groups;
  int64_t n_comparisons;
  bool near;            // every a and b lies in [0, 32): two registers hold all latencies that are compared
};

// Rows to add, by their index among the rows of all tables of a layer.
struct RowList {
  const void* rows;     // row j begins at j * stride elements
  int64_t stride;
  const int32_t* index;
  int64_t n;
  int64_t width;        // outputs, rounded up to the rows' padding
  bool prefetch;        // the tables are larger than a second-level cache
};

// int8 rows index[begin .. end) count 2^shift units.
struct ShiftGroup {
  int32_t begin, end, shift;
};

struct Kernels {
  const char* name;
  // index[i] = first[i] + sum_r (x[a] > x[b]) << r; x may be read at 31 places after the present latencies begin.
  void (*hash_f32)(const HashPlan&, const float* x, int32_t* index);
  void (*hash_i32)(const HashPlan&, const int32_t* x, int32_t* index);
  // index[i] = parts[0][i] | parts[1][i] | ..., i below a multiple of 16.
  void (*join_bits)(const int32_t* const* parts, int64_t n_parts, int64_t n, int32_t* index);
  // index[i] = first[i] | parts[0][i] & mask[i] | parts[1][i] & mask[n + i] | ..., i below n, a multiple of 16.
  void (*join_masked)(const int32_t* const* parts, const int32_t* mask, int64_t n_parts, const int32_t* first, int64_t n,
                      int32_t* index);
  // y[k] = start[k] + rows, in the list's order; y may be start.
  void (*add_f32)(const RowList&, const float* start, float* y);
  void (*add_bf16)(const RowList&, const float* start, float* y);
  // The same in integers, 32 bits wide, row q of a group shifted left; the groups cover the list.
  void (*add_i8)(const RowList&, const ShiftGroup*, int64_t n_groups, const int32_t* start, int32_t* y);
  // y[k] += rows[0][k] + rows[1][k] + ..., in this order; n a multiple of 32.
  void (*add_narrow)(const int16_t* const* rows, int64_t n_rows, int64_t n, int32_t* y);
  void (*add_sums)(const float* const* rows, int64_t n_rows, int64_t n, float* y);
  // The largest of n numbers, n >= 1; of floats NaN, if there is one.
  float (*highest_f32)(const float* logits, int64_t n);
  int32_t (*highest_i32)(const int32_t* units, int64_t n);
  // weight[k] = round(2^22 exp((logit[k] - highest) * coldness)), to nearest, ties to even; n a multiple of 16.
  void (*weigh)(const float* logits, int64_t n, float highest, float coldness, uint32_t* weight);
  // weight[k] = table[min((highest - unit[k]) >> shift, table_size - 1)].
  void (*weigh_units)(const int32_t* units, int64_t n, int32_t highest, const uint32_t* table, uint32_t table_size,
                      int shift, uint32_t* weight);
  // Sums of sixteen weights each, and returns theirs; n a multiple of 16.
  uint32_t (*sum_blocks)(const uint32_t* weight, int64_t n, uint32_t* sums);
  // Sum of the weights that come before a token's in descending order, equals by their place.
  uint32_t (*sum_before)(const uint32_t* weight, int64_t n, int64_t token);
};

// Those of the instruction set that dispatch.hpp has chosen.
const Kernels& kernels();

namespace scalar { extern const Kernels kernels; }
#if defined(__x86_64__)
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
#endif

}  // namespace polychron::runtime
