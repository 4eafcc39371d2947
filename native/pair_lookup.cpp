#include "pair_lookup.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "threads.hpp"

namespace polychron {
namespace {

// Calls visit(p, s, d) for each pair of the positions [p_begin, p_end): p attends to the key s, d positions earlier.
template <class Visit>
void for_pairs(const PairShape& shape, int64_t p_begin, int64_t p_end, const Visit& visit) {
  for (int64_t p = p_begin; p < p_end; ++p) {
    const int64_t sequence = p / shape.n_positions;
    const int64_t key = p + (sequence + 1) * shape.n_past;  // where p itself stands among the keys
    const int64_t furthest = std::min(p % shape.n_positions + shape.n_past, shape.window);
    for (int64_t d = furthest; d >= 1; --d) visit(p, key - d, d);
  }
}

int64_t count_pairs(const PairShape& shape) {
  int64_t in_sequence = 0;
  for (int64_t t = 0; t < shape.n_positions; ++t) in_sequence += std::min(t, shape.window);
  return in_sequence * shape.n_sequences;
}

int32_t concatenate(const PairShape& shape, int32_t query, int32_t key, int32_t code) {
  return (query << (shape.n_key + shape.n_code)) | (key << shape.n_code) | code;
}

struct OneTable {  // the addresses of one table
  const int32_t *query_row, *key_row, *code_row;
  const uint8_t *query_pair, *key_pair, *code_pair;
  const float *query_u, *key_u, *code_u;

  bool code_is_nearest(int64_t p, int64_t s, int64_t d) const {
    const float code = std::fabs(code_u[d]);
    return code < std::fabs(query_u[p]) && code < std::fabs(key_u[s]);
  }
  bool query_is_nearer(int64_t p, int64_t s) const { return std::fabs(query_u[p]) < std::fabs(key_u[s]); }
};

// One worker's arrays over all readings of a table.
struct PairReadings {
  TableOwner owner;
  Buffer<int32_t> row, source, flipped, flipped_code;
  Buffer<float> gain, gain_code, code_gain;

