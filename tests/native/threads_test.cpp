// Every driver on 2, 3 and 8 threads gives the bits of one thread; what ThreadSanitizer watches.
#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>

#include "chain.hpp"
#include "contract.hpp"
#include "data.hpp"
#include "dispatch.hpp"
#include "lookup.hpp"
#include "lookup_layer.hpp"
#include "memory.hpp"
#include "pair_lookup.hpp"
#include "probe.hpp"
#include "readout.hpp"
#include "threads.hpp"

namespace {

using namespace polychron;
using namespace polychron::testing;
using Kind = TableUpdate::Kind;

constexpr Kind kKinds[] = {Kind::none, Kind::dense, Kind::sparse, Kind::sgd, Kind::adagrad, Kind::adam, Kind::online_sgd};

// Tables with their anchors, from n to K neurons.
struct LayerData {
  int64_t n_tables, n_comparisons, K, row_stride;
  std::vector<int32_t> anchors, delays;
  std::vector<float> tables, state;
  bool delayed;

  LayerData(Random& draw, int64_t n, int64_t n_outputs, int64_t I, int64_t R, int64_t max_delay, int64_t extra_bits = 0)
      : n_tables(I), n_comparisons(R), K(n_outputs), row_stride(n_outputs + 3), anchors(draw.ints(I * R * 2, n)),
        delays(draw.ints(I * R * 2, max_delay + 1)), tables(draw.reals((I << (R + extra_bits)) * row_stride)),
        state(static_cast<size_t>((I << (R + extra_bits)) * (n_outputs + kAdamNumbers)), 0.5f), delayed(max_delay > 0) {}

  Anchors ends() const { return {anchors.data(), delayed ? delays.data() : nullptr, n_tables, n_comparisons}; }
  Tables rows(int64_t extra_bits = 0) {
    return {tables.data(), int64_t{1} << (n_comparisons + extra_bits), K, row_stride};
  }
};

std::vector<float> zeros(int64_t n) { return std::vector<float>(static_cast<size_t>(n)); }

// A table update of each kind, and where its results go.
struct Update {
  std::vector<float> dense;
  std::vector<std::vector<int32_t>> sparse_rows;
  std::vector<std::vector<float>> sparse_values;
  TableUpdate update;

  Update(Kind kind, LayerData& layer, int64_t n_rows)
      : dense(static_cast<size_t>(layer.n_tables * n_rows * layer.K)),
        sparse_rows(static_cast<size_t>(layer.n_tables)), sparse_values(static_cast<size_t>(layer.n_tables)),
        update{kind, 0.01f, 1e-8f, 4.0f, 77u, layer.state.data(), dense.data(), &sparse_rows, &sparse_values,
               0.9f, 0.1f, 0.99f, 0.01f} {}

