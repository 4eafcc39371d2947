#include "lookup.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "contract.hpp"
#include "threads.hpp"

namespace polychron {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kFloatsPerComparison = 2;  // that are added in the time
constexpr int64_t kFloatsPerUpdate = 64;     // and while a reading is sorted, and its gain and slope go their way
constexpr const char* kWrongPair = "pair must lie below n_comparisons";

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Positions per task: a multiple of 16, small enough that threads finish together.
int64_t positions_per_task(int64_t n_flat, int n_threads) {
  const int64_t wanted = divide_up(n_flat, int64_t{n_threads} * 4);
  return std::clamp<int64_t>(divide_up(wanted, kLanes) * kLanes, kLanes, 1024);
}

// Latencies of one position of a sequence, which may lie in the history; null: before both, where all are 0.
const float* latencies_at(const Latencies& in, int64_t sequence, int64_t t) {
  if (t >= 0) return in.x + (sequence * in.n_positions + t) * in.n_inputs;
  if (in.history && t + in.n_history >= 0) {
    return in.history + (sequence * in.n_history + in.n_history + t) * in.n_inputs;
  }
  return nullptr;
}

// Four positions of some neurons at a time: four stores become one.
template <class Place>
void transpose_four(const float* const* from, int64_t n, const Place& place, int64_t stride, float* out) {
  for (int64_t q = 0; q < n; ++q) {
    const int64_t a = place(q);
    const float four[] = {from[0][a], from[1][a], from[2][a], from[3][a]};
    std::memcpy(out + q * stride, four, sizeof four);
  }
}

// Neuron-major copy of max_delay + count positions of some neurons; what lies before the sequence and its history is 0.
void transpose(const Latencies& in, const std::vector<int32_t>& neurons, int64_t sequence, int64_t t_begin,
               int64_t count, int64_t max_delay, int64_t stride, float* out) {
  const auto n = static_cast<int64_t>(neurons.size());
  const bool all = n == in.n_inputs;
  const int32_t* some = neurons.data();
  const int64_t end = max_delay + count, first = t_begin - max_delay;
  for (int64_t k = 0; k < end;) {
    if (k + 4 <= end && first + k >= 0) {
      const float* x = latencies_at(in, sequence, first + k);
      const float* const from[] = {x, x + in.n_inputs, x + 2 * in.n_inputs, x + 3 * in.n_inputs};
      if (all) {
        transpose_four(from, n, [](int64_t q) { return q; }, stride, out + k);
      } else {
        transpose_four(from, n, [some](int64_t q) { return int64_t{some[q]}; }, stride, out + k);
      }
      k += 4;
      continue;
    }
    const float* from = latencies_at(in, sequence, first + k);
    for (int64_t q = 0; q < n; ++q) out[q * stride + k] = from ? from[some[q]] : 0.0f;
    ++k;
  }
}

// A single position reads one row of each table: all tables are one to it, in which no row is read twice, and so nothing
// is sorted and nothing summed.
bool is_one_reading_each(const Tables& tables, int64_t n_tables, int64_t n_flat, const TableUpdate& update) {
  using Kind = TableUpdate::Kind;
  return n_flat == 1 && tables.type == RowType::float32 &&
         (update.kind == Kind::online_sgd || (update.kind == Kind::sgd && update.visit_cap >= 1.0f)) &&
         (tables.which ? tables.which[n_tables - 1] + 1 : n_tables) * tables.n_rows < int64_t{1} << 31;
}

void update_one_reading_each(const Tables& tables, const Anchors& anchors, const ConstAddresses& addresses, const float* v,
                             float* gain, float rate, int n_threads) {
  constexpr int64_t kTablesPerTask = 256;
  parallel_for(n_threads, divide_up(anchors.n_tables, kTablesPerTask), [&](int64_t task, int) {
    const int64_t first = task * kTablesPerTask, count = std::min(kTablesPerTask, anchors.n_tables - first);
    check_rows(addresses.row + first, count, tables.n_rows);
    int32_t row[kTablesPerTask], flipped[kTablesPerTask];
    for (int64_t k = 0; k < count; ++k) {
      const auto before = static_cast<int32_t>(tables.index(first + k) * tables.n_rows);
      row[k] = before + addresses.row[first + k];
      if (!gain) continue;
      if (addresses.pair[first + k] >= anchors.n_comparisons) throw std::invalid_argument(kWrongPair);
      flipped[k] = before + (addresses.row[first + k] ^ (int32_t{1} << addresses.pair[first + k]));
    }
    kernels().online_sgd({tables.data, tables.n_outputs, tables.row_stride, count, row, nullptr, true, v, 0,
                          {gain ? flipped : nullptr, nullptr}, {gain ? gain + first : nullptr, nullptr}},
                         rate);
  });
}

// Whether a table's slopes are made by themselves: of few positions they leave lanes empty, and all tables' are made together.
bool fills_lanes(int64_t n_flat) { return n_flat >= kLanes; }

void update_each_table(const Tables& tables, const Anchors& anchors, const ConstAddresses& addresses, const float* v,
                       int64_t v_stride, int64_t n_flat, float* gains, const TableUpdate& update, int n_threads) {
  struct Worker {
    TableOwner owner;
    Buffer<int32_t> flipped;
  };
  std::vector<Worker> workers;
  workers.reserve(static_cast<size_t>(n_threads));
  for (int w = 0; w < n_threads; ++w) {
    workers.push_back({TableOwner(n_flat, tables.n_rows, tables.n_outputs), Buffer<int32_t>(gains ? n_flat : 0)});
  }
  parallel_for(n_threads, anchors.n_tables, [&](int64_t i, int w) {
    const int32_t* row = addresses.row + i * n_flat;
    Readings readings{tables.table(i), tables.n_outputs, tables.row_stride, n_flat, row, nullptr, tables.far(), v,
                      v_stride, {nullptr, nullptr}, {nullptr, nullptr}, tables.type};
    float* gain = gains ? gains + i * n_flat : nullptr;
    if (gains) {
      const uint8_t* pair = addresses.pair + i * n_flat;
      int32_t* flipped = workers[w].flipped.get();
      uint8_t highest_pair = 0;
      for (int64_t p = 0; p < n_flat; ++p) {
        highest_pair = std::max(highest_pair, pair[p]);
        flipped[p] = row[p] ^ (int32_t{1} << (pair[p] & 31));
      }
      if (highest_pair >= anchors.n_comparisons) throw std::invalid_argument(kWrongPair);
      readings.flipped[0] = flipped;
      readings.gain[0] = gain;
    }
    workers[w].owner.apply(tables.index(i), readings, update);
    if (gains && fills_lanes(n_flat)) kernels().surrogate_slope(addresses.u + i * n_flat, gain, gain, n_flat);
  });
}

}  // namespace

