// The chain's border to Python: keeps the arrays alive that the chain points into and checks what it is given.
//
// Legend: B sequence, T position, I table, R comparison, J row, K output, D distance.
#include "chain_binding.hpp"

#include <algorithm>

#include <nanobind/stl/vector.h>

#include <any>
#include <mutex>

#include "border.hpp"
#include "chain.hpp"

namespace nb = nanobind;
using namespace polychron::border;

namespace polychron {
namespace {

class ChainHandle {
 public:
  explicit ChainHandle(In<float, 2> embedding)
      : n_tokens_(static_cast<int64_t>(embedding.shape(0))), n_inputs_(static_cast<int64_t>(embedding.shape(1))),
        chain_(embedding.data(), n_inputs_) {
    require(n_inputs_ >= 1, "embedding must have at least one neuron");
    keep(embedding);
  }

  void add_tables(TableArray tables, In<int32_t, 3> anchors, Maybe<In<int32_t, 3>> delays, bool residual,
                  Maybe<Out<float, 2>> state) {
    const Anchors a = checked_anchors(anchors, delays, n_inputs_);
    const TableShape shape = checked_tables(tables, a.n_tables, a.n_comparisons);
    begin_layer(shape, residual);
    chain_.add({{tables.data(), shape.n_rows, shape.n_outputs, shape.row_stride, shape.type}, a, residual,
                checked(state, shape)},
               std::nullopt);
    n_outputs_ = shape.n_outputs;
    ends_in_attention_ = false;
    n_tables_.push_back(a.n_tables);
    keep(tables, anchors, delays, state);
  }

  void add_attention(TableArray tables, In<int32_t, 3> anchors, Maybe<In<int32_t, 3>> key_anchors, In<float, 3> code,
                     Out<float, 3> code_gradient, int64_t window, bool nearest, bool residual,
                     Maybe<Out<float, 2>> state) {
    const Anchors query = checked_anchors(anchors, std::nullopt, n_inputs_);
    std::optional<Anchors> key;
    if (key_anchors) key = checked_anchors(*key_anchors, std::nullopt, n_inputs_);
    require(!key || key->n_tables == query.n_tables, "key_anchors must name as many tables as anchors");
    const auto D = static_cast<int64_t>(code.shape(1)), n_code = static_cast<int64_t>(code.shape(2));
    require_shape(code, "code", {query.n_tables, D, n_code});
    require_shape(code_gradient, "code_gradient", {query.n_tables, D, n_code});
    require(window >= 1, "window must be at least 1; got " + std::to_string(window));
    const int64_t n_key = key ? key->n_comparisons : query.n_comparisons;
    const TableShape shape = checked_tables(tables, query.n_tables, query.n_comparisons + n_key + n_code);
    require(shape.n_outputs == n_inputs_, "attention must give as many outputs as the chain has neurons");
    begin_layer(shape, residual);
    chain_.add({{tables.data(), shape.n_rows, shape.n_outputs, shape.row_stride, shape.type}, query, residual,
                checked(state, shape)},
               ChainAttention{key, code.data(), code_gradient.data(), n_code, D, window,
                              nearest ? PositionGradient::nearest : PositionGradient::additional});
    n_outputs_ = shape.n_outputs;
    ends_in_attention_ = true;
    n_tables_.push_back(0);
    shortest_.push_back({window, D});
    keep(tables, anchors, key_anchors, code, code_gradient, state);
  }

