#include "lookup.hpp"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "contract.hpp"
#include "threads.hpp"

namespace polychron {
namespace {

constexpr int64_t kLanes = 16;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Positions per task: a multiple of 16, small enough that threads finish together.
int64_t positions_per_task(int64_t n_flat, int n_threads) {
  const int64_t wanted = divide_up(n_flat, int64_t{n_threads} * 4);
  return std::clamp<int64_t>(divide_up(wanted, kLanes) * kLanes, kLanes, 1024);
}

// Neuron-major copy of max_delay + count positions; what lies before the sequence and its history is 0.
void transpose(const Latencies& in, int64_t sequence, int64_t t_begin, int64_t count, int64_t max_delay,
               int64_t stride, float* out) {
  for (int64_t k = 0; k < max_delay + count; ++k) {
    const int64_t t = t_begin - max_delay + k;
    const float* from = nullptr;
    if (t >= 0) {
      from = in.x + (sequence * in.n_positions + t) * in.n_inputs;
    } else if (in.history && t + in.n_history >= 0) {
      from = in.history + (sequence * in.n_history + in.n_history + t) * in.n_inputs;
    }
    for (int64_t a = 0; a < in.n_inputs; ++a) out[a * stride + k] = from ? from[a] : 0.0f;
  }
}

}  // namespace

int32_t Anchors::max_delay() const {
  return delays ? *std::max_element(delays, delays + n_tables * n_comparisons * 2) : 0;
}

void hash(const Latencies& given, const Anchors& anchors, const Addresses& out, int n_threads) {
  Latencies in = given;
  const int64_t n_flat = in.n_sequences * in.n_positions;
  if (n_flat == 0) return;
  const int64_t max_delay = anchors.max_delay();
  if (max_delay == 0) {  // positions do not see each other: one long sequence fills the lanes better
    in.n_positions = n_flat;
    in.n_sequences = 1;
    in.history = nullptr;
  }

  // The tile's latencies should stay in the first-level cache while all tables read them.
  constexpr int64_t kTileFloats = 6 * 1024;
  const int64_t affordable = kTileFloats / in.n_inputs - max_delay - kLanes;
  const int64_t tile = std::clamp<int64_t>(affordable / kLanes * kLanes, kLanes, 256);
  const int64_t stride = divide_up(max_delay + tile, kLanes) * kLanes + kLanes;

  const int64_t n_comparisons = anchors.n_tables * anchors.n_comparisons;
  std::vector<int32_t> offset_a(n_comparisons), offset_b(n_comparisons);
  for (int64_t c = 0; c < n_comparisons; ++c) {
    const int32_t delay_a = anchors.delays ? anchors.delays[2 * c] : 0;
    const int32_t delay_b = anchors.delays ? anchors.delays[2 * c + 1] : 0;
    offset_a[c] = static_cast<int32_t>(anchors.anchors[2 * c] * stride + max_delay - delay_a);
    offset_b[c] = static_cast<int32_t>(anchors.anchors[2 * c + 1] * stride + max_delay - delay_b);
  }

  std::vector<Buffer<float>> latencies;
  for (int w = 0; w < n_threads; ++w) latencies.emplace_back(in.n_inputs * stride);
  for (Buffer<float>& buffer : latencies) std::fill_n(buffer.get(), in.n_inputs * stride, 0.0f);

  const int64_t tiles_per_sequence = divide_up(in.n_positions, tile);
  parallel_for(n_threads, in.n_sequences * tiles_per_sequence, [&](int64_t task, int worker) {
    const int64_t sequence = task / tiles_per_sequence;
    const int64_t t_begin = task % tiles_per_sequence * tile;
    const int64_t count = std::min(tile, in.n_positions - t_begin);
    const int64_t flat = sequence * in.n_positions + t_begin;
    transpose(in, sequence, t_begin, count, max_delay, stride, latencies[worker].get());
    kernels().hash_tile({latencies[worker].get(), offset_a.data(), offset_b.data(), anchors.n_tables,
                         anchors.n_comparisons, count, out.row + flat, out.pair + flat, out.u + flat, n_flat});
  });
}

void gather(const GatherSum& sum, int64_t n_flat, int n_threads) {
  const int64_t chunk = positions_per_task(n_flat, n_threads);
  parallel_for(n_threads, divide_up(n_flat, chunk), [&](int64_t task, int) {
    kernels().gather_sum(sum, task * chunk, std::min(n_flat, (task + 1) * chunk));
  });
}

void scatter(const Anchors& anchors, const uint8_t* pair, const float* slope, int64_t n_sequences,
             int64_t n_positions, int64_t n_inputs, const float* start, float* dx, bool accumulate, int n_threads) {
  const int64_t n_flat = n_sequences * n_positions;
  const int64_t max_delay = anchors.max_delay();
  struct Ends { int32_t a, b, delay_a, delay_b; };
  std::vector<Ends> ends(anchors.n_tables * anchors.n_comparisons);
  for (size_t c = 0; c < ends.size(); ++c) {
    ends[c] = {anchors.anchors[2 * c], anchors.anchors[2 * c + 1], anchors.delays ? anchors.delays[2 * c] : 0,
               anchors.delays ? anchors.delays[2 * c + 1] : 0};
  }

  // A task owns dx of the positions [p_begin, p_end). What later positions of the same sequence send back to them is
  // computed here too, so that contributions arrive in the same order however the work is cut.
  const int64_t chunk = std::max<int64_t>(positions_per_task(n_flat, n_threads), 4 * max_delay);
  parallel_for(n_threads, divide_up(n_flat, chunk), [&](int64_t task, int) {
    const int64_t p_begin = task * chunk;
    const int64_t p_end = std::min(n_flat, p_begin + chunk);
    if (start) {
      std::copy(start + p_begin * n_inputs, start + p_end * n_inputs, dx + p_begin * n_inputs);
    } else if (!accumulate) {
      std::fill(dx + p_begin * n_inputs, dx + p_end * n_inputs, 0.0f);
    }
    const int64_t sequence_end = ((p_end - 1) / n_positions + 1) * n_positions;
    const int64_t p_last = std::min(p_end + max_delay, sequence_end);
    for (int64_t p = p_begin; p < p_last; ++p) {
      const int64_t first = std::max(p_begin, p / n_positions * n_positions);  // nothing flows before it
      for (int64_t i = 0; i < anchors.n_tables; ++i) {
        const Ends& e = ends[i * anchors.n_comparisons + pair[i * n_flat + p]];
        const float s = slope[i * n_flat + p];
        const int64_t to_a = p - e.delay_a;
        const int64_t to_b = p - e.delay_b;
        if (to_a >= first && to_a < p_end) dx[to_a * n_inputs + e.a] += s;
        if (to_b >= first && to_b < p_end) dx[to_b * n_inputs + e.b] -= s;
      }
    }
  });
}

void lookup_backward(float* tables, const Anchors& anchors, const ConstAddresses& addresses, const float* v,
                     int64_t n_sequences, int64_t n_positions, int64_t n_inputs, int64_t n_outputs, bool residual,
                     float* dx, const TableUpdate& update, int n_threads) {
  const int64_t n_flat = n_sequences * n_positions;
  const int64_t n_rows = anchors.n_rows();
  Buffer<float> slope(dx ? anchors.n_tables * n_flat : 0);

  struct Worker {
    TableOwner owner;
    Buffer<int32_t> flipped;
  };
  std::vector<Worker> workers;
  for (int w = 0; w < n_threads; ++w) {
    workers.push_back({TableOwner(n_flat, n_rows, n_outputs), Buffer<int32_t>(dx ? n_flat : 0)});
  }
  parallel_for(n_threads, anchors.n_tables, [&](int64_t i, int w) {
    const int32_t* row = addresses.row + i * n_flat;
    const uint8_t* pair = addresses.pair + i * n_flat;
    Readings readings{tables + i * n_rows * n_outputs, n_outputs, n_flat, row, nullptr, v, {nullptr, nullptr},
                      {nullptr, nullptr}};
    float* gain = slope.get() + i * n_flat;
    if (dx) {
      int32_t* flipped = workers[w].flipped.get();
      uint8_t highest_pair = 0;
      for (int64_t p = 0; p < n_flat; ++p) {
        highest_pair = std::max(highest_pair, pair[p]);
        flipped[p] = row[p] ^ (int32_t{1} << (pair[p] & 31));
      }
      if (highest_pair >= anchors.n_comparisons) throw std::invalid_argument("pair must lie below n_comparisons");
      readings.flipped[0] = flipped;
      readings.gain[0] = gain;
    }
    workers[w].owner.apply(i, readings, update);
    if (dx) kernels().surrogate_slope(addresses.u + i * n_flat, gain, gain, n_flat);
  });
  if (dx) {
    scatter(anchors, addresses.pair, slope.get(), n_sequences, n_positions, n_inputs, residual ? v : nullptr, dx,
            false, n_threads);
  }
}

}  // namespace polychron
