// The contract of every instruction set: one table of functions, the same signatures, the same bits.
//
// A kernel takes a range and buffers that its caller owns. It starts no thread, allocates nothing and checks
// nothing: bounds are checked once, in bindings.cpp. The drivers (lookup.cpp, pair_lookup.cpp, readout.cpp) cut the
// work into ranges so that no two threads write one place.
//
// Legend: B sequence, T position, P = B * T flat position, I table, R comparison, J row, K output. The rows of a table
// begin `row_stride` numbers apart, K or more: padded rows do not straddle cache lines. What pads is never read. A row's
// numbers are float32 or bfloat16, as `type` says; all arithmetic is float32.
#pragma once

#include <cstdint>

namespace polychron {

struct Bfloat16 { uint16_t bits; };  // the upper half of a float32

enum class RowType : uint8_t { float32, bfloat16 };

constexpr int64_t row_number_bytes(RowType type) { return type == RowType::float32 ? 4 : 2; }

// Rows of some positions of one sequence, for all tables; pairs and smallest u too, unless null.
struct HashTile {
  const float* latencies;     // (n_inputs, stride): neuron-major; position t of the tile stands at max_delay + t
  const int32_t* offset_a;    // (I, R): where in `latencies` neuron a stands, its delay subtracted, for position 0
  const int32_t* offset_b;    // (I, R)
  int64_t n_tables;
  int64_t n_comparisons;
  int64_t n_positions;        // `latencies` may be read up to the next multiple of 16
  int32_t* row;               // (I, plane): written at [i * plane + t]
  uint8_t* pair;              // likewise: r of the smallest |u|, the first one on a tie; null: not wanted, nor is u
  float* u;                   // likewise: that u (of u = 0 either zero)
  int64_t plane;
};

// y[p] = residual[p] + sum_i S[i, row[i, p]], tables ascending.
struct GatherSum {
  const void* tables;         // (I, J, row_stride)
  int64_t n_tables, n_rows, n_outputs, row_stride;
  const int32_t* which;       // (I) the tables that are read, or null: all, in order
  const int32_t* row;         // (I, plane)
  int64_t plane;
  const float* residual;      // (P, y_stride) or null
  float* y;                   // (P, y_stride)
  int64_t y_stride;
  RowType type = RowType::float32;
};

// One table's addresses of queries, keys and relative positions, every bit where it stands in a row's index, and what
// becomes of pairs of positions. Of keys and relative positions up to 15 beyond the last are read, of listed readings
// written. Flips and distances are null where only rows are wanted, lists where they are not.
struct TablePairs {
  const int32_t *query, *query_flip;  // (P)
  const float* query_distance;        // (P): |u|, how far from flipping
  const int32_t *key, *key_flip;      // (keys)
  const float* key_distance;
  const int32_t *code, *code_flip;    // (D)
  const float* code_distance;
  bool nearest;                       // where the relative position is nearest to flipping, only it has a neighbour row
  int32_t *row, *source;              // (M)
  int32_t* flipped[2];                // (M): of query or key, and of the relative position; -1: none
};

// n readings from m on: query p with the keys and relative positions from two places on.
struct PairRun { int32_t p, key, code, n, m; };

// One table's readings, in the order of the sequence: reading m read row[m] and its output's gradient is v[source[m]].
// A reading has up to two neighbour rows whose gain g = v . (S[flipped] - S[row]) is wanted; -1 stands for none.
struct Readings {
  void* table;                // (J, row_stride)
  int64_t n_outputs, row_stride;
  int64_t n_readings;
  const int32_t* row;         // (M)
  const int32_t* source;      // (M), or null: m itself
  bool far;                   // the table is larger than the second-level cache
  const float* v;             // (P, v_stride)
  int64_t v_stride;
  const int32_t* flipped[2];  // (M) or null
  float* gain[2];             // (M) or null
  RowType type = RowType::float32;
};

// What Adam moves rows by. `rest` is 1 - beta, rounded once.
struct AdamStep {
  float rate, epsilon, beta1, rest1, beta2, rest2;
};
inline constexpr int64_t kAdamNumbers = 3;  // of a row's state, after a number for each output

// Readings grouped by row: group q is order[begin[q] .. begin[q + 1]), all of row rows[q], m ascending.
struct RowGroups {
  const int32_t* order;
  const int32_t* begin;
  const int32_t* rows;
  int64_t n_groups;
};

constexpr int64_t kSecondLevelBytes = 1024 * 1024;

// bfloat16 rows are rounded stochastically when they change: up or down by chance, right on average. The chance of each
// number is a function of the seed, its row and its column; see store_row in kernels.inl.
struct TableRows {
  void* table;                // (J, row_stride)
  int64_t n_outputs, row_stride;
  RowType type = RowType::float32;
  uint32_t seed = 0;          // of this table in this step
};

inline int64_t merged_stride(int64_t n_outputs) { return (n_outputs + 15) / 16 * 16; }

struct Kernels {
  const char* name;
  void (*hash_tile)(const HashTile&);
  void (*gather_sum)(const GatherSum&, int64_t p_begin, int64_t p_end);
  // y += the rows of a run's pairs, j ascending. `next` will come next: its rows are asked for.
  void (*sum_pairs)(const TablePairs&, const TableRows&, const PairRun&, const PairRun& next, float* y);
  // Gains of a run's pairs, v (P, K): gain[m + j] = v[p] . (S[flipped] - S[row]), unless null, and code_gains[m + j]
  // likewise; 0 where list_pairs has no neighbour row. `next` as above.
  void (*pair_gains)(const TablePairs&, const TableRows&, const PairRun&, const PairRun& next, const float* v,
                     float* gain, float* code_gains);
  // merged[place[j]] += v, j ascending; rows of `merged` are merged_stride(n_outputs) apart.
  void (*add_to_rows)(const float* v, int64_t n_outputs, const int32_t* place, int64_t n, float* merged);
  // Rows, sources and neighbour rows of a run of pairs: of query and key the one nearer to flipping, ties going to the
  // key; of the relative position where it is strictly nearer than both.
  void (*list_pairs)(const TablePairs&, const PairRun&);
  // code_gain[code + j] += code_gains[m + j], and key_gain[key + j] += gain[m + j] where the key was flipped; returns the
  // sum of gain[m + j] where the query was, j ascending.
  float (*route_pairs)(const TablePairs&, const PairRun&, const float* gain, const float* code_gains, float* key_gain,
                       float* code_gain);
  // Gains of all readings, and merged[q] = the sum of v over group q, m ascending; rows of `merged` are
  // merged_stride(n_outputs) apart. The table is only read.
  void (*merge_rows)(const Readings&, const RowGroups&, float* merged);
  // Readings one after another, each gain from the table as earlier readings left it; S[row] -= rate * v. float32 only.
  void (*online_sgd)(const Readings&, float rate);
  // S[rows[q]] -= rate * min(1, visit_cap / n_q) * merged[q], n_q the readings in group q.
  void (*update_sgd)(const TableRows&, const RowGroups&, const float* merged, float rate, float visit_cap);
  // state[rows[q]] += mean_k merged[q]^2; S[rows[q]] -= rate * merged[q] / (sqrt(state[rows[q]]) + epsilon).
  void (*update_adagrad)(const TableRows&, const RowGroups&, const float* merged, float* state, float rate,
                         float epsilon);
  // Of row j = rows[q], with G = merged[q] and state[j] its n_outputs + kAdamNumbers numbers, m and then v, p, q:
  // m = beta1 m + (1 - beta1) G, v = beta2 v + (1 - beta2) mean_k G^2, p = beta1 p + (1 - beta1),
  // q = beta2 q + (1 - beta2); S[j] -= rate / (p (sqrt(v / q) + epsilon)) * m.
  void (*update_adam)(const TableRows&, const RowGroups&, const float* merged, float* state, const AdamStep&);
  // slope[m] = U'(u[m]) * gain[m], U'(u) = -0.5 sign(u) / (1 + |u|)^2, sign(0) = -1.
  void (*surrogate_slope)(const float* u, const float* gain, float* slope, int64_t count);
  // In place: logits (P, stride) become softmax - one-hot; nats[p] = -log softmax[target[p]].
  void (*softmax_cross_entropy)(float* logits, int64_t stride, const int64_t* target, float* nats,
                                int64_t n_positions, int64_t n_outputs);
  // The same nats; logits stay as they are.
  void (*cross_entropy)(const float* logits, int64_t stride, const int64_t* target, float* nats, int64_t n_positions,
                        int64_t n_outputs);
};

// The best one that this processor runs, unless one was asked for by name; see dispatch.cpp.
const Kernels& kernels();

namespace scalar { extern const Kernels kernels; }
#if defined(__x86_64__)
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
#elif defined(__aarch64__)
namespace neon { extern const Kernels kernels; }
#endif

}  // namespace polychron