int32_t Anchors::max_delay() const {
  return delays ? *std::max_element(delays, delays + n_tables * n_comparisons * 2) : 0;
}

Hasher::Hasher(const Anchors& anchors, int64_t n_inputs)
    : n_tables_(anchors.n_tables), n_comparisons_(anchors.n_comparisons), max_delay_(anchors.max_delay()) {
  const int64_t n_ends = 2 * n_tables_ * n_comparisons_;
  std::vector<int32_t> place(static_cast<size_t>(n_inputs), -1);  // of a neuron in the tile; -1: nobody compares it
  for (int64_t e = 0; e < n_ends; ++e) place[static_cast<size_t>(anchors.anchors[e])] = 0;
  for (int32_t a = 0; a < static_cast<int32_t>(n_inputs); ++a) {
    if (place[static_cast<size_t>(a)] < 0) continue;
    place[static_cast<size_t>(a)] = static_cast<int32_t>(neurons_.size());
    neurons_.push_back(a);
  }
  constexpr int64_t kTileFloats = 6 * 1024;
  const int64_t affordable = kTileFloats / static_cast<int64_t>(neurons_.size()) - max_delay_ - kLanes;
  tile_ = std::clamp<int64_t>(affordable / kLanes * kLanes, kLanes, 256);
  stride_ = divide_up(max_delay_ + tile_, kLanes) * kLanes + kLanes;
  const int64_t n = n_tables_ * n_comparisons_;
  offset_a_.resize(static_cast<size_t>(n));
  offset_b_.resize(static_cast<size_t>(n));
  for (int64_t c = 0; c < n; ++c) {
    const int64_t delay_a = anchors.delays ? anchors.delays[2 * c] : 0;
    const int64_t delay_b = anchors.delays ? anchors.delays[2 * c + 1] : 0;
    const int64_t a = place[static_cast<size_t>(anchors.anchors[2 * c])];
    const int64_t b = place[static_cast<size_t>(anchors.anchors[2 * c + 1])];
    offset_a_[static_cast<size_t>(c)] = static_cast<int32_t>(a * stride_ + max_delay_ - delay_a);
    offset_b_[static_cast<size_t>(c)] = static_cast<int32_t>(b * stride_ + max_delay_ - delay_b);
  }
}

