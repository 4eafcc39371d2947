// A whole network as a chain: token embedding, layers of tables or of attention, readout with cross-entropy.
//
// One call runs a step: forward through all layers for one part of the batch after another, so that latencies stay
// in the cache, then backward layer by layer, every table updated by its owner. The same kernels in the same order as
// layer by layer from Python, hence the same bits, without what lies between the calls.
//
// Legend: B sequence, T position, P = B * T flat position, I table, R comparison, J row, K output, D distance.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "lookup.hpp"
#include "pair_lookup.hpp"

namespace polychron {

// Tables with their anchors, as a layer or as the readout.
struct ChainTables {
  Tables tables;
  Anchors anchors;
  bool residual;
  float* state;                 // of Adagrad, or null
};

struct ChainAttention {
  std::optional<Anchors> key_anchors;
  const float* code;            // (I, D, n_code)
  float* code_gradient;         // likewise, overwritten by each step
  int64_t n_code, n_distances, window;
  PositionGradient position_gradient;
};

// The tables of a layer that take part in one step; the sum of their rows is multiplied by `scale`, and they learn at
// `rate_factor` times the update's rate. Empty: all.
struct ChainSubset {
  std::vector<int32_t> which;   // ascending
  float scale = 1.0f, rate_factor = 1.0f;
};

struct ChainStep {
  const int64_t* tokens;        // (P), each a row of the embedding
  const int64_t* targets;       // (P), each a class
  int64_t n_sequences, n_positions;
  int n_threads;
  const float* base = nullptr;  // (P, n_outputs) added to the logits, or null
};

class Chain {
 public:
  // `embedding` (V, n_inputs); everything that is handed over stays with the caller, who keeps it alive.
  Chain(const float* embedding, int64_t n_inputs) : embedding_(embedding), n_inputs_(n_inputs) {}

  void add(const ChainTables&, const std::optional<ChainAttention>&);

  // The last one that was added is the readout. The tables change in place as `update` says (its state is each
  // layer's own). Returns the sum of all positions' nats.
  // `subsets`: one for each layer, or none; attention always takes part in full. `seeds`: of each layer's rounding of
  // bfloat16 rows, or none.
  double train(const ChainStep&, const TableUpdate& update, const std::vector<ChainSubset>& subsets,
               const std::vector<uint32_t>& seeds = {});

  // nats (P): the loss of every position; nothing changes.
  void score(const ChainStep&, float* nats);

 private:
  // What of a layer takes part in this step: its anchors in one piece.
  struct Kept {
    Kept(const ChainTables& own, const ChainSubset& subset, int64_t n_inputs);

    std::vector<int32_t> which, anchors, delays;
    float scale;
    Anchors view;
    Hasher hasher;
  };
  struct Layer {
    const Anchors& anchors() const { return kept ? kept->view : own.anchors; }
    const Hasher& hash() const { return kept ? kept->hasher : hasher; }
    float scale() const { return kept ? kept->scale : 1.0f; }
    Tables tables() const {
      Tables all = own.tables;
      all.which = kept ? kept->which.data() : nullptr;
      return all;
    }

    ChainTables own;
    std::optional<ChainAttention> attention;
    Hasher hasher;
    std::optional<Hasher> key_hasher;
    std::optional<Kept> kept;   // while a step leaves tables out
    Buffer<float> z;            // (P, n): what the layer reads
    Buffer<int32_t> row, key_row, code_row;
    Buffer<uint8_t> pair, key_pair, code_pair;
    Buffer<float> u, key_u, code_u;
  };
  struct Worker;

  void prepare(const ChainStep&, bool train);
  PairShape pair_shape(const Layer&, const ChainStep&) const;
  void embed(const ChainStep&, int64_t begin, int64_t end);
  void run_stage(size_t layer, const ChainStep&, float* nats, int64_t begin, int64_t end, Worker&);
  void forward(const ChainStep&, float* nats);
  // scale * v, rows of `width` numbers `stride` apart; v itself where scale is 1.
  const float* scaled(const float* v, int64_t n_rows, int64_t width, int64_t stride, float scale, int n_threads);
  void backward_attention(Layer&, const ChainStep&, const float* v, float* dx, const TableUpdate&);

  const float* embedding_;
  int64_t n_inputs_;
  std::vector<Layer> layers_;
  int64_t capacity_ = 0;        // positions that the buffers hold
  bool holds_gradients_ = false;
  Buffer<float> error_, scaled_, gradient_[2];
};

}  // namespace polychron