  double train(In<int64_t, 2> tokens, In<int64_t, 2> targets, const std::string& kind, float rate, float epsilon,
               const std::vector<float>& betas, float visit_cap, const std::vector<uint32_t>& seeds,
               const std::vector<std::optional<In<int32_t, 1>>>& kept, const std::vector<float>& rate_factors,
               Maybe<In<float, 3>> base, int n_threads) {
    require(rate_factors.size() == kept.size(), "rate_factors must be one for each of kept");
    require(seeds.empty() || seeds.size() == n_tables_.size(), "seeds must be one for each layer, or none");
    const ChainStep step = checked_step(tokens, targets, base, n_threads);
    TableUpdate update;
    update.rate = rate;
    update.epsilon = epsilon;
    update.visit_cap = visit_cap;
    if (kind == "sgd") {
      update.kind = TableUpdate::Kind::sgd;
    } else if (kind == "online_sgd") {
      require(all_float32_, "tables must be float32 for kind online_sgd");
      update.kind = TableUpdate::Kind::online_sgd;
    } else if (kind == "adagrad") {
      require(all_have_state_of(&StateSizes::adagrad), "every layer must have a state for kind adagrad");
      update.kind = TableUpdate::Kind::adagrad;
    } else if (kind == "adam") {
      require(all_have_state_of(&StateSizes::adam), "every layer must have a state for kind adam");
      update.kind = TableUpdate::Kind::adam;
      set_betas(update, betas);
    } else {
      throw std::invalid_argument("kind must be sgd, online_sgd, adagrad or adam; got " + kind);
    }
    const std::vector<ChainSubset> subsets = checked_subsets(kept, rate_factors);
    nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> one_at_a_time(mutex_);
    return chain_.train(step, update, subsets, seeds);
  }

  void score(In<int64_t, 2> tokens, In<int64_t, 2> targets, Out<float, 2> nats, Maybe<In<float, 3>> base, int n_threads) {
    const ChainStep step = checked_step(tokens, targets, base, n_threads);
    require_shape(nats, "nats", {step.n_sequences, step.n_positions});
    nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> one_at_a_time(mutex_);
    chain_.score(step, nats.data());
  }

 private:
  template <class... Arrays> void keep(const Arrays&... arrays) { (kept_.push_back(arrays), ...); }

  // What comes before another layer must hand on latencies.
  void begin_layer(const TableShape& shape, bool residual) {
    require(n_outputs_ == 0 || n_outputs_ == n_inputs_,
            "a layer within the chain must give as many outputs as there are neurons, " + std::to_string(n_inputs_) +
                "; got " + std::to_string(n_outputs_));
    require(!residual || shape.n_outputs == n_inputs_, "residual needs as many outputs as inputs");
    all_float32_ = all_float32_ && shape.type == RowType::float32;
  }

  // What a layer's state would have of numbers a table, by the kind of update; and what it has, 0: there is none.
  struct StateSizes {
    int64_t adagrad, adam, held;
  };

  float* checked(const Maybe<Out<float, 2>>& state, const TableShape& shape) {
    if (state) require(state->shape(0) == static_cast<size_t>(shape.n_tables), "state must be of as many tables as the layer");
    state_sizes_.push_back({shape.n_rows, shape.n_rows * (shape.n_outputs + kAdamNumbers),
                            state ? static_cast<int64_t>(state->shape(1)) : 0});
    return data(state);
  }

  bool all_have_state_of(int64_t StateSizes::* kind) const {
    return std::all_of(state_sizes_.begin(), state_sizes_.end(),
                       [kind](const StateSizes& layer) { return layer.held == layer.*kind; });
  }

  ChainStep checked_step(const In<int64_t, 2>& tokens, const In<int64_t, 2>& targets, const Maybe<In<float, 3>>& base,
                         int n_threads) const {
    const auto B = static_cast<int64_t>(tokens.shape(0)), T = static_cast<int64_t>(tokens.shape(1));
    require(n_outputs_ > 0 && !ends_in_attention_, "the chain must end in a readout made of tables");
    require_shape(targets, "targets", {B, T});
    if (base) require_shape(*base, "base", {B, T, n_outputs_});
    check_flat(B * T);
    for (const Window& w : shortest_) {
      const int64_t furthest = std::min(T - 1, w.window);
      require(w.n_distances > furthest, "code must have more than min(n_positions - 1, window) = " +
                                            std::to_string(furthest) + " distances; got " + std::to_string(w.n_distances));
      require(B * T * std::max<int64_t>(furthest, 1) < (int64_t{1} << 31),
              "at most 2^31 - 1 pairs of positions in one call; use a smaller batch or window");
    }
    check_range(tokens, "tokens", n_tokens_);
    check_range(targets, "targets", n_outputs_);
    return {tokens.data(), targets.data(), B, T, threads(n_threads), data(base)};
  }