void Hasher::tile_of(const Latencies& in, int64_t sequence, int64_t t_begin, int64_t count, const Addresses& out,
                     float* scratch) const {
  transpose(in, neurons_, sequence, t_begin, count, max_delay_, stride_, scratch);
  kernels().hash_tile({scratch, offset_a_.data(), offset_b_.data(), n_tables_, n_comparisons_, count,
                       out.row + t_begin, out.pair ? out.pair + t_begin : nullptr, out.pair ? out.u + t_begin : nullptr,
                       out.plane});
}

void Hasher::positions(const Latencies& given, int64_t begin, int64_t end, const Addresses& out, float* scratch) const {
  const Latencies in = max_delay_ == 0 ? one_sequence(given) : given;
  for (int64_t p = begin; p < end;) {
    const int64_t sequence = p / in.n_positions;
    const int64_t flat = sequence * in.n_positions;
    const int64_t count = std::min({tile_, end - p, flat + in.n_positions - p});
    tile_of(in, sequence, p - flat, count,
            {out.row + flat, out.pair ? out.pair + flat : nullptr, out.pair ? out.u + flat : nullptr, out.plane}, scratch);
    p += count;
  }
}

Latencies one_sequence(const Latencies& in) {
  return {in.x, 1, in.n_sequences * in.n_positions, in.n_inputs, nullptr, 0};
}

void hash(const Latencies& given, const Anchors& anchors, const Addresses& out, int n_threads) {
  const Hasher hasher(anchors, given.n_inputs);
  const Latencies in = hasher.max_delay() == 0 ? one_sequence(given) : given;
  const int64_t n_flat = in.n_sequences * in.n_positions;
  if (n_flat == 0) return;
  const int64_t n_comparisons = n_flat * anchors.n_tables * anchors.n_comparisons;
  n_threads = threads_worth_waking(n_comparisons * kFloatsPerComparison, n_threads);
  std::vector<Buffer<float>> scratch;
  for (int w = 0; w < n_threads; ++w) {
    scratch.emplace_back(hasher.scratch_floats());
    std::fill_n(scratch.back().get(), hasher.scratch_floats(), 0.0f);
  }
  const int64_t tile = hasher.tile();
  const int64_t tiles_per_sequence = divide_up(in.n_positions, tile);
  parallel_for(n_threads, in.n_sequences * tiles_per_sequence, [&](int64_t task, int worker) {
    const int64_t sequence = task / tiles_per_sequence;
    const int64_t t_begin = task % tiles_per_sequence * tile;
    const int64_t flat = sequence * in.n_positions;
    hasher.tile_of(in, sequence, t_begin, std::min(tile, in.n_positions - t_begin),
                   {out.row + flat, out.pair + flat, out.u + flat, out.plane}, scratch[worker].get());
  });
}

void gather(const GatherSum& sum, int64_t n_flat, int n_threads) {
  n_threads = threads_worth_waking(n_flat * sum.n_tables * std::max(sum.n_outputs, kLanes), n_threads);
  if (n_flat < kLanes && n_threads > 1) {  // each thread some outputs of all positions
    const int64_t width = divide_up(divide_up(sum.n_outputs, n_threads), kLanes) * kLanes;
    parallel_for(n_threads, divide_up(sum.n_outputs, width), [&](int64_t task, int) {
      const int64_t first = task * width;
      GatherSum part = sum;
      part.tables = static_cast<const char*>(sum.tables) + first * row_number_bytes(sum.type);
      part.n_outputs = std::min(width, sum.n_outputs - first);
      part.y = sum.y + first;
      if (sum.residual) part.residual = sum.residual + first;
      kernels().gather_sum(part, 0, n_flat);
    });
    return;
  }
  const int64_t chunk = positions_per_task(n_flat, n_threads);
  parallel_for(n_threads, divide_up(n_flat, chunk), [&](int64_t task, int) {
    kernels().gather_sum(sum, task * chunk, std::min(n_flat, (task + 1) * chunk));
  });
}

