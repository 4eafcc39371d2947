#include "chain.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "contract.hpp"
#include "readout.hpp"
#include "threads.hpp"

namespace polychron {
namespace {

// Positions that one thread takes through all layers at a time: enough that a table's rows are read several times
// while they are in the second-level cache, few enough that latencies and logits stay there too.
constexpr int64_t kPositionsPerTask = 2048;

// The ends of some tables' comparisons, copied together.
std::vector<int32_t> of_tables(const int32_t* ends, int64_t n_comparisons, const std::vector<int32_t>& which) {
  std::vector<int32_t> some;
  for (const int32_t i : which) some.insert(some.end(), ends + 2 * i * n_comparisons, ends + 2 * (i + 1) * n_comparisons);
  return some;
}

template <class T> void grow(Buffer<T>& buffer, int64_t size) { buffer = Buffer<T>(size); }

}  // namespace

struct Chain::Worker {
  std::vector<Buffer<float>> scratch;  // a layer's hash each
  std::vector<Buffer<float>> key_scratch;
  std::vector<std::optional<PairScratch>> pairs;
  Buffer<float> logits;                // where only the nats are wanted
};

Chain::Kept::Kept(const ChainTables& own, const ChainSubset& subset, int64_t n_inputs)
    : which(subset.which), anchors(of_tables(own.anchors.anchors, own.anchors.n_comparisons, subset.which)),
      delays(own.anchors.delays ? of_tables(own.anchors.delays, own.anchors.n_comparisons, subset.which)
                                : std::vector<int32_t>()),
      scale(subset.scale), view{anchors.data(), own.anchors.delays ? delays.data() : nullptr,
                                static_cast<int64_t>(which.size()), own.anchors.n_comparisons},
      hasher(view, n_inputs) {}

void Chain::add(const ChainTables& own, const std::optional<ChainAttention>& attention) {
  Layer layer{own, attention, Hasher(own.anchors, n_inputs_), std::nullopt, std::nullopt, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  if (attention && attention->key_anchors) layer.key_hasher.emplace(*attention->key_anchors, n_inputs_);
  layers_.push_back(std::move(layer));
  capacity_ = 0;
}

void Chain::prepare(const ChainStep& step, bool train) {
  for (Layer& layer : layers_) layer.kept.reset();  // should the last step have failed half-way
  const int64_t n_flat = step.n_sequences * step.n_positions;
  if (n_flat <= capacity_ && (holds_gradients_ || !train)) return;
  capacity_ = 0;  // should memory run out, nothing is believed to be there
  for (size_t l = 0; l < layers_.size(); ++l) {
    Layer& layer = layers_[l];
    const int64_t n = layer.own.anchors.n_tables * n_flat;
    // The embedding is not trained: nothing asks for the first layer's nearest pairs, unless its code is.
    const bool needs_pairs = train && (l > 0 || layer.attention);
    grow(layer.z, n_flat * n_inputs_);
    grow(layer.row, n);
    grow(layer.pair, needs_pairs ? n : 0);
    grow(layer.u, needs_pairs ? n : 0);
    if (!layer.attention) continue;
    const int64_t n_keys = layer.key_hasher ? n : 0;
    const int64_t n_codes = layer.own.anchors.n_tables * layer.attention->n_distances;
    grow(layer.key_row, n_keys);
    grow(layer.key_pair, needs_pairs ? n_keys : 0);
    grow(layer.key_u, needs_pairs ? n_keys : 0);
    grow(layer.code_row, n_codes);
    grow(layer.code_pair, n_codes);
    grow(layer.code_u, n_codes);
  }
  const int64_t stride = merged_stride(layers_.back().own.tables.n_outputs);
  grow(error_, train ? n_flat * stride : 0);
  grow(scaled_, train ? n_flat * std::max(stride, n_inputs_) : 0);
  for (Buffer<float>& gradient : gradient_) grow(gradient, train ? n_flat * n_inputs_ : 0);
  capacity_ = n_flat;
  holds_gradients_ = train;
}

PairShape Chain::pair_shape(const Layer& layer, const ChainStep& step) const {
  const ChainAttention& attention = *layer.attention;
  const Anchors& anchors = layer.own.anchors;
  const int64_t n_key = attention.key_anchors ? attention.key_anchors->n_comparisons : anchors.n_comparisons;
  return {step.n_sequences,      step.n_positions, n_inputs_,        layer.own.tables.n_outputs, anchors.n_tables,
          anchors.n_comparisons, n_key,            attention.n_code, attention.n_distances,      attention.window};
}

void Chain::embed(const ChainStep& step, int64_t begin, int64_t end) {
  float* z = layers_.front().z.get();
  for (int64_t p = begin; p < end; ++p) std::copy_n(embedding_ + step.tokens[p] * n_inputs_, n_inputs_, z + p * n_inputs_);
}

void Chain::run_stage(size_t l, const ChainStep& step, float* nats, int64_t begin, int64_t end, Worker& worker) {
  Layer& layer = layers_[l];
  const int64_t n_flat = step.n_sequences * step.n_positions;
  const Latencies in{layer.z.get(), step.n_sequences, step.n_positions, n_inputs_, nullptr, 0};
  const bool pairs = holds_gradients_ && (l > 0 || layer.attention);
  layer.hash().positions(in, begin, end,
                         {layer.row.get(), pairs ? layer.pair.get() : nullptr, layer.u.get(), n_flat},
                         worker.scratch[l].get());
  const Tables tables = layer.tables();
  GatherSum sum{tables.data, layer.anchors().n_tables, tables.n_rows,   tables.n_outputs, tables.row_stride,
                tables.which, layer.row.get(),         n_flat,          nullptr,          nullptr,
                0,          tables.type};
  if (l + 1 == layers_.size() && !holds_gradients_) {
    score_range(sum, begin, end, step.targets, nats, worker.logits.get(), step.base);
    return;
  }
  if (l + 1 == layers_.size()) {
    sum.y = error_.get();
    sum.y_stride = merged_stride(tables.n_outputs);
    readout_range(sum, begin, end, step.targets, nats, layer.scale(), step.base);
    return;
  }
  float* y = layers_[l + 1].z.get();
  if (!layer.attention) {
    const float* residual = layer.own.residual ? layer.z.get() : nullptr;
    sum.y = y;
    sum.y_stride = n_inputs_;
    if (!layer.kept) sum.residual = residual;
    kernels().gather_sum(sum, begin, end);
    if (layer.kept) {
      for (int64_t k = begin * n_inputs_; k < end * n_inputs_; ++k) {
        y[k] = (residual ? residual[k] : 0.0f) + layer.kept->scale * y[k];
      }
    }
    return;
  }
  if (layer.key_hasher) {
    layer.key_hasher->positions(in, begin, end,
                                {layer.key_row.get(), pairs ? layer.key_pair.get() : nullptr, layer.key_u.get(), n_flat},
                                worker.key_scratch[l].get());
  }
  if (layer.own.residual) {
    std::copy(layer.z.get() + begin * n_inputs_, layer.z.get() + end * n_inputs_, y + begin * n_inputs_);
  } else {
    std::fill(y + begin * n_inputs_, y + end * n_inputs_, 0.0f);
  }
}

void Chain::forward(const ChainStep& step, float* nats) {
  const int64_t n_flat = step.n_sequences * step.n_positions;
  // Positions with the same query read the same part of an attention table: the more of them in a task, the better.
  const bool attends = std::any_of(layers_.begin(), layers_.end(), [](const Layer& layer) { return layer.attention; });
  const int64_t at_most = std::clamp<int64_t>(n_flat / ((attends ? 1 : 2) * step.n_threads), 1, kPositionsPerTask);
  const bool by_sequence = step.n_sequences >= step.n_threads;
  const int64_t per_task =
      by_sequence ? std::max<int64_t>(at_most / step.n_positions, 1) * step.n_positions : at_most;
  const int64_t n_tasks = (n_flat + per_task - 1) / per_task;

  std::vector<Worker> workers(static_cast<size_t>(step.n_threads));
  for (Worker& worker : workers) {
    if (!holds_gradients_) worker.logits = Buffer<float>(score_scratch_floats(layers_.back().own.tables.n_outputs));
    for (const Layer& layer : layers_) {
      const auto zeros = [](int64_t n) {
        Buffer<float> buffer(n);
        std::fill_n(buffer.get(), n, 0.0f);
        return buffer;
      };
      worker.scratch.push_back(zeros(layer.hash().scratch_floats()));
      worker.key_scratch.push_back(zeros(layer.key_hasher ? layer.key_hasher->scratch_floats() : 0));
      worker.pairs.emplace_back();
      if (layer.attention) worker.pairs.back().emplace(pair_shape(layer, step));
    }
  }
  for (Layer& layer : layers_) {
    if (!layer.attention) continue;
    hash_position_code(pair_shape(layer, step), layer.attention->code, layer.code_row.get(), layer.code_pair.get(),
                       layer.code_u.get());
  }

  // Attention looks at earlier positions, whose rows must be there: it is a stage of its own.
  const auto attend = [&](size_t l, int64_t begin, int64_t end, Worker& worker) {
    Layer& layer = layers_[l];
    if (!layer.attention) return;
    const int32_t* key_row = layer.key_hasher ? layer.key_row.get() : layer.row.get();
    pair_gather_range(pair_shape(layer, step), layer.own.tables, layer.row.get(), key_row, layer.code_row.get(),
                      layers_[l + 1].z.get(), begin, end, *worker.pairs[l]);
  };
  const auto in_parallel = [&](const auto& work) {
    parallel_for(step.n_threads, n_tasks, [&](int64_t task, int w) {
      work(task * per_task, std::min(n_flat, (task + 1) * per_task), workers[static_cast<size_t>(w)]);
    });
  };
  if (by_sequence) {
    in_parallel([&](int64_t begin, int64_t end, Worker& worker) {
      embed(step, begin, end);
      for (size_t l = 0; l < layers_.size(); ++l) {
        run_stage(l, step, nats, begin, end, worker);
        attend(l, begin, end, worker);
      }
    });
  } else {  // delays and attention look at positions of other tasks: what they read must be complete
    in_parallel([&](int64_t begin, int64_t end, Worker&) { embed(step, begin, end); });
    for (size_t l = 0; l < layers_.size(); ++l) {
      in_parallel([&](int64_t begin, int64_t end, Worker& worker) { run_stage(l, step, nats, begin, end, worker); });
      if (!layers_[l].attention) continue;
      in_parallel([&](int64_t begin, int64_t end, Worker& worker) { attend(l, begin, end, worker); });
    }
  }
}

void Chain::score(const ChainStep& step, float* nats) {
  if (step.n_sequences * step.n_positions == 0) return;
  prepare(step, false);
  const bool held = std::exchange(holds_gradients_, false);  // no pairs are wanted now
  forward(step, nats);
  holds_gradients_ = held;
}

const float* Chain::scaled(const float* v, int64_t n_rows, int64_t width, int64_t stride, float scale, int n_threads) {
  if (scale == 1.0f) return v;
  constexpr int64_t kPart = 512;
  float* out = scaled_.get();
  parallel_for(n_threads, (n_rows + kPart - 1) / kPart, [&](int64_t part, int) {
    for (int64_t p = part * kPart; p < std::min(n_rows, (part + 1) * kPart); ++p) {
      for (int64_t k = 0; k < width; ++k) out[p * stride + k] = scale * v[p * stride + k];
    }
  });
  return out;
}

double Chain::train(const ChainStep& step, const TableUpdate& update, const std::vector<ChainSubset>& subsets,
                    const std::vector<uint32_t>& seeds) {
  const int64_t n_flat = step.n_sequences * step.n_positions;
  if (n_flat == 0) return 0.0;
  prepare(step, true);
  for (size_t l = 0; l < subsets.size(); ++l) {
    if (!subsets[l].which.empty()) layers_[l].kept.emplace(layers_[l].own, subsets[l], n_inputs_);
  }
  Buffer<float> nats(n_flat);
  forward(step, nats.get());

  const float* v = error_.get();
  int64_t v_stride = merged_stride(layers_.back().own.tables.n_outputs);
  for (size_t l = layers_.size(); l-- > 0;) {
    Layer& layer = layers_[l];
    TableUpdate own = update;
    own.state = layer.own.state;
    if (!seeds.empty()) own.seed = seeds[l];
    if (!subsets.empty()) own.rate *= subsets[l].rate_factor;
    float* dx = l > 0 ? gradient_[l % 2].get() : nullptr;
    if (layer.attention) {
      backward_attention(layer, step, v, dx, own);
    } else {
      const float* own_v = scaled(v, n_flat, layer.own.tables.n_outputs, v_stride, layer.scale(), step.n_threads);
      lookup_backward(layer.tables(), layer.anchors(), {layer.row.get(), layer.pair.get(), layer.u.get()}, own_v,
                      v_stride, step.n_sequences, step.n_positions, n_inputs_, layer.own.residual ? v : nullptr, v_stride,
                      dx, own, step.n_threads);
    }
    layer.kept.reset();
    v = dx;
    v_stride = n_inputs_;
  }
  return std::accumulate(nats.get(), nats.get() + n_flat, 0.0);
}

void Chain::backward_attention(Layer& layer, const ChainStep& step, const float* v, float* dx,
                               const TableUpdate& update) {
  const ConstAddresses query{layer.row.get(), layer.pair.get(), layer.u.get()};
  const ConstAddresses key = layer.key_hasher
                                 ? ConstAddresses{layer.key_row.get(), layer.key_pair.get(), layer.key_u.get()}
                                 : query;
  const std::optional<Anchors>& key_anchors = layer.attention->key_anchors;
  pair_latency_backward(pair_shape(layer, step), layer.own.tables, layer.own.anchors,
                        key_anchors ? &*key_anchors : nullptr, query, key,
                        {layer.code_row.get(), layer.code_pair.get(), layer.code_u.get()}, v,
                        layer.attention->position_gradient, layer.own.residual, dx, layer.attention->code_gradient,
                        update, step.n_threads);
}

}  // namespace polychron