  std::vector<ChainSubset> checked_subsets(const std::vector<std::optional<In<int32_t, 1>>>& kept,
                                           const std::vector<float>& rate_factors) const {
    require(kept.empty() || kept.size() == n_tables_.size(), "kept must name the tables of every layer, or None");
    std::vector<ChainSubset> subsets(kept.size());
    for (size_t l = 0; l < kept.size(); ++l) {
      subsets[l].rate_factor = rate_factors[l];
      if (!kept[l]) continue;
      const int32_t* which = kept[l]->data();
      const size_t n = kept[l]->size();
      require(n_tables_[l] > 0, "attention takes part in every step in full");
      require(n >= 1, "kept must name at least one table");
      for (size_t k = 0; k < n; ++k) {
        require(which[k] >= 0 && which[k] < n_tables_[l] && (k == 0 || which[k] > which[k - 1]),
                "kept must be ascending and lie in [0, " + std::to_string(n_tables_[l]) + ")");
      }
      subsets[l].which.assign(which, which + n);
      subsets[l].scale = static_cast<float>(n_tables_[l]) / static_cast<float>(n);
    }
    return subsets;
  }

  static void check_range(const In<int64_t, 2>& ids, const char* name, int64_t n) {
    for (size_t p = 0; p < ids.size(); ++p) {
      const int64_t id = ids.data()[p];
      if (id >= 0 && id < n) continue;
      require(false, std::string(name) + " must lie in [0, " + std::to_string(n) + "); got " + std::to_string(id));
    }
  }

  struct Window { int64_t window, n_distances; };

  int64_t n_tokens_, n_inputs_, n_outputs_ = 0;
  bool ends_in_attention_ = false, all_float32_ = true;
  std::vector<Window> shortest_;
  std::vector<int64_t> n_tables_;  // of each layer; 0: attention
  std::vector<std::any> kept_;
  std::vector<StateSizes> state_sizes_;
  std::mutex mutex_;  // the chain's buffers serve one call
  Chain chain_;
};

}  // namespace

void bind_chain(nb::module_& m) {
  nb::class_<ChainHandle>(m, "Chain")
      .def(nb::init<In<float, 2>>(), nb::arg("embedding").noconvert())
      .def("add_tables", &ChainHandle::add_tables, nb::arg("tables").noconvert(), nb::arg("anchors").noconvert(),
           nb::arg("delays").noconvert().none(), nb::arg("residual"), nb::arg("state").noconvert().none())
      .def("add_attention", &ChainHandle::add_attention, nb::arg("tables").noconvert(), nb::arg("anchors").noconvert(),
           nb::arg("key_anchors").noconvert().none(), nb::arg("code").noconvert(),
           nb::arg("code_gradient").noconvert(), nb::arg("window"), nb::arg("nearest"), nb::arg("residual"),
           nb::arg("state").noconvert().none())
      .def("train", &ChainHandle::train, nb::arg("tokens").noconvert(), nb::arg("targets").noconvert(), nb::arg("kind"),
           nb::arg("rate"), nb::arg("epsilon"), nb::arg("betas"), nb::arg("visit_cap"), nb::arg("seeds"), nb::arg("kept"),
           nb::arg("rate_factors"), nb::arg("base").noconvert().none(), nb::arg("n_threads"))
      .def("score", &ChainHandle::score, nb::arg("tokens").noconvert(), nb::arg("targets").noconvert(),
           nb::arg("nats").noconvert(), nb::arg("base").noconvert().none(), nb::arg("n_threads"));
}

}  // namespace polychron
