#include "pair_lookup.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "threads.hpp"

namespace polychron {
namespace {

constexpr int64_t kBeyond = 15;  // what kernels read and write behind the last

// Every pair's run: position p reads the keys of the positions before it. Relative positions stand from the furthest
// distance to the nearest, so that all three ascend.
std::vector<PairRun> runs_of(const PairShape& shape, int64_t p_begin, int64_t p_end) {
  std::vector<PairRun> runs;
  runs.reserve(static_cast<size_t>(p_end - p_begin));
  int64_t m = 0;
  for (int64_t p = p_begin; p < p_end; ++p) {
    const int64_t sequence = p / shape.n_positions;
    const int64_t key = p + (sequence + 1) * shape.n_past;  // where p itself stands among the keys
    const int64_t n = std::min(p % shape.n_positions + shape.n_past, shape.window);
    const auto narrow = [](int64_t value) { return static_cast<int32_t>(value); };
    runs.push_back({narrow(p), narrow(key - n), narrow(shape.n_distances - 1 - n), narrow(n), narrow(m)});
    m += n;
  }
  return runs;
}

int64_t n_readings_of(const std::vector<PairRun>& runs) { return int64_t{runs.back().m} + runs.back().n; }

// Calls visit(run, next) for each of the runs in this order, null: as they are. The last one's next has no pairs.
template <class Visit> void for_runs(const std::vector<PairRun>& runs, const int32_t* order, const Visit& visit) {
  const auto at = [&](size_t k) -> const PairRun& { return runs[order ? static_cast<size_t>(order[k]) : k]; };
  for (size_t k = 0; k < runs.size(); ++k) {
    visit(at(k), k + 1 < runs.size() ? at(k + 1) : PairRun{at(k).p, 0, 0, 0, 0});
  }
}

// One table's addresses with every bit where it stands in a row's index.
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
};

// What a batch's pairs have in common for all tables.
struct Batch {
  const PairShape& shape;
  std::vector<PairRun> runs;
  int64_t n_readings;
  int64_t n_block;  // rows of a table that one query's pairs can read

  explicit Batch(const PairShape& its)
      : shape(its), runs(runs_of(its, 0, its.n_flat())), n_readings(runs.empty() ? 0 : n_readings_of(runs)),
        n_block(int64_t{1} << (its.n_key + its.n_code)) {}
};

// One worker's arrays over a table. Readings are taken by the address of their query: all that one address's pairs
// read, and what they read flipped, is a part of the table that stays in the second-level cache.
class PairOwner {
 public:
  explicit PairOwner(const Batch& batch)
      : batch_(batch), shape_(batch.shape), bits_(batch.shape), gain_(batch.n_readings), gain_code_(batch.n_readings),
        code_gain_(shape_.n_distances) {}

  // Addresses of a table. Throws std::invalid_argument when a row's index would lie outside it.
  void take(int64_t i, const ConstAddresses& query, const ConstAddresses& key, const ConstAddresses& code) {
    const int64_t n_flat = shape_.n_flat();
    check_rows(query.row + i * n_flat, n_flat, int64_t{1} << shape_.n_query);
    check_rows(key.row + i * shape_.n_keys(), shape_.n_keys(), int64_t{1} << shape_.n_key);
    check_rows(code.row + i * shape_.n_distances, shape_.n_distances, int64_t{1} << shape_.n_code);
    bits_.fill(shape_, i, query, key, code);
    by_query_ = sorter_.sort(query.row + i * n_flat, n_flat, int64_t{1} << shape_.n_query);
  }

  // All gains, from the rows as they are.
  void read_gains(const TableRows& rows, const float* v, bool nearest, bool wants_dx) {
    const TablePairs all = pairs(nearest);
    const Kernels& set = kernels();
    for_runs(batch_.runs, by_query_.order, [&](const PairRun& run, const PairRun& next) {
      set.pair_gains(all, rows, run, next, v, wants_dx ? gain_.get() : nullptr, gain_code_.get());
    });
  }

