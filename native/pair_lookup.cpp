#include "pair_lookup.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "threads.hpp"

namespace polychron {
namespace {

// Calls visit(p, first_key, n) for each of the positions [p_begin, p_end): p attends to the n keys from first_key on,
// which are n, n - 1, ..., 1 positions earlier.
template <class Visit>
void for_positions(const PairShape& shape, int64_t p_begin, int64_t p_end, const Visit& visit) {
  for (int64_t p = p_begin; p < p_end; ++p) {
    const int64_t sequence = p / shape.n_positions;
    const int64_t key = p + (sequence + 1) * shape.n_past;  // where p itself stands among the keys
    const int64_t n = std::min(p % shape.n_positions + shape.n_past, shape.window);
    visit(p, key - n, n);
  }
}

int64_t count_pairs(const PairShape& shape) {
  int64_t in_sequence = 0;
  for (int64_t t = 0; t < shape.n_positions; ++t) in_sequence += std::min(t, shape.window);
  return in_sequence * shape.n_sequences;
}

constexpr int64_t kBeyond = 15;  // what kernels read and write behind the last

// One table's addresses with every bit where it stands in a row's index; those of the relative position from the
// furthest distance to the nearest, so that a position's pairs are three ascending runs.
struct TableBits {
  Buffer<int32_t> query, query_flip, key, key_flip, code, code_flip;
  Buffer<float> query_distance, key_distance, code_distance;

  explicit TableBits(const PairShape& shape)
      : query(shape.n_flat()), query_flip(shape.n_flat()), key(shape.n_keys() + kBeyond),
        key_flip(shape.n_keys() + kBeyond), code(shape.n_distances + kBeyond), code_flip(shape.n_distances + kBeyond),
        query_distance(shape.n_flat()), key_distance(shape.n_keys() + kBeyond),
        code_distance(shape.n_distances + kBeyond) {
    for (int64_t b = 0; b < kBeyond; ++b) {
      const int64_t key_end = shape.n_keys() + b, code_end = shape.n_distances + b;
      key.get()[key_end] = key_flip.get()[key_end] = code.get()[code_end] = code_flip.get()[code_end] = 0;
      key_distance.get()[key_end] = code_distance.get()[code_end] = 0.0f;
    }
  }

  static void place(const int32_t* row, const uint8_t* pair, const float* u, int64_t n, int64_t shift,
                    int32_t* bits, int32_t* flip, float* distance) {
    for (int64_t p = 0; p < n; ++p) {
      bits[p] = row[p] << shift;
      flip[p] = int32_t{1} << (pair[p] + shift);
      distance[p] = std::fabs(u[p]);
    }
  }

  void fill(const PairShape& shape, int64_t i, const ConstAddresses& q, const ConstAddresses& k,
            const ConstAddresses& c) {
    const int64_t n_flat = shape.n_flat(), n_keys = shape.n_keys(), D = shape.n_distances;
    place(q.row + i * n_flat, q.pair + i * n_flat, q.u + i * n_flat, n_flat, shape.n_key + shape.n_code, query.get(),
          query_flip.get(), query_distance.get());
    place(k.row + i * n_keys, k.pair + i * n_keys, k.u + i * n_keys, n_keys, shape.n_code, key.get(), key_flip.get(),
          key_distance.get());
    place(c.row + i * D, c.pair + i * D, c.u + i * D, D, 0, code.get(), code_flip.get(), code_distance.get());
    std::reverse(code.get(), code.get() + D);
    std::reverse(code_flip.get(), code_flip.get() + D);
    std::reverse(code_distance.get(), code_distance.get() + D);
  }

  // Where the code of distance n stands; those of n - 1, ..., 1 follow.
  static int64_t at_distance(const PairShape& shape, int64_t n) { return shape.n_distances - 1 - n; }
};

// One worker's arrays over all readings of a table.
struct PairReadings {
  TableOwner owner;
  TableBits bits;
  Buffer<int32_t> row, source, flipped, flipped_code;
  Buffer<float> gain, gain_code, code_gain;