  PairReadings(const PairShape& shape, int64_t n)
      : owner(n, shape.n_rows(), shape.n_outputs), row(n), source(n), flipped(n), flipped_code(n), gain(n),
        gain_code(n), code_gain(shape.n_distances) {}
};

}  // namespace

void hash_position_code(const PairShape& shape, const float* code, int32_t* row, uint8_t* pair, float* u) {
  for (int64_t e = 0; e < shape.n_tables * shape.n_distances; ++e) {
    const float* value = code + e * shape.n_code;
    row[e] = 0;
    pair[e] = 0;
    u[e] = shape.n_code > 0 ? value[0] : INFINITY;
    float smallest = INFINITY;
    for (int64_t r = 0; r < shape.n_code; ++r) {
      row[e] |= static_cast<int32_t>(value[r] > 0.0f) << r;
      if (std::fabs(value[r]) < smallest) {
        smallest = std::fabs(value[r]);
        pair[e] = static_cast<uint8_t>(r);
        u[e] = value[r];
      }
    }
  }
}

void pair_gather(const PairShape& shape, const float* tables, const int32_t* query_row, const int32_t* key_row,
                 const int32_t* code_row, float* y, int n_threads) {
  const int64_t n_flat = shape.n_flat();
  const int64_t chunk = std::max<int64_t>(1, n_flat / (int64_t{n_threads} * 8));
  const int64_t n_tasks = (n_flat + chunk - 1) / chunk;
  const int64_t most = chunk * std::min(shape.window, shape.n_past + shape.n_positions);
  struct Lists { Buffer<int32_t> rows, begin; };
  std::vector<Lists> workers;
  for (int w = 0; w < n_threads; ++w) workers.push_back({Buffer<int32_t>(most), Buffer<int32_t>(chunk + 1)});

  parallel_for(n_threads, n_tasks, [&](int64_t task, int w) {
    const int64_t p_begin = task * chunk;
    const int64_t p_end = std::min(n_flat, p_begin + chunk);
    int32_t* rows = workers[w].rows.get();
    int32_t* begin = workers[w].begin.get();
    for (int64_t i = 0; i < shape.n_tables; ++i) {
      int32_t m = 0;
      for (int64_t p = p_begin; p < p_end; ++p) {
        begin[p - p_begin] = m;
        for_pairs(shape, p, p + 1, [&](int64_t, int64_t s, int64_t d) {
          rows[m++] = concatenate(shape, query_row[i * n_flat + p], key_row[i * shape.n_keys() + s],
                                  code_row[i * shape.n_distances + d]);
        });
      }
      begin[p_end - p_begin] = m;
      kernels().sum_row_lists({tables + i * shape.n_rows() * shape.n_outputs, shape.n_outputs, rows, begin,
                               p_end - p_begin, y + p_begin * shape.n_outputs});
    }
  });
}

void pair_backward(const PairShape& shape, float* tables, const ConstAddresses& query, const ConstAddresses& key,
                   const ConstAddresses& code, const float* v, PositionGradient position_gradient,
                   const PairGradients& out, const TableUpdate& update, int n_threads) {
  const int64_t n_flat = shape.n_flat();
  const int64_t n_readings = count_pairs(shape);
  const int64_t n_distances = shape.n_distances;
  const bool shared = out.key_slope == nullptr;
  std::vector<PairReadings> workers;
  for (int w = 0; w < n_threads; ++w) workers.emplace_back(shape, n_readings);

  parallel_for(n_threads, shape.n_tables, [&](int64_t i, int w) {
    PairReadings& r = workers[w];
    const OneTable table{query.row + i * n_flat,  key.row + i * n_flat,  code.row + i * n_distances,
                         query.pair + i * n_flat, key.pair + i * n_flat, code.pair + i * n_distances,
                         query.u + i * n_flat,    key.u + i * n_flat,    code.u + i * n_distances};
    int64_t m = 0;
    for_pairs(shape, 0, n_flat, [&](int64_t p, int64_t s, int64_t d) {
      const int32_t row = concatenate(shape, table.query_row[p], table.key_row[s], table.code_row[d]);
      const bool code_nearest = table.code_is_nearest(p, s, d);
      const int64_t bit = table.query_is_nearer(p, s) ? table.query_pair[p] + shape.n_key + shape.n_code
                                                      : table.key_pair[s] + shape.n_code;
      const bool only_code = code_nearest && position_gradient == PositionGradient::nearest;
      r.row.get()[m] = row;
      r.source.get()[m] = static_cast<int32_t>(p);
      r.flipped.get()[m] = only_code ? -1 : row ^ (int32_t{1} << bit);
      r.flipped_code.get()[m] = code_nearest ? row ^ (int32_t{1} << table.code_pair[d]) : -1;
      ++m;
    });

    r.owner.apply(i,
                  {tables + i * shape.n_rows() * shape.n_outputs, shape.n_outputs, n_readings, r.row.get(),
                   r.source.get(), v, {r.flipped.get(), r.flipped_code.get()}, {r.gain.get(), r.gain_code.get()}},
                  update);

    float* query_gain = out.query_slope + i * n_flat;
    float* key_gain = shared ? query_gain : out.key_slope + i * n_flat;
    float* code_gain = r.code_gain.get();
    std::fill_n(query_gain, n_flat, 0.0f);
    if (!shared) std::fill_n(key_gain, n_flat, 0.0f);
    std::fill_n(code_gain, n_distances, 0.0f);
    m = 0;
    for_pairs(shape, 0, n_flat, [&](int64_t p, int64_t s, int64_t d) {
      if (r.flipped.get()[m] >= 0) (table.query_is_nearer(p, s) ? query_gain[p] : key_gain[s]) += r.gain.get()[m];
      if (r.flipped_code.get()[m] >= 0) code_gain[d] += r.gain_code.get()[m];
      ++m;
    });

    kernels().surrogate_slope(table.query_u, query_gain, query_gain, n_flat);
    if (!shared) kernels().surrogate_slope(table.key_u, key_gain, key_gain, n_flat);
    if (out.code && shape.n_code > 0) {
      float* slope = out.code + i * n_distances * shape.n_code;
      std::fill_n(slope, n_distances * shape.n_code, 0.0f);
      kernels().surrogate_slope(table.code_u, code_gain, code_gain, n_distances);
      for (int64_t d = 1; d < n_distances; ++d) {
        // NaN is never nearest: its gain is 0, though 0 * NaN is not.
        slope[d * shape.n_code + table.code_pair[d]] = std::isnan(table.code_u[d]) ? 0.0f : code_gain[d];
      }
    }
  });
}

}  // namespace polychron