  // Sums of v by row, and what becomes of them.
  void update(int64_t i, const TableRows& rows, const float* v, const TableUpdate& update) {
    const int64_t K = rows.n_outputs, stride = merged_stride(K);
    make_room(stride);
    for (int64_t g = 0; g < by_query_.n_groups; ++g) {
      const int32_t query = by_query_.rows[g] << (shape_.n_key + shape_.n_code);
      n_found_ = 0;
      for (int32_t k = by_query_.begin[g]; k < by_query_.begin[g + 1]; ++k) {
        const PairRun& run = batch_.runs[static_cast<size_t>(by_query_.order[k])];
        find_places(run);
        kernels().add_to_rows(v + run.p * K, K, place_.data(), run.n, merged_.data());
      }
      if (n_found_ == 0) continue;
      put_block(i, rows, query, update);
      for (int64_t q = 0; q < n_found_; ++q) place_of_[static_cast<size_t>(found_[static_cast<size_t>(q)])] = -1;
      std::fill_n(merged_.begin(), n_found_ * stride, 0.0f);
    }
  }

  // The same for updates that see one another: every reading in the batch's order, its gains as earlier ones left the
  // rows.
  void update_online(const TableRows& rows, bool far, const float* v, bool nearest, bool wants_dx,
                     const TableUpdate& update) {
    const int64_t n = batch_.n_readings + kBeyond;
    for (std::vector<int32_t>* list : {&row_, &source_, &flipped_, &flipped_code_}) {
      list->resize(static_cast<size_t>(n));
    }
    TablePairs all = pairs(nearest);
    all.row = row_.data();
    all.source = source_.data();
    all.flipped[0] = flipped_.data();
    all.flipped[1] = flipped_code_.data();
    for (const PairRun& run : batch_.runs) kernels().list_pairs(all, run);
    kernels().online_sgd({rows.table, rows.n_outputs, rows.row_stride, batch_.n_readings, row_.data(), source_.data(),
                          far, v, rows.n_outputs, {flipped_.data(), flipped_code_.data()},
                          {wants_dx ? gain_.get() : nullptr, gain_code_.get()}, rows.type}, update.rate);
  }

  // Gives every reading's gain to the comparison that was flipped: query_gain (P), key_gain (keys), code_gain()
  // (distances, the furthest first); all start at 0. Query and key may be one array, where anchors are shared.
  void route(float* query_gain, float* key_gain) {
    const TablePairs all = pairs(false);
    const Kernels& set = kernels();
    std::fill_n(code_gain(), shape_.n_distances, 0.0f);
    for (const PairRun& run : batch_.runs) {
      query_gain[run.p] += set.route_pairs(all, run, gain_.get(), gain_code_.get(), key_gain, code_gain());
    }
  }

  // The same where only the position code's gradient is wanted.
  void route_code() {
    std::fill_n(code_gain(), shape_.n_distances, 0.0f);
    for (const PairRun& run : batch_.runs) {
      for (int32_t j = 0; j < run.n; ++j) code_gain()[run.code + j] += gain_code_.get()[run.m + j];
    }
  }

  float* code_gain() { return code_gain_.get(); }

 private:
  TablePairs pairs(bool nearest) {
    return {bits_.query.get(), bits_.query_flip.get(), bits_.query_distance.get(),
            bits_.key.get(),   bits_.key_flip.get(),   bits_.key_distance.get(),
            bits_.code.get(),  bits_.code_flip.get(),  bits_.code_distance.get(),
            nearest,           nullptr,                nullptr,
            {nullptr, nullptr}};
  }

  void make_room(int64_t stride) {
    if (!place_of_.empty()) return;
    const auto most = static_cast<size_t>(std::min(batch_.n_block, batch_.n_readings));
    place_of_.assign(static_cast<size_t>(batch_.n_block), -1);
    found_.resize(most + 1);
    visits_.resize(most + 1);
    begin_.resize(most + 1);
    merged_.assign(most * static_cast<size_t>(stride), 0.0f);
    place_.resize(static_cast<size_t>(std::min(shape_.window, shape_.n_past + shape_.n_positions)));
  }

