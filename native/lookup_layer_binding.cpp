// A layer's anchors, checked once and laid out for the kernels, for any number of forward passes.
//
// Legend: B sequence, T position, I table, R comparison, J row, K output, H history.
#include "lookup_layer_binding.hpp"

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "border.hpp"
#include "lookup_layer.hpp"

namespace nb = nanobind;
using namespace polychron::border;

namespace polychron {
namespace {

// Where a tensor begins. An array costs more to hand over than small kernels take: ops/lookup/direct.py has looked at
// type, shape and layout of the tensors and hands over addresses; what can be asked of these is asked here.
using Address = std::uintptr_t;

template <class T> T* pointer(Address address, const char* name) {
  if (address == 0 || address % alignof(T) != 0) {
    throw std::invalid_argument(std::string(name) + " must be the address of a tensor's memory");
  }
  return reinterpret_cast<T*>(address);
}

// Holds copies: what Python does to the arrays afterwards cannot lead a kernel outside its latencies.
class LookupLayer {
 public:
  LookupLayer(In<int32_t, 3> anchors, Maybe<In<int32_t, 3>> delays, int64_t n_inputs)
      : n_inputs_(n_inputs), given_(checked_anchors(anchors, delays, n_inputs)),
        anchors_(anchors.data(), anchors.data() + anchors.size()),
        delays_(delays ? std::vector<int32_t>(delays->data(), delays->data() + delays->size()) : std::vector<int32_t>()),
        hasher_(given_, n_inputs) {
    given_.anchors = anchors_.data();
    given_.delays = delays ? delays_.data() : nullptr;
  }
  LookupLayer(const LookupLayer&) = delete;

  // x (B, T, n), tables (I, J, K) of float32 whose rows begin row_stride apart, y (B, T, K), kept (9 I B T) bytes or 0.
  void read(Address x, int64_t B, int64_t T, Address tables, int64_t K, int64_t stride, bool residual, Address y,
            Address kept, int n_threads) const {
    const int64_t n_flat = checked_positions(B, T);
    const Tables rows = checked_rows(tables, K, stride);
    require(!residual || K == n_inputs_, "residual needs as many outputs as inputs");
    const int workers = threads(n_threads);
    if (n_flat == 0) return;
    const auto* latencies = pointer<const float>(x, "x");
    auto* out = pointer<float>(y, "y");
    const Addresses keep = kept == 0 ? Addresses{nullptr, nullptr, nullptr, n_flat} : of_kept(kept, n_flat);
    nb::gil_scoped_release release;
    read_layer(hasher_, {latencies, B, T, n_inputs_, nullptr, 0}, rows, given_.n_tables, residual ? latencies : nullptr,
               out, keep, workers);
  }

  // The same tables change by SGD as `kind` says; v (B, T, K), dx (B, T, n) or 0.
  void update(Address kept, int64_t B, int64_t T, Address tables, int64_t K, int64_t stride, bool residual, Address v,
              Address dx, const std::string& kind, float rate, float visit_cap, int n_threads) const {
    const int64_t n_flat = checked_positions(B, T);
    const Tables rows = checked_rows(tables, K, stride);
    require(!residual || K == n_inputs_, "residual needs as many outputs as inputs");
    TableUpdate change;
    change.rate = rate;
    change.visit_cap = visit_cap;
    if (kind != "sgd" && kind != "online_sgd") throw std::invalid_argument("kind must be sgd or online_sgd; got " + kind);
    change.kind = kind == "sgd" ? TableUpdate::Kind::sgd : TableUpdate::Kind::online_sgd;
    const int workers = threads(n_threads);
    if (n_flat == 0) return;
    const Addresses keep = of_kept(kept, n_flat);
    const auto* gradient = pointer<const float>(v, "v");
    float* out = dx == 0 ? nullptr : pointer<float>(dx, "dx");
    nb::gil_scoped_release release;
    lookup_backward(rows, given_, {keep.row, keep.pair, keep.u}, gradient, K, B, T, n_inputs_,
                    residual ? gradient : nullptr, K, out, change, workers);
  }

 private:
  static int64_t checked_positions(int64_t B, int64_t T) {
    require(B >= 0 && T >= 0, "a batch and a sequence have no negative size");
    require(T == 0 || B < (int64_t{1} << 31) / T, "at most 2^31 - 1 positions in one call");
    return B * T;
  }
  Tables checked_rows(Address tables, int64_t K, int64_t stride) const {
    require(K >= 1 && stride >= K, "tables must have at least one output, and rows that do not overlap");
    return {pointer<float>(tables, "tables"), given_.n_rows(), K, stride, RowType::float32};
  }
  // Rows (int32), then u (float), then pairs (uint8), each (I, B, T).
  Addresses of_kept(Address kept, int64_t n_flat) const {
    const int64_t n = given_.n_tables * n_flat;
    auto* row = pointer<int32_t>(kept, "kept");
    auto* bytes = reinterpret_cast<uint8_t*>(row);
    return {row, bytes + 8 * n, reinterpret_cast<float*>(bytes + 4 * n), n_flat};
  }

  int64_t n_inputs_;
  Anchors given_;
  std::vector<int32_t> anchors_, delays_;
  Hasher hasher_;
};

}  // namespace

void bind_lookup_layer(nb::module_& m) {
  nb::class_<LookupLayer>(m, "LookupLayer")
      .def(nb::init<In<int32_t, 3>, Maybe<In<int32_t, 3>>, int64_t>(), nb::arg("anchors").noconvert(),
           nb::arg("delays").noconvert().none(), nb::arg("n_inputs"))
      .def("read", &LookupLayer::read)
      .def("update", &LookupLayer::update);
}

}  // namespace polychron