  PairReadings(const PairShape& shape, int64_t n)
      : owner(n, shape.n_rows(), shape.n_outputs), bits(shape), row(n + kBeyond), source(n + kBeyond),
        flipped(n + kBeyond), flipped_code(n + kBeyond), gain(n), gain_code(n), code_gain(shape.n_distances) {}

  TablePairs pairs(bool nearest) {
    return {bits.query.get(), bits.query_flip.get(), bits.query_distance.get(),
            bits.key.get(),   bits.key_flip.get(),   bits.key_distance.get(),
            bits.code.get(),  bits.code_flip.get(),  bits.code_distance.get(),
            nearest,          row.get(),             source.get(),
            {flipped.get(), flipped_code.get()}};
  }

  // Calls visit(run) for each position's pairs.
  template <class Visit> static void for_runs(const PairShape& shape, const Visit& visit) {
    int64_t m = 0;
    for_positions(shape, 0, shape.n_flat(), [&](int64_t p, int64_t first_key, int64_t n) {
      visit(PairRun{p, first_key, TableBits::at_distance(shape, n), n, m});
      m += n;
    });
  }

  // The rows of all pairs and the neighbour rows whose gains are wanted, -1 for none.
  void list(const PairShape& shape, bool nearest) {
    const TablePairs all = pairs(nearest);
    const Kernels& set = kernels();
    for_runs(shape, [&](const PairRun& run) { set.list_pairs(all, run); });
  }

  // Gives every reading's gain to the comparison that was flipped: query_gain (P), key_gain (keys), code_gain
  // (distances, the furthest first); all start at 0. Query and key may be one array, where anchors are shared.
  void route(const PairShape& shape, float* query_gain, float* key_gain) {
    const TablePairs all = pairs(false);
    const Kernels& set = kernels();
    for_runs(shape, [&](const PairRun& run) {
      query_gain[run.p] += set.route_pairs(all, run, gain.get(), gain_code.get(), key_gain, code_gain.get());
    });
  }