void scatter(const Anchors& anchors, const uint8_t* pair, const float* slope, int64_t n_sequences,
             int64_t n_positions, int64_t n_inputs, const float* start, int64_t start_stride, float* dx,
             bool accumulate, int n_threads) {
  const int64_t n_flat = n_sequences * n_positions;
  const int64_t max_delay = anchors.max_delay();

  // A task owns dx of the positions [p_begin, p_end), few enough to stay in the first-level cache. What later
  // positions of the same sequence send back to them is computed here too, so that contributions arrive in the same
  // order however the work is cut.
  constexpr int64_t kChunkFloats = 6 * 1024;
  const int64_t chunk = std::max<int64_t>({kChunkFloats / n_inputs, 4 * max_delay, 1});
  parallel_for(n_threads, divide_up(n_flat, chunk), [&](int64_t task, int) {
    const int64_t p_begin = task * chunk;
    const int64_t p_end = std::min(n_flat, p_begin + chunk);
    if (start) {
      for (int64_t p = p_begin; p < p_end; ++p) std::copy_n(start + p * start_stride, n_inputs, dx + p * n_inputs);
    } else if (!accumulate) {
      std::fill(dx + p_begin * n_inputs, dx + p_end * n_inputs, 0.0f);
    }
    const int64_t sequence_end = ((p_end - 1) / n_positions + 1) * n_positions;
    const int64_t p_last = std::min(p_end + max_delay, sequence_end);
    for (int64_t i = 0; i < anchors.n_tables; ++i) {
      const int32_t* ends = anchors.anchors + 2 * i * anchors.n_comparisons;
      const uint8_t* r = pair + i * n_flat;
      const float* s = slope + i * n_flat;
      if (max_delay == 0) {
        for (int64_t p = p_begin; p < p_end; ++p) {
          dx[p * n_inputs + ends[2 * r[p]]] += s[p];
          dx[p * n_inputs + ends[2 * r[p] + 1]] -= s[p];
        }
        continue;
      }
      const int32_t* delays = anchors.delays + 2 * i * anchors.n_comparisons;
      for (int64_t p = p_begin; p < p_last;) {
        const int64_t sequence_begin = p / n_positions * n_positions;
        const int64_t first = std::max(p_begin, sequence_begin);  // nothing flows before it
        const int64_t last = std::min(p_last, sequence_begin + n_positions);
        for (; p < last; ++p) {
          const int64_t to_a = p - delays[2 * r[p]];
          const int64_t to_b = p - delays[2 * r[p] + 1];
          if (to_a >= first && to_a < p_end) dx[to_a * n_inputs + ends[2 * r[p]]] += s[p];
          if (to_b >= first && to_b < p_end) dx[to_b * n_inputs + ends[2 * r[p] + 1]] -= s[p];
        }
      }
    }
  });
}

void lookup_backward(const Tables& tables, const Anchors& anchors, const ConstAddresses& addresses, const float* v,
                     int64_t v_stride, int64_t n_sequences, int64_t n_positions, int64_t n_inputs, const float* through,
                     int64_t through_stride, float* dx, const TableUpdate& update, int n_threads) {
  const int64_t n_flat = n_sequences * n_positions;
  // A reading's row and its neighbour are read.
  const int64_t floats = n_flat * anchors.n_tables * (2 * std::max(tables.n_outputs, kLanes) + kFloatsPerUpdate);
  n_threads = threads_worth_waking(floats, n_threads);
  Buffer<float> slope(dx ? anchors.n_tables * n_flat : 0);

  float* const gain = dx ? slope.get() : nullptr;
  if (is_one_reading_each(tables, anchors.n_tables, n_flat, update)) {
    update_one_reading_each(tables, anchors, addresses, v, gain, update.rate, n_threads);
  } else {
    update_each_table(tables, anchors, addresses, v, v_stride, n_flat, gain, update, n_threads);
  }
  if (dx) {
    if (!fills_lanes(n_flat)) kernels().surrogate_slope(addresses.u, slope.get(), slope.get(), anchors.n_tables * n_flat);
    scatter(anchors, addresses.pair, slope.get(), n_sequences, n_positions, n_inputs, through, through_stride,
            dx, false, n_threads);
  }
}

}  // namespace polychron
