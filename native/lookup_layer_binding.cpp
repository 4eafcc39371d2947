// A layer's anchors, checked once and laid out for the kernels, for any number of forward passes.
//
// Legend: B sequence, T position, I table, R comparison, J row, K output, H history.
#include "lookup_layer_binding.hpp"

#include <cstdint>

#include "border.hpp"
#include "lookup_layer.hpp"

namespace nb = nanobind;
using namespace polychron::border;

namespace polychron {
namespace {

// Holds copies: what Python does to the arrays afterwards cannot lead a kernel outside its latencies.
class LookupLayer {
 public:
  LookupLayer(In<int32_t, 3> anchors, Maybe<In<int32_t, 3>> delays, int64_t n_inputs)
      : n_inputs_(n_inputs), checked_(checked_anchors(anchors, delays, n_inputs)), hasher_(checked_, n_inputs) {
    checked_.anchors = checked_.delays = nullptr;  // the arrays are Python's
  }

  void read(In<float, 3> x, Maybe<In<float, 3>> history, TableArray tables, bool residual, Out<float, 3> y,
            Maybe<Out<uint8_t, 1>> kept, int n_threads) const {
    const auto B = static_cast<int64_t>(x.shape(0)), T = static_cast<int64_t>(x.shape(1));
    const int64_t I = checked_.n_tables;
    const TableShape shape = checked_tables(tables, I, checked_.n_comparisons);
    require_shape(x, "x", {B, T, n_inputs_});
    if (history) require_shape(*history, "history", {B, static_cast<int64_t>(history->shape(1)), n_inputs_});
    require_shape(y, "y", {B, T, shape.n_outputs});
    require(!residual || shape.n_outputs == n_inputs_, "residual needs as many outputs as inputs");
    check_flat(B * T);
    const Latencies latencies{x.data(), B, T, n_inputs_, data(history),
                              history ? static_cast<int64_t>(history->shape(1)) : 0};
    const Tables rows{tables.data(), shape.n_rows, shape.n_outputs, shape.row_stride, shape.type};
    Addresses keep{nullptr, nullptr, nullptr, B * T};
    if (kept) {  // rows (int32), then u (float), then pairs (uint8), each (I, B, T)
      const int64_t n = I * B * T;
      require_shape(*kept, "kept", {9 * n});
      const auto address = reinterpret_cast<std::uintptr_t>(kept->data());
      require(address % alignof(float) == 0, "kept must lie on a multiple of 4 bytes");
      keep.row = reinterpret_cast<int32_t*>(kept->data());
      keep.u = reinterpret_cast<float*>(kept->data() + 4 * n);
      keep.pair = kept->data() + 8 * n;
    }
    const int workers = threads(n_threads);
    nb::gil_scoped_release release;
    read_layer(hasher_, latencies, rows, I, residual ? x.data() : nullptr, y.data(), keep, workers);
  }

 private:
  int64_t n_inputs_;
  Anchors checked_;
  Hasher hasher_;
};

}  // namespace

void bind_lookup_layer(nb::module_& m) {
  nb::class_<LookupLayer>(m, "LookupLayer")
      .def(nb::init<In<int32_t, 3>, Maybe<In<int32_t, 3>>, int64_t>(), nb::arg("anchors").noconvert(),
           nb::arg("delays").noconvert().none(), nb::arg("n_inputs"))
      .def("read", &LookupLayer::read, nb::arg("x").noconvert(), nb::arg("history").noconvert().none(),
           nb::arg("tables").noconvert(), nb::arg("residual"), nb::arg("y").noconvert(),
           nb::arg("kept").noconvert().none(), nb::arg("n_threads"));
}

}  // namespace polychron