  // The same where only the position code's gradient is wanted.
  void route_code(const PairShape& shape) {
    for_runs(shape, [&](const PairRun& run) {
      for (int64_t j = 0; j < run.n; ++j) code_gain.get()[run.code + j] += gain_code.get()[run.m + j];
    });
  }
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

void pair_gather_range(const PairShape& shape, const Tables& tables, const int32_t* query_row, const int32_t* key_row,
                       const int32_t* code_row, float* y, int64_t p_begin, int64_t p_end, PairLists& lists) {
  const int64_t n_flat = shape.n_flat();
  int32_t* rows = lists.rows.get();
  int32_t* begin = lists.begin.get();
  for (int64_t i = 0; i < shape.n_tables; ++i) {
    int32_t m = 0;
    for_positions(shape, p_begin, p_end, [&](int64_t p, int64_t first_key, int64_t n) {
      begin[p - p_begin] = m;
      const int32_t query = query_row[i * n_flat + p] << (shape.n_key + shape.n_code);
      const int32_t* key = key_row + i * shape.n_keys() + first_key;
      const int32_t* code = code_row + i * shape.n_distances + n;
      for (int64_t j = 0; j < n; ++j) rows[m++] = query | key[j] << shape.n_code | code[-j];
    });
    begin[p_end - p_begin] = m;
    kernels().sum_row_lists({tables.table(i), tables.n_outputs, tables.row_stride, rows, begin, p_end - p_begin,
                             y + p_begin * shape.n_outputs, tables.type});
  }
}

void pair_gather(const PairShape& shape, const Tables& tables, const int32_t* query_row, const int32_t* key_row,
                 const int32_t* code_row, float* y, int n_threads) {
  const int64_t n_flat = shape.n_flat();
  const int64_t chunk = std::max<int64_t>(1, n_flat / (int64_t{n_threads} * 8));
  std::vector<PairLists> workers;
  for (int w = 0; w < n_threads; ++w) workers.emplace_back(shape, chunk);
  parallel_for(n_threads, (n_flat + chunk - 1) / chunk, [&](int64_t task, int w) {
    pair_gather_range(shape, tables, query_row, key_row, code_row, y, task * chunk, std::min(n_flat, (task + 1) * chunk),
                      workers[static_cast<size_t>(w)]);
  });
}

void pair_backward(const PairShape& shape, const Tables& tables, const ConstAddresses& query, const ConstAddresses& key,
                   const ConstAddresses& code, const float* v, PositionGradient position_gradient,
                   const PairGradients& out, const TableUpdate& update, int n_threads) {
  const int64_t n_flat = shape.n_flat();
  const int64_t n_readings = count_pairs(shape);
  const int64_t n_distances = shape.n_distances;
  const bool wants_dx = out.query_slope != nullptr;
  const bool shared = out.key_slope == nullptr;
  std::vector<PairReadings> workers;
  for (int w = 0; w < n_threads; ++w) workers.emplace_back(shape, n_readings);

  parallel_for(n_threads, shape.n_tables, [&](int64_t i, int w) {
    PairReadings& r = workers[w];
    r.bits.fill(shape, i, query, key, code);
    r.list(shape, position_gradient == PositionGradient::nearest);
    r.owner.apply(tables.index(i),
                  {tables.table(i), tables.n_outputs, tables.row_stride, n_readings, r.row.get(), r.source.get(),
                   tables.far(), v, tables.n_outputs, {r.flipped.get(), r.flipped_code.get()},
                   {wants_dx ? r.gain.get() : nullptr, r.gain_code.get()}, tables.type},
                  update);

    float* code_gain = r.code_gain.get();
    std::fill_n(code_gain, n_distances, 0.0f);
    if (wants_dx) {
      float* query_gain = out.query_slope + i * n_flat;
      float* key_gain = shared ? query_gain : out.key_slope + i * n_flat;
      std::fill_n(query_gain, n_flat, 0.0f);
      if (!shared) std::fill_n(key_gain, n_flat, 0.0f);
      r.route(shape, query_gain, key_gain);
      kernels().surrogate_slope(query.u + i * n_flat, query_gain, query_gain, n_flat);
      if (!shared) kernels().surrogate_slope(key.u + i * n_flat, key_gain, key_gain, n_flat);
    } else {
      r.route_code(shape);
    }
    std::reverse(code_gain, code_gain + n_distances);

    if (shape.n_code > 0) {
      float* slope = out.code + i * n_distances * shape.n_code;
      std::fill_n(slope, n_distances * shape.n_code, 0.0f);
      const float* u = code.u + i * n_distances;
      kernels().surrogate_slope(u, code_gain, code_gain, n_distances);
      for (int64_t d = 1; d < n_distances; ++d) {
        // NaN is never nearest: its gain is 0, though 0 * NaN is not.
        slope[d * shape.n_code + code.pair[i * n_distances + d]] = std::isnan(u[d]) ? 0.0f : code_gain[d];
      }
    }
  });
}

void pair_latency_backward(const PairShape& shape, const Tables& tables, const Anchors& anchors,
                           const Anchors* key_anchors, const ConstAddresses& query, const ConstAddresses& key,
                           const ConstAddresses& code, const float* v, PositionGradient position_gradient, bool residual,
                           float* dx, float* code_gradient, const TableUpdate& update, int n_threads) {
  const int64_t n = shape.n_tables * shape.n_flat();
  const bool separate = dx && key_anchors;
  Buffer<float> query_slope(dx ? n : 0), key_slope(separate ? n : 0);
  pair_backward(shape, tables, query, key, code, v, position_gradient,
                {dx ? query_slope.get() : nullptr, separate ? key_slope.get() : nullptr, code_gradient}, update,
                n_threads);
  if (dx) {
    scatter(anchors, query.pair, query_slope.get(), shape.n_sequences, shape.n_positions, shape.n_inputs,
            residual ? v : nullptr, shape.n_inputs, dx, false, n_threads);
  }
  if (separate) {
    scatter(*key_anchors, key.pair, key_slope.get(), shape.n_sequences, shape.n_positions, shape.n_inputs, nullptr, 0,
            dx, true, n_threads);
  }
}

}  // namespace polychron