  void collect(const LayerData& layer, Bits& out) const {
    out.add(layer.tables);
    out.add(layer.state);
    out.add(dense);
    for (const auto& rows : sparse_rows) out.add(rows);
    for (const auto& values : sparse_values) out.add(values);
  }
};

struct AddressData {
  std::vector<int32_t> row;
  std::vector<uint8_t> pair;
  std::vector<float> u;
  explicit AddressData(int64_t n) : row(static_cast<size_t>(n)), pair(static_cast<size_t>(n)), u(static_cast<size_t>(n)) {}
  Addresses out(int64_t plane) { return {row.data(), pair.data(), u.data(), plane}; }
  ConstAddresses in() const { return {row.data(), pair.data(), u.data()}; }
};

// Tables of bfloat16 in the place of a layer's own.
struct HalfTables {
  std::vector<Bfloat16> numbers;
  HalfTables(Random& draw, const Tables& like, int64_t n_tables)
      : numbers(draw.halves(n_tables * like.n_rows * like.row_stride)) {}
  Tables instead_of(const Tables& like) {
    Tables rows = like;
    rows.data = numbers.data();
    rows.type = RowType::bfloat16;
    return rows;
  }
};

void layers(int n_threads, Random& draw, Bits& out) {
  for (const Kind kind : kKinds) {
    const bool wakes = draw.below(2) > 0;  // is large enough for a second thread
    const int64_t B = draw.between(1, 4), T = draw.between(1, wakes ? 4000 : 400), n = draw.between(2, 20), P = B * T;
    const int64_t H = draw.below(5), n_tables = draw.between(1, wakes ? 40 : 9);
    const int64_t max_delay = draw.below(2) * draw.between(1, 9);
    LayerData layer(draw, n, n, n_tables, draw.between(1, 6), max_delay);
    const std::vector<float> x = draw.reals(P * n), history = draw.reals(B * H * n), v = draw.reals(P * n);
    AddressData addresses(n_tables * P);
    hash({x.data(), B, T, n, history.data(), H}, layer.ends(), addresses.out(P), n_threads);
    std::vector<float> y = zeros(P * n), dx = zeros(P * n);
    HalfTables halves(draw, layer.rows(), n_tables);
    const bool is_half = kind != Kind::online_sgd && draw.below(3) == 0;
    const Tables rows = is_half ? halves.instead_of(layer.rows()) : layer.rows();
    gather({rows.data, n_tables, rows.n_rows, n, rows.row_stride, nullptr, addresses.row.data(), P, x.data(), y.data(),
            n, rows.type}, P, n_threads);
    Update update(kind, layer, rows.n_rows);
    const bool wants_dx = draw.below(4) > 0;
    lookup_backward(rows, layer.ends(), addresses.in(), v.data(), n, B, T, n,
                    draw.below(2) > 0 ? v.data() : nullptr, n, wants_dx ? dx.data() : nullptr, update.update, n_threads);
    out.add(addresses.row);
    out.add(addresses.pair);
    out.add(addresses.u);
    out.add(y);
    out.add(dx);
    out.add(halves.numbers);
    update.collect(layer, out);
  }
}

// A layer's forward pass in one call is its hash and its gather; rows kept or not.
void whole_layers(int n_threads, Random& draw, Bits& out) {
  for (int round = 0; round < 6; ++round) {
    const int64_t B = draw.between(1, 4), T = draw.between(1, 1800), n = draw.between(2, 60), P = B * T;
    const int64_t H = draw.below(5), n_tables = draw.between(1, 40), max_delay = draw.below(2) * draw.between(1, 9);
    LayerData layer(draw, n, n, n_tables, draw.between(1, 6), max_delay);
    const std::vector<float> x = draw.reals(P * n), history = draw.reals(B * H * n);
    const Latencies in{x.data(), B, T, n, history.data(), H};
    const Tables rows = layer.rows();
    const float* residual = draw.below(2) ? x.data() : nullptr;
    const Hasher hasher(layer.ends(), n);
    AddressData kept(n_tables * P), apart(n_tables * P);
    std::vector<float> y = zeros(P * n), y_kept = y, y_apart = y;
    read_layer(hasher, in, rows, n_tables, residual, y.data(), {nullptr, nullptr, nullptr, P}, n_threads);
    read_layer(hasher, in, rows, n_tables, residual, y_kept.data(), kept.out(P), n_threads);
    hash(in, layer.ends(), apart.out(P), n_threads);
    gather({rows.data, n_tables, rows.n_rows, n, rows.row_stride, nullptr, apart.row.data(), P, residual,
            y_apart.data(), n}, P, n_threads);
    if (y != y_apart || y_kept != y_apart || kept.row != apart.row || kept.pair != apart.pair || kept.u != apart.u) {
      throw std::logic_error("read_layer differs from hash and gather");
    }
    out.add(y);
  }
}

void readouts(int n_threads, Random& draw, Bits& out) {
  const int64_t P = draw.between(1, 3000), K = draw.between(1, 90), n_tables = 4;
  LayerData layer(draw, 5, K, n_tables, 3, 0);
  const std::vector<int32_t> row = draw.ints(n_tables * P, 8);
  const std::vector<int64_t> target = draw.classes(P, K);
  const std::vector<float> weight = draw.reals(P);
  std::vector<float> error = zeros(P * K), nats = zeros(P), weighed = zeros(P * K);
  const Tables rows = layer.rows();
  readout_cross_entropy({rows.data, n_tables, rows.n_rows, K, rows.row_stride, nullptr, row.data(), P, nullptr, error.data(), K},
                        P, target.data(), nats.data(), n_threads);
  weigh_error(error.data(), weight.data(), P, K, K, weighed.data(), n_threads);
  out.add(error);
  out.add(nats);
  out.add(weighed);
}

void attention(int n_threads, Random& draw, Bits& out) {
  for (const Kind kind : kKinds) {
    const int64_t B = draw.between(1, 3), T = draw.between(1, 40), n = draw.between(2, 12), P = B * T;
    const int64_t n_tables = draw.between(1, 6), n_code = draw.below(3), n_key = draw.between(1, 3);
    const int64_t window = draw.below(2) ? T : draw.between(1, 5), D = T + draw.below(3);
    const bool shared = draw.below(2) > 0;
    LayerData keys(draw, n, 1, n_tables, n_key, 0);
    LayerData layer(draw, n, n, n_tables, shared ? n_key : draw.between(1, 3), 0, n_key + n_code);
    const PairShape shape{B, T, n, n, n_tables, layer.n_comparisons, n_key, n_code, D, window};
    const std::vector<float> x = draw.reals(P * n), code = draw.reals(n_tables * D * n_code);
    std::vector<float> v = draw.reals(P * n), y = x, dx = zeros(P * n), dcode = zeros(n_tables * D * n_code);
    AddressData query(n_tables * P), key(n_tables * P), relative(n_tables * D);
    const Latencies in{x.data(), B, T, n, nullptr, 0};
    hash(in, layer.ends(), query.out(P), n_threads);
    hash(in, shared ? layer.ends() : keys.ends(), key.out(P), n_threads);
    hash_position_code(shape, code.data(), relative.row.data(), relative.pair.data(), relative.u.data());
    const Tables rows = layer.rows(n_key + n_code);
    pair_gather(shape, rows, query.row.data(), key.row.data(), relative.row.data(), y.data(), n_threads);
    const Anchors key_ends = keys.ends();
    Update update(kind, layer, rows.n_rows);
    pair_latency_backward(shape, rows, layer.ends(), shared ? nullptr : &key_ends, query.in(), key.in(), relative.in(),
                          v.data(), draw.below(2) ? PositionGradient::nearest : PositionGradient::additional,
                          draw.below(2) > 0, draw.below(4) ? dx.data() : nullptr, dcode.data(), update.update,
                          n_threads);
    out.add(y);
    out.add(dx);
    out.add(dcode);
    update.collect(layer, out);
  }
}

void chains(int n_threads, Random& draw, Bits& out) {
  for (const Kind kind : {Kind::sgd, Kind::adagrad, Kind::adam, Kind::online_sgd}) {
    const int64_t n = 8, V = 11, D = 90, window = 7, n_code = 2;
    LayerData first(draw, n, n, 5, 4, 3), heads(draw, n, n, 3, 2, 0, 2 + n_code), keys(draw, n, 1, 3, 2, 0);
    LayerData readout(draw, n, V, 4, 5, 2);
    const std::vector<float> embedding = draw.reals(V * n), code = draw.reals(heads.n_tables * D * n_code);
    std::vector<float> dcode = zeros(heads.n_tables * D * n_code);
    Chain chain(embedding.data(), n);
    chain.add({first.rows(), first.ends(), true, first.state.data()}, std::nullopt);
    chain.add({heads.rows(2 + n_code), heads.ends(), true, heads.state.data()},
              ChainAttention{keys.ends(), code.data(), dcode.data(), n_code, D, window, PositionGradient::additional});
    chain.add({readout.rows(), readout.ends(), false, readout.state.data()}, std::nullopt);
    TableUpdate update;
    update.kind = kind;
    update.rate = 0.05f;
    update.epsilon = 1e-8f;
    update.visit_cap = 3.0f;
    set_betas(update, {0.9f, 0.1f, 0.99f, 0.01f});
    for (int step = 0; step < 3; ++step) {  // from many sequences to fewer than there are threads
      const int64_t B = step == 2 ? 1 : draw.between(1, 9), T = draw.between(1, D);
      const std::vector<int64_t> tokens = draw.classes(B * T, V), targets = draw.classes(B * T, V);
      std::vector<float> nats = zeros(B * T);
      std::vector<ChainSubset> subsets;
      if (step == 1) subsets = {{{0, 3}, 2.5f}, {}, {{1, 2, 3}, 4.0f / 3.0f}};  // the others are left out
      out.add(static_cast<float>(chain.train({tokens.data(), targets.data(), B, T, n_threads}, update, subsets)));
      chain.score({tokens.data(), targets.data(), B, T, n_threads}, nats.data());
      out.add(nats);
      out.add(dcode);
    }
    for (const LayerData* layer : {&first, &heads, &readout}) {
      out.add(layer->tables);
      out.add(layer->state);
    }
  }
}

// Tables left out can leave fewer neurons to be compared, whose longer tile takes more scratch than all tables' does.
void chains_with_longer_tiles(int n_threads, Random& draw, Bits& out) {
  const int64_t n = 33, I = 17, V = 5, B = 3, T = 400;
  LayerData layer(draw, n, n, I, 1, 0), readout(draw, n, V, I, 1, 0);
  std::vector<int32_t> most;
  for (int32_t i = 0; i < I; ++i) {
    for (LayerData* each : {&layer, &readout}) {
      each->anchors[static_cast<size_t>(2 * i)] = (2 * i + 1) % static_cast<int32_t>(n);
      each->anchors[static_cast<size_t>(2 * i + 1)] = 2 * i;
    }
    if (i < I - 1) most.push_back(i);
  }
  Anchors some = layer.ends();
  some.n_tables = I - 1;
  if (Hasher(some, n).scratch_floats() <= Hasher(layer.ends(), n).scratch_floats()) {
    throw std::logic_error("this test needs other sizes: fewer tables no longer take more scratch");
  }
  const std::vector<float> embedding = draw.reals(V * n);
  Chain chain(embedding.data(), n);
  chain.add({layer.rows(), layer.ends(), true, nullptr}, std::nullopt);
  chain.add({readout.rows(), readout.ends(), false, nullptr}, std::nullopt);
  TableUpdate update;
  update.kind = Kind::sgd;
  update.rate = 0.05f;
  update.visit_cap = 8.0f;
  const std::vector<int64_t> tokens = draw.classes(B * T, V), targets = draw.classes(B * T, V);
  const std::vector<ChainSubset> subsets = {{most, 17.0f / 16.0f}, {most, 17.0f / 16.0f}};
  out.add(static_cast<float>(chain.train({tokens.data(), targets.data(), B, T, n_threads}, update, subsets)));
  out.add(layer.tables);
  out.add(readout.tables);
}

// Rounds of the pool from several threads at once, with and without a task that throws.
bool pool_is_sound() {
  std::atomic<int64_t> n_done{0}, n_thrown{0};
  const auto use = [&](int rounds) {
    for (int round = 0; round < rounds; ++round) {
      const bool throws = round % 5 == 0;
      try {
        parallel_for(1 + round % 4, 17, [&](int64_t task, int worker) {
          if (worker >= 1 + round % 4) std::abort();
          if (throws && task == 3) throw std::runtime_error("as agreed");
          if (task == 0) parallel_for(2, 3, [&](int64_t, int) {});
          ++n_done;
        });
      } catch (const std::runtime_error&) {
        ++n_thrown;
      }
    }
  };
  std::thread other([&] { use(200); });
  use(200);
  other.join();
  void* small = allocate_tables(1000, 3);
  void* large = allocate_tables((std::size_t{5} << 20) + 4, 3);
  const auto is_zero = [](const void* p, size_t n) {
    return std::all_of(static_cast<const char*>(p), static_cast<const char*>(p) + n, [](char c) { return c == 0; });
  };
  const bool zero = is_zero(small, 1000) && is_zero(large, (std::size_t{5} << 20) + 4);
  free_tables(small, 1000);
  free_tables(large, (std::size_t{5} << 20) + 4);
  if (n_thrown == 80 && n_done >= 320 * 17 && zero) return true;
  std::printf("FAILED pool: %lld tasks done, %lld thrown, memory %s\n", static_cast<long long>(n_done.load()),
              static_cast<long long>(n_thrown.load()), zero ? "zero" : "not zero");
  return false;
}

}  // namespace

int main() {
  const std::pair<const char*, void (*)(int, Random&, Bits&)> cases[] = {
      {"lookup", layers}, {"read_layer", whole_layers}, {"readout", readouts}, {"pair_lookup", attention},
      {"chain", chains}, {"chain with longer tiles", chains_with_longer_tiles}};
  int n_failed = !pool_is_sound(), n_compared = 0;
  for (const std::string& set : {available_kernels().front(), available_kernels().back()}) {  // drivers are common to all
    use_kernels(set);
    for (const auto& [name, run] : cases) {
      for (uint64_t seed = 0; seed < 4; ++seed) {
        Bits expected;
        Random one(seed);
        run(1, one, expected);
        for (const int n_threads : {2, 3, 8}) {
          Bits result;
          Random draw(seed);
          run(n_threads, draw, result);
          n_failed += !same(expected, result, set + " " + name + " on " + std::to_string(n_threads) +
                                                  " threads, seed " + std::to_string(seed));
          ++n_compared;
        }
      }
    }
  }
  std::printf("%d comparisons, %d failed\n", n_compared, n_failed);
  return n_failed > 0;
}
