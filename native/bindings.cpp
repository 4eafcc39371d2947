// The border to Python: declares shapes and types, checks every bound once, releases the lock, and calls a driver.
// Arrays are never copied (.noconvert) and never owned here, except those of allocate_tables.
//
// Legend: B sequence, T position, P = B * T, I table, R comparison, J row, K output, H history, D distance.
#include <nanobind/stl/vector.h>

#include "border.hpp"
#include "chain_binding.hpp"
#include "dispatch.hpp"
#include "lookup.hpp"
#include "context_tables_binding.hpp"
#include "lookup_layer_binding.hpp"
#include "memory.hpp"
#include "openmp_team.hpp"
#include "pair_lookup.hpp"
#include "probe_binding.hpp"
#include "readout.hpp"

namespace nb = nanobind;
using namespace polychron;
using namespace polychron::border;

void bind_runtime(nb::module_& m);  // runtime_binding.cpp

namespace {

// Rows that a sparse update touched, as (indices (2, M) int64, values (M, K) float32) owned by Python.
struct SparseRows {
  std::vector<std::vector<int32_t>> rows;
  std::vector<std::vector<float>> values;
};

template <class T> nb::object owned_array(T* array, std::initializer_list<size_t> shape) {
  nb::capsule owner(array, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(array, shape, owner));
}

nb::object to_python(const SparseRows& sparse, int64_t n_outputs) {
  size_t count = 0;
  for (const auto& rows : sparse.rows) count += rows.size();
  auto* indices = new int64_t[2 * count + 1];
  auto* values = new float[count * static_cast<size_t>(n_outputs) + 1];
  size_t m = 0;
  for (size_t i = 0; i < sparse.rows.size(); ++i) {
    std::copy(sparse.values[i].begin(), sparse.values[i].end(), values + m * static_cast<size_t>(n_outputs));
    for (const int32_t row : sparse.rows[i]) {
      indices[m] = static_cast<int64_t>(i);
      indices[count + m++] = row;
    }
  }
  return nb::make_tuple(owned_array(indices, {2, count}), owned_array(values, {count, static_cast<size_t>(n_outputs)}));
}

// What the Python side asks to be done with the rows' gradient; `sparse` receives rows for kind "sparse".
TableUpdate checked_update(const std::string& kind, float rate, float epsilon, const std::vector<float>& betas,
                           float visit_cap, uint32_t seed, const Maybe<Out<float, 2>>& state,
                           const Maybe<Out<float, 3>>& dense, const TableShape& shape, SparseRows& sparse) {
  TableUpdate update;
  update.rate = rate;
  update.epsilon = epsilon;
  update.visit_cap = visit_cap;
  update.seed = seed;
  if (kind == "none") {
    update.kind = TableUpdate::Kind::none;
  } else if (kind == "dense") {
    require(dense.has_value(), "dense must be given for an update of kind dense");
    require_shape(*dense, "dense", {shape.n_tables, shape.n_rows, shape.n_outputs});
    update.kind = TableUpdate::Kind::dense;
    update.dense = dense->data();
  } else if (kind == "sparse") {
    sparse.rows.resize(static_cast<size_t>(shape.n_tables));
    sparse.values.resize(static_cast<size_t>(shape.n_tables));
    update.kind = TableUpdate::Kind::sparse;
    update.sparse_rows = &sparse.rows;
    update.sparse_values = &sparse.values;
  } else if (kind == "sgd") {
    update.kind = TableUpdate::Kind::sgd;
  } else if (kind == "online_sgd") {
    require(shape.type == RowType::float32, "tables must be float32 for kind online_sgd");
    update.kind = TableUpdate::Kind::online_sgd;
  } else if (kind == "adagrad" || kind == "adam") {
    const bool adam = kind == "adam";
    require(state.has_value(), "state must be given for an update of kind " + kind);
    require_shape(*state, "state", {shape.n_tables, shape.n_rows * (adam ? shape.n_outputs + kAdamNumbers : 1)});
    update.kind = adam ? TableUpdate::Kind::adam : TableUpdate::Kind::adagrad;
    update.state = state->data();
    if (adam) set_betas(update, betas);
  } else {
    throw std::invalid_argument("kind must be none, dense, sparse, sgd, online_sgd, adagrad or adam; got " + kind);
  }
  return update;
}

void py_hash(In<float, 3> x, Maybe<In<float, 3>> history, In<int32_t, 3> anchors, Maybe<In<int32_t, 3>> delays,
             Out<int32_t, 3> row, Out<uint8_t, 3> pair, Out<float, 3> u, int n_threads) {
  const auto B = static_cast<int64_t>(x.shape(0)), T = static_cast<int64_t>(x.shape(1)),
             n = static_cast<int64_t>(x.shape(2));
  const Anchors a = checked_anchors(anchors, delays, n);
  if (history) require_shape(*history, "history", {B, static_cast<int64_t>(history->shape(1)), n});
  require_shape(row, "row", {a.n_tables, B, T});
  require_shape(pair, "pair", {a.n_tables, B, T});
  require_shape(u, "u", {a.n_tables, B, T});
  check_flat(B * T);
  const Latencies latencies{x.data(), B, T, n, data(history),
                            history ? static_cast<int64_t>(history->shape(1)) : 0};
  const int workers = threads(n_threads);
  nb::gil_scoped_release release;
  hash(latencies, a, {row.data(), pair.data(), u.data(), B * T}, workers);
}

void py_gather(ConstTableArray tables, In<int32_t, 3> row, Maybe<In<float, 3>> residual, Out<float, 3> y, int n_threads) {
  const auto B = static_cast<int64_t>(row.shape(1)), T = static_cast<int64_t>(row.shape(2)),
             K = static_cast<int64_t>(tables.shape(2)), J = static_cast<int64_t>(tables.shape(1));
  require_shape(tables, "tables", {static_cast<int64_t>(row.shape(0)), J, K});
  require_shape(y, "y", {B, T, K});
  if (residual) require_shape(*residual, "residual", {B, T, K});
  check_flat(B * T);
  const auto I = static_cast<int64_t>(row.shape(0));
  const int64_t stride = row_stride(tables, "tables");
  const RowType type = row_type(tables);
  const int workers = threads(n_threads);
  nb::gil_scoped_release release;
  check_all_rows(row.data(), I * B * T, J, workers);
  gather({tables.data(), I, J, K, stride, nullptr, row.data(), B * T, data(residual), y.data(), K, type}, B * T, workers);
}

nb::object py_lookup_backward(TableArray tables, In<int32_t, 3> anchors, Maybe<In<int32_t, 3>> delays,
                              In<int32_t, 3> row, In<uint8_t, 3> pair, In<float, 3> u, Rows<const float> v,
                              int64_t n_inputs, bool residual, Maybe<Out<float, 3>> dx, const std::string& kind,
                              float rate, float epsilon, const std::vector<float>& betas, float visit_cap, uint32_t seed,
                              Maybe<Out<float, 2>> state, Maybe<Out<float, 3>> dense, int n_threads) {
  const auto B = static_cast<int64_t>(v.shape(0)), T = static_cast<int64_t>(v.shape(1)),
             K = static_cast<int64_t>(v.shape(2));
  const Anchors a = checked_anchors(anchors, delays, n_inputs);
  const TableShape shape = checked_tables(tables, a.n_tables, a.n_comparisons);
  require_shape(v, "v", {B, T, shape.n_outputs});
  require_shape(row, "row", {a.n_tables, B, T});
  require_shape(pair, "pair", {a.n_tables, B, T});
  require_shape(u, "u", {a.n_tables, B, T});
  if (dx) require_shape(*dx, "dx", {B, T, n_inputs});
  require(!residual || K == n_inputs, "residual needs as many outputs as inputs");
  check_flat(B * T);
  SparseRows sparse;
  const TableUpdate update = checked_update(kind, rate, epsilon, betas, visit_cap, seed, state, dense, shape, sparse);
  const int64_t v_stride = row_stride(v, "v");
  const int workers = threads(n_threads);
  {
    nb::gil_scoped_release release;
    lookup_backward({tables.data(), shape.n_rows, K, shape.row_stride, shape.type}, a, {row.data(), pair.data(), u.data()}, v.data(),
                    v_stride, B, T, n_inputs, residual ? v.data() : nullptr, v_stride, data(dx), update, workers);
  }
  return update.kind == TableUpdate::Kind::sparse ? to_python(sparse, K) : nb::none();
}

void py_readout(ConstTableArray tables, In<int32_t, 3> row, In<int64_t, 2> targets, Out<float, 2> nats,
                Rows<float> error, int n_threads) {
  const auto B = static_cast<int64_t>(row.shape(1)), T = static_cast<int64_t>(row.shape(2)),
             K = static_cast<int64_t>(tables.shape(2)), J = static_cast<int64_t>(tables.shape(1));
  require_shape(tables, "tables", {static_cast<int64_t>(row.shape(0)), J, K});
  require_shape(targets, "targets", {B, T});
  require_shape(nats, "nats", {B, T});
  require_shape(error, "error", {B, T, K});
  check_flat(B * T);
  for (int64_t p = 0; p < B * T; ++p) {
    const int64_t target = targets.data()[p];
    if (target >= 0 && target < K) continue;
    require(false, "targets must lie in [0, n_outputs = " + std::to_string(K) + "); got " + std::to_string(target));
  }
  const auto I = static_cast<int64_t>(row.shape(0));
  const int64_t stride = row_stride(tables, "tables"), error_stride = row_stride(error, "error");
  const RowType type = row_type(tables);
  const int workers = threads(n_threads);
  nb::gil_scoped_release release;
  check_all_rows(row.data(), I * B * T, J, workers);
  readout_cross_entropy({tables.data(), I, J, K, stride, nullptr, row.data(), B * T, nullptr, error.data(), error_stride, type},
                        B * T, targets.data(), nats.data(), workers);
}

void py_weigh_error(Rows<const float> error, In<float, 2> weight, Rows<float> out, int n_threads) {
  const auto B = static_cast<int64_t>(error.shape(0)), T = static_cast<int64_t>(error.shape(1)),
             K = static_cast<int64_t>(error.shape(2));
  require_shape(weight, "weight", {B, T});
  require_shape(out, "out", {B, T, K});
  const int64_t stride = row_stride(error, "error");
  require(row_stride(out, "out") == stride, "out must be padded as error is");
  const int workers = threads(n_threads);
  nb::gil_scoped_release release;
  weigh_error(error.data(), weight.data(), B * T, K, stride, out.data(), workers);
}

void py_hash_position_code(In<float, 3> code, Out<int32_t, 2> row, Out<uint8_t, 2> pair, Out<float, 2> u) {
  const auto I = static_cast<int64_t>(code.shape(0)), D = static_cast<int64_t>(code.shape(1)),
             n_code = static_cast<int64_t>(code.shape(2));
  require(n_code <= kMaxComparisons, "position_code must have at most 30 values a distance");
  require_shape(row, "row", {I, D});
  require_shape(pair, "pair", {I, D});
  require_shape(u, "u", {I, D});
  PairShape shape{};
  shape.n_tables = I;
  shape.n_distances = D;
  shape.n_code = n_code;
  hash_position_code(shape, code.data(), row.data(), pair.data(), u.data());
}

PairShape checked_pair_shape(int64_t B, int64_t T, int64_t n_inputs, const TableShape& tables, int64_t n_query,
                             int64_t n_key, int64_t n_code, int64_t n_distances, int64_t window,
                             int64_t n_past = 0) {
  require(window >= 1, "window must be at least 1; got " + std::to_string(window));
  const int64_t furthest = std::min(n_past + T - 1, window);
  require(n_distances > furthest, "position_code must have more than min(n_positions - 1, window) = " +
                                      std::to_string(furthest) + " distances; got " + std::to_string(n_distances));
  check_flat(B * (n_past + T));
  require(B * T * std::max<int64_t>(furthest, 1) < (int64_t{1} << 31),
          "at most 2^31 - 1 pairs of positions in one call; use a smaller batch or window");
  return {B, T, n_inputs, tables.n_outputs, tables.n_tables, n_query, n_key, n_code, n_distances, window,
          n_past};
}

void py_pair_gather(ConstTableArray tables, In<int32_t, 3> query_row, In<int32_t, 3> key_row, In<int32_t, 2> code_row,
                    int64_t n_query, int64_t n_key, int64_t n_code, int64_t window, Out<float, 3> y, int n_threads) {
  const auto I = static_cast<int64_t>(query_row.shape(0)), B = static_cast<int64_t>(query_row.shape(1)),
             T = static_cast<int64_t>(query_row.shape(2)), D = static_cast<int64_t>(code_row.shape(1));
  const TableShape table_shape = checked_tables(tables, I, n_query + n_key + n_code);
  const int64_t n_past = static_cast<int64_t>(key_row.shape(2)) - T;
  require(n_past >= 0, "key_row must have at least as many positions as query_row");
  require_shape(key_row, "key_row", {I, B, n_past + T});
  require_shape(code_row, "code_row", {I, D});
  require_shape(y, "y", {B, T, table_shape.n_outputs});
  const PairShape shape = checked_pair_shape(B, T, 0, table_shape, n_query, n_key, n_code, D, window, n_past);
  const int workers = threads(n_threads);
  nb::gil_scoped_release release;
  check_all_rows(query_row.data(), I * B * T, int64_t{1} << n_query, workers);
  check_all_rows(key_row.data(), I * B * (n_past + T), int64_t{1} << n_key, workers);
  check_all_rows(code_row.data(), I * D, int64_t{1} << n_code, workers);
  // Gathering only reads.
  pair_gather(shape, {const_cast<void*>(tables.data()), table_shape.n_rows, table_shape.n_outputs, table_shape.row_stride,
                      table_shape.type},
              query_row.data(), key_row.data(), code_row.data(), y.data(), workers);
}

nb::object py_pair_backward(TableArray tables, In<int32_t, 3> anchors, Maybe<In<int32_t, 3>> key_anchors,
                            In<int32_t, 3> query_row, In<uint8_t, 3> query_pair, In<float, 3> query_u,
                            In<int32_t, 3> key_row, In<uint8_t, 3> key_pair, In<float, 3> key_u,
                            In<int32_t, 2> code_row, In<uint8_t, 2> code_pair, In<float, 2> code_u, In<float, 3> v,
                            int64_t n_inputs, int64_t n_code, int64_t window, bool nearest, bool residual, Maybe<Out<float, 3>> dx,
                            Out<float, 3> dcode, const std::string& kind, float rate, float epsilon,
                            const std::vector<float>& betas, float visit_cap, uint32_t seed, Maybe<Out<float, 2>> state,
                            Maybe<Out<float, 3>> dense, int n_threads) {
  const auto B = static_cast<int64_t>(v.shape(0)), T = static_cast<int64_t>(v.shape(1)),
             K = static_cast<int64_t>(v.shape(2)), D = static_cast<int64_t>(code_row.shape(1));
  const Anchors query = checked_anchors(anchors, std::nullopt, n_inputs);
  const Anchors key = key_anchors ? checked_anchors(*key_anchors, std::nullopt, n_inputs) : query;
  const int64_t I = query.n_tables;
  require(key.n_tables == I, "key_anchors must name as many tables as anchors");
  require(n_code >= 0, "n_code must not be negative");
  const TableShape table_shape = checked_tables(tables, I, query.n_comparisons + key.n_comparisons + n_code);
  require_shape(v, "v", {B, T, table_shape.n_outputs});
  for (const auto* rows : {&query_row, &key_row}) require_shape(*rows, "row", {I, B, T});
  for (const auto* pairs : {&query_pair, &key_pair}) require_shape(*pairs, "pair", {I, B, T});
  for (const auto* us : {&query_u, &key_u}) require_shape(*us, "u", {I, B, T});
  require_shape(code_row, "code_row", {I, D});
  require_shape(code_pair, "code_pair", {I, D});
  require_shape(code_u, "code_u", {I, D});
  if (dx) require_shape(*dx, "dx", {B, T, n_inputs});
  require_shape(dcode, "dcode", {I, D, n_code});
  require(!residual || K == n_inputs, "residual needs as many outputs as inputs");
  const PairShape shape =
      checked_pair_shape(B, T, n_inputs, table_shape, query.n_comparisons, key.n_comparisons, n_code, D, window);
  const auto below = [](const auto& pairs, int64_t n) {
    return std::all_of(pairs.data(), pairs.data() + pairs.size(), [n](uint8_t r) { return r < n; });
  };
  require(below(query_pair, query.n_comparisons) && below(key_pair, key.n_comparisons) &&
              below(code_pair, std::max<int64_t>(n_code, 1)),
          "pair must lie below the number of comparisons");
  SparseRows sparse;
  const TableUpdate update = checked_update(kind, rate, epsilon, betas, visit_cap, seed, state, dense, table_shape, sparse);
  const int workers = threads(n_threads);
  {
    nb::gil_scoped_release release;
    pair_latency_backward(shape, {tables.data(), table_shape.n_rows, K, table_shape.row_stride, table_shape.type}, query,
                          key_anchors ? &key : nullptr, {query_row.data(), query_pair.data(), query_u.data()},
                          {key_row.data(), key_pair.data(), key_u.data()},
                          {code_row.data(), code_pair.data(), code_u.data()}, v.data(),
                          nearest ? PositionGradient::nearest : PositionGradient::additional, residual, data(dx),
                          dcode.data(), update, workers);
  }
  return update.kind == TableUpdate::Kind::sparse ? to_python(sparse, K) : nb::none();
}

nb::object py_allocate_tables(const std::vector<size_t>& shape, int n_threads, bool bfloat16) {
  require(!shape.empty(), "shape must not be empty");
  size_t bytes = static_cast<size_t>(row_number_bytes(bfloat16 ? RowType::bfloat16 : RowType::float32));
  for (const size_t size : shape) {
    require(size == 0 || bytes <= (size_t{1} << 46) / size, "shape asks for more than 64 TiB");
    bytes *= size;
  }
  struct Block { void* memory; size_t bytes; };
  const int workers = threads(n_threads);
  auto* block = new Block{nullptr, bytes};
  nb::capsule owner(block, [](void* p) noexcept {
    auto* held = static_cast<Block*>(p);
    if (held->memory) free_tables(held->memory, held->bytes);
    delete held;
  });
  {
    nb::gil_scoped_release release;
    block->memory = allocate_tables(bytes, workers);
  }
  if (bfloat16) {
    return nb::cast(
        nb::ndarray<nb::numpy, int16_t>(static_cast<int16_t*>(block->memory), shape.size(), shape.data(), owner));
  }
  return nb::cast(nb::ndarray<nb::numpy, float>(static_cast<float*>(block->memory), shape.size(), shape.data(), owner));
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native kernels of polychron. Private: use polychron.ops.";
  bind_chain(m);
  bind_lookup_layer(m);
  bind_context_tables(m);
  bind_probe(m);
  m.def("available_kernels", &available_kernels);
  m.def("use_kernels", &use_kernels, nb::arg("name"));
  m.def("share_openmp_team", &share_openmp_team, nb::arg("share"));
  m.def("n_openmp_regions", &n_openmp_regions);
  m.def("current_kernels", &current_kernels);
  m.def("allocate_tables", &py_allocate_tables, nb::arg("shape"), nb::arg("n_threads"),
        nb::arg("bfloat16") = false);

  m.def("hash", &py_hash, nb::arg("x").noconvert(), nb::arg("history").noconvert().none(),
        nb::arg("anchors").noconvert(), nb::arg("delays").noconvert().none(), nb::arg("row").noconvert(),
        nb::arg("pair").noconvert(), nb::arg("u").noconvert(), nb::arg("n_threads"));
  m.def("gather", &py_gather, nb::arg("tables").noconvert(), nb::arg("row").noconvert(),
        nb::arg("residual").noconvert().none(), nb::arg("y").noconvert(), nb::arg("n_threads"));
  m.def("lookup_backward", &py_lookup_backward, nb::arg("tables").noconvert(), nb::arg("anchors").noconvert(),
        nb::arg("delays").noconvert().none(), nb::arg("row").noconvert(), nb::arg("pair").noconvert(),
        nb::arg("u").noconvert(), nb::arg("v").noconvert(), nb::arg("n_inputs"), nb::arg("residual"),
        nb::arg("dx").noconvert().none(), nb::arg("kind"), nb::arg("rate"), nb::arg("epsilon"), nb::arg("betas"), nb::arg("visit_cap"),
        nb::arg("seed"), nb::arg("state").noconvert().none(), nb::arg("dense").noconvert().none(), nb::arg("n_threads"));
  m.def("readout_cross_entropy", &py_readout, nb::arg("tables").noconvert(), nb::arg("row").noconvert(),
        nb::arg("targets").noconvert(), nb::arg("nats").noconvert(), nb::arg("error").noconvert(),
        nb::arg("n_threads"));
  m.def("weigh_error", &py_weigh_error, nb::arg("error").noconvert(), nb::arg("weight").noconvert(),
        nb::arg("out").noconvert(), nb::arg("n_threads"));
  m.def("hash_position_code", &py_hash_position_code, nb::arg("code").noconvert(), nb::arg("row").noconvert(),
        nb::arg("pair").noconvert(), nb::arg("u").noconvert());
  m.def("pair_gather", &py_pair_gather, nb::arg("tables").noconvert(), nb::arg("query_row").noconvert(),
        nb::arg("key_row").noconvert(), nb::arg("code_row").noconvert(), nb::arg("n_query"), nb::arg("n_key"),
        nb::arg("n_code"), nb::arg("window"), nb::arg("y").noconvert(), nb::arg("n_threads"));
  m.def("pair_backward", &py_pair_backward, nb::arg("tables").noconvert(), nb::arg("anchors").noconvert(),
        nb::arg("key_anchors").noconvert().none(), nb::arg("query_row").noconvert(),
        nb::arg("query_pair").noconvert(), nb::arg("query_u").noconvert(), nb::arg("key_row").noconvert(),
        nb::arg("key_pair").noconvert(), nb::arg("key_u").noconvert(), nb::arg("code_row").noconvert(),
        nb::arg("code_pair").noconvert(), nb::arg("code_u").noconvert(), nb::arg("v").noconvert(),
        nb::arg("n_inputs"), nb::arg("n_code"), nb::arg("window"), nb::arg("nearest"), nb::arg("residual"), nb::arg("dx").noconvert().none(),
        nb::arg("dcode").noconvert(), nb::arg("kind"), nb::arg("rate"), nb::arg("epsilon"), nb::arg("betas"), nb::arg("visit_cap"),
        nb::arg("seed"), nb::arg("state").noconvert().none(), nb::arg("dense").noconvert().none(), nb::arg("n_threads"));

  bind_runtime(m);
}