  // Where the sums of a run's rows stand: a row that is new to the block takes the next place. No branch: whether a row
  // is new is chance.
  void find_places(const PairRun& run) {
    const int32_t* key = bits_.key.get() + run.key;
    const int32_t* code = bits_.code.get() + run.code;
    int32_t* const place_of = place_of_.data();
    int32_t* const found = found_.data();
    int32_t* const visits = visits_.data();
    int32_t* const place = place_.data();
    int32_t n_found = n_found_;
    for (int32_t j = 0; j < run.n; ++j) {
      const int32_t row = key[j] | code[j], known = place_of[row];
      const bool is_new = known < 0;
      const int32_t here = is_new ? n_found : known;
      place_of[row] = here;
      found[n_found] = row;
      visits[here] = (is_new ? 0 : visits[here]) + 1;
      n_found += is_new;
      place[j] = here;
    }
    n_found_ = n_found;
  }

  void put_block(int64_t i, const TableRows& rows, int32_t query, const TableUpdate& update);

  const Batch& batch_;
  const PairShape& shape_;
  TableBits bits_;
  RowSorter sorter_;
  RowGroups by_query_{};
  Buffer<float> gain_, gain_code_, code_gain_;
  std::vector<int32_t> place_of_, found_, visits_, begin_, place_;  // of the rows of one query's block
  std::vector<float> merged_;
  int32_t n_found_ = 0;
  std::vector<int32_t> row_, source_, flipped_, flipped_code_;      // online only
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

PairScratch::PairScratch(const PairShape& shape)
    : query(shape.n_flat()), key(shape.n_keys() + kBeyond), code(shape.n_distances + kBeyond) {
  std::fill_n(key.get(), shape.n_keys() + kBeyond, 0);
  std::fill_n(code.get(), shape.n_distances + kBeyond, 0);
}

void pair_gather_range(const PairShape& shape, const Tables& tables, const int32_t* query_row, const int32_t* key_row,
                       const int32_t* code_row, float* y, int64_t p_begin, int64_t p_end, PairScratch& scratch) {
  if (p_begin == p_end) return;
  const int64_t n_flat = shape.n_flat(), n_keys = shape.n_keys(), D = shape.n_distances, n = p_end - p_begin;
  const Kernels& set = kernels();
  scratch.runs = runs_of(shape, p_begin, p_end);
  const PairRun last = scratch.runs.back();
  const int64_t key_begin = scratch.runs.front().key, key_end = int64_t{last.key} + last.n;
  int32_t* query = scratch.query.get();
  int32_t* key = scratch.key.get();
  TablePairs pairs{};
  pairs.query = query;
  pairs.key = key;
  pairs.code = scratch.code.get();
  for (int64_t i = 0; i < shape.n_tables; ++i) {
    const int32_t* queries = query_row + i * n_flat + p_begin;
    for (int64_t p = 0; p < n; ++p) query[p_begin + p] = queries[p] << (shape.n_key + shape.n_code);
    for (int64_t k = key_begin; k < key_end; ++k) key[k] = key_row[i * n_keys + k] << shape.n_code;
    std::reverse_copy(code_row + i * D, code_row + (i + 1) * D, scratch.code.get());
    // Positions do not see each other's sums. By the address of their query, they read one part of a large table after
    // another.
    const int32_t* order =
        tables.far() ? scratch.by_query.sort(queries, n, int64_t{1} << shape.n_query).order : nullptr;
    const TableRows rows{tables.table(i), tables.n_outputs, tables.row_stride, tables.type};
    for_runs(scratch.runs, order, [&](const PairRun& run, const PairRun& next) {
      set.sum_pairs(pairs, rows, run, next, y + run.p * shape.n_outputs);
    });
  }
}

void pair_gather(const PairShape& shape, const Tables& tables, const int32_t* query_row, const int32_t* key_row,
                 const int32_t* code_row, float* y, int n_threads) {
  const int64_t n_flat = shape.n_flat();
  const int64_t chunk = std::max<int64_t>(1, n_flat / (int64_t{n_threads} * 8));
  std::vector<PairScratch> workers;
  for (int w = 0; w < n_threads; ++w) workers.emplace_back(shape);
  parallel_for(n_threads, (n_flat + chunk - 1) / chunk, [&](int64_t task, int w) {
    pair_gather_range(shape, tables, query_row, key_row, code_row, y, task * chunk, std::min(n_flat, (task + 1) * chunk),
                      workers[static_cast<size_t>(w)]);
  });
}

void PairOwner::put_block(int64_t i, const TableRows& rows, int32_t query, const TableUpdate& update) {
  const int64_t stride = merged_stride(rows.n_outputs);
  begin_[0] = 0;
  for (size_t q = 0; q < static_cast<size_t>(n_found_); ++q) begin_[q + 1] = begin_[q] + visits_[q];
  std::vector<int32_t> indices(found_.begin(), found_.begin() + n_found_);
  for (int32_t& row : indices) row |= query;
  if (update.kind != TableUpdate::Kind::sparse) {
    update_rows(i, rows, shape_.n_rows(), {nullptr, begin_.data(), indices.data(), n_found_}, merged_.data(), update);
    return;
  }
  std::vector<int32_t> ascending(static_cast<size_t>(n_found_));
  std::iota(ascending.begin(), ascending.end(), 0);
  std::sort(ascending.begin(), ascending.end(),
            [&](int32_t a, int32_t b) { return indices[static_cast<size_t>(a)] < indices[static_cast<size_t>(b)]; });
  for (const int32_t q : ascending) {
    update_rows(i, rows, shape_.n_rows(), {nullptr, begin_.data() + q, indices.data() + q, 1},
                merged_.data() + q * stride, update);
  }
}

void pair_backward(const PairShape& shape, const Tables& tables, const ConstAddresses& query, const ConstAddresses& key,
                   const ConstAddresses& code, const float* v, PositionGradient position_gradient,
                   const PairGradients& out, const TableUpdate& update, int n_threads) {
  const int64_t n_flat = shape.n_flat();
  const int64_t n_distances = shape.n_distances;
  const bool wants_dx = out.query_slope != nullptr;
  const bool shared = out.key_slope == nullptr;
  const bool nearest = position_gradient == PositionGradient::nearest;
  const Batch batch(shape);
  std::vector<PairOwner> workers;
  for (int w = 0; w < n_threads; ++w) workers.emplace_back(batch);

  parallel_for(n_threads, shape.n_tables, [&](int64_t i, int w) {
    PairOwner& owner = workers[static_cast<size_t>(w)];
    const TableRows rows{tables.table(i), tables.n_outputs, tables.row_stride, tables.type};
    owner.take(i, query, key, code);
    if (update.kind == TableUpdate::Kind::online_sgd) {
      owner.update_online(rows, tables.far(), v, nearest, wants_dx, update);
    } else {
      owner.read_gains(rows, v, nearest, wants_dx);
      if (update.kind != TableUpdate::Kind::none) owner.update(i, rows, v, update);
    }

    if (wants_dx) {
      float* query_gain = out.query_slope + i * n_flat;
      float* key_gain = shared ? query_gain : out.key_slope + i * n_flat;
      std::fill_n(query_gain, n_flat, 0.0f);
      if (!shared) std::fill_n(key_gain, n_flat, 0.0f);
      owner.route(query_gain, key_gain);
      kernels().surrogate_slope(query.u + i * n_flat, query_gain, query_gain, n_flat);
      if (!shared) kernels().surrogate_slope(key.u + i * n_flat, key_gain, key_gain, n_flat);
    } else {
      owner.route_code();
    }
    float* code_gain = owner.code_gain();
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
