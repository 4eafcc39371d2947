// Every function of the contract on every instruction set of this processor, bit for bit what the scalar set gives.
//
// Outputs are given room behind them that must not be written to: it is compared as well. The digest that is printed
// is the same on every processor; logarithms, which the C library computes, are left out of it.
#include <algorithm>
#include <functional>
#include <utility>

#include "contract.hpp"
#include "data.hpp"
#include "dispatch.hpp"
#include "probe.hpp"
#include "sort_rows.hpp"

namespace {

using namespace polychron;
using namespace polychron::testing;

constexpr int64_t kRoom = 24;
constexpr int64_t kWidths[] = {1, 2, 3, 5, 8, 13, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 83,
                               96, 112, 127, 128, 129, 144, 200, 256, 257, 300};

template <class T> std::vector<T> room(int64_t n, T filler = T(77)) {
  return std::vector<T>(static_cast<size_t>(n + kRoom), filler);
}

struct Result { Bits bits, logarithms; };
// A case draws its data from the seed, calls functions of `set` and collects what they wrote.
using Case = std::function<void(const Kernels& set, Random&, Result&)>;

void hash_tiles(const Kernels& set, Random& draw, Result& out) {
  const int64_t n_inputs = draw.between(1, 9), n_tables = draw.between(1, 4), n_comparisons = draw.between(1, 30);
  const int64_t n_positions = draw.between(1, 70), max_delay = draw.below(20);
  const int64_t stride = (max_delay + n_positions + 15) / 16 * 16 + 16;
  const int64_t n = n_tables * n_comparisons, plane = n_positions + draw.below(3);
  const std::vector<float> latencies =
      draw.below(2) ? draw.reals(n_inputs * stride) : draw.specials(n_inputs * stride);
  std::vector<int32_t> offsets[2];
  for (auto& ends : offsets) {
    for (int64_t c = 0; c < n; ++c) {
      ends.push_back(static_cast<int32_t>(draw.below(n_inputs) * stride + draw.below(max_delay + 1)));
    }
  }
  auto row = room<int32_t>(n_tables * plane);
  auto pair = room<uint8_t>(n_tables * plane);
  auto u = room<float>(n_tables * plane);
  const bool with_pair = draw.below(3) > 0;
  set.hash_tile({latencies.data(), offsets[0].data(), offsets[1].data(), n_tables, n_comparisons, n_positions,
                 row.data(), with_pair ? pair.data() : nullptr, with_pair ? u.data() : nullptr, plane});
  out.bits.add(row);
  out.bits.add(pair);
  out.bits.add(u);
}

void gathers(const Kernels& set, Random& draw, Result& out) {
  for (const int64_t K : kWidths) {
    // Some tables are larger than a group of them, or than all that is read without asking ahead; some are so many that
    // one list of rows does not hold them, nor, if their rows are long, one group.
    const bool many = draw.below(8) == 0;
    const int64_t I = many ? draw.between(64, 150) : draw.between(0, 6);
    const int64_t J = many || draw.below(8) ? draw.between(1, 9) : 1100, P = draw.between(1, 40);
    const int64_t row_stride = K + draw.below(2) * draw.below(20), y_stride = K + draw.below(2) * draw.below(20);
    const bool halves = draw.below(3) == 0;
    const std::vector<float> tables = draw.reals(halves ? 0 : I * J * row_stride), residual = draw.reals(P * y_stride);
    const std::vector<Bfloat16> half_tables = draw.halves(halves ? I * J * row_stride : 0);
    const void* rows = halves ? static_cast<const void*>(half_tables.data()) : tables.data();
    const std::vector<int32_t> row = draw.ints(I * P, J);
    auto y = room<float>(P * y_stride);
    const int64_t begin = draw.below(P), end = draw.between(begin, P);
    std::vector<int32_t> which;  // every other table, backwards
    for (int64_t i = I - 1; i >= 0; i -= 2) which.push_back(static_cast<int32_t>(i));
    const bool some = draw.below(2);
    const auto n_read = some ? static_cast<int64_t>(which.size()) : I;
    set.gather_sum({rows, n_read, J, K, row_stride, some ? which.data() : nullptr, row.data(), P,
                    draw.below(2) ? residual.data() : nullptr, y.data(), y_stride,
                    halves ? RowType::bfloat16 : RowType::float32}, begin, end);
    out.bits.add(y);
  }
}

void pairs_of_positions(const Kernels& set, Random& draw, Result& out) {
  for (int64_t n = 1; n < 50; ++n) {
    const int64_t P = n + 1, D = n + draw.below(3), M = n + draw.below(20), beyond = 15;
    const auto flips = [&draw](int64_t size) {
      std::vector<int32_t> bits = draw.ints(size, 20);
      for (int32_t& bit : bits) bit = int32_t{1} << bit;
      return bits;
    };
    const auto distances = [&draw](int64_t size) { return draw.below(2) ? draw.reals(size) : draw.specials(size); };
    const std::vector<int32_t> query = draw.ints(P, 1 << 20), key = draw.ints(P + beyond, 1 << 20),
                               code = draw.ints(D + beyond, 1 << 20), query_flip = flips(P),
                               key_flip = flips(P + beyond), code_flip = flips(D + beyond);
    const std::vector<float> query_distance = distances(P), key_distance = distances(P + beyond),
                             code_distance = distances(D + beyond), gain = draw.specials(M), code_gains = draw.reals(M);
    auto row = room<int32_t>(M), source = row, flipped = row, flipped_code = row;
    const TablePairs pairs{query.data(), query_flip.data(), query_distance.data(), key.data(), key_flip.data(),
                           key_distance.data(), code.data(), code_flip.data(), code_distance.data(),
                           draw.below(2) > 0, row.data(), source.data(), {flipped.data(), flipped_code.data()}};
    const auto narrow = [](int64_t value) { return static_cast<int32_t>(value); };
    const PairRun run{narrow(draw.below(P)), narrow(draw.below(2)), narrow(D - n), narrow(n), narrow(M - n)};
    set.list_pairs(pairs, run);
    for (auto* listed : {&row, &source, &flipped, &flipped_code}) {
      for (int64_t b = 0; b < beyond; ++b) (*listed)[static_cast<size_t>(M + b)] = 77;  // may be anything
      out.bits.add(*listed);
    }
    auto key_gain = room<float>(P), code_gain = room<float>(D);
    const std::vector<float> of_query{set.route_pairs(pairs, run, gain.data(), code_gains.data(), key_gain.data(),
                                                      code_gain.data())};
    out.bits.add(key_gain);
    out.bits.add(code_gain);
    out.bits.add(of_query);
  }
}

// What is read and added up by runs of pairs: queries have 2 bits, keys 3, relative positions 1.
void sums_of_pairs(const Kernels& set, Random& draw, Result& out) {
  for (const int64_t K : kWidths) {
    constexpr int64_t kRows = 64, beyond = 15;
    const int64_t n = draw.between(1, 40), P = n + 1, D = n + draw.below(3), M = n + draw.below(5);
    const int64_t row_stride = K + draw.below(9);
    const auto shifted = [&draw](int64_t size, int64_t below, int shift) {
      std::vector<int32_t> bits = draw.ints(size, below);
      for (int32_t& bit : bits) bit <<= shift;
      return bits;
    };
    const auto flips = [&draw](int64_t size, int64_t n_bits, int64_t shift) {
      std::vector<int32_t> bits = draw.ints(size, n_bits);
      for (int32_t& bit : bits) bit = int32_t{1} << (bit + shift);
      return bits;
    };
    const std::vector<int32_t> query = shifted(P, 4, 4), key = shifted(P + beyond, 8, 1), code = draw.ints(D + beyond, 2),
                               query_flip = flips(P, 2, 4), key_flip = flips(P + beyond, 3, 1),
                               code_flip = flips(D + beyond, 1, 0);
    const std::vector<float> query_distance = draw.reals(P), key_distance = draw.specials(P + beyond),
                             code_distance = draw.reals(D + beyond), v = draw.reals(P * K);
    const bool halves = draw.below(3) == 0;
    std::vector<float> table = draw.reals(halves ? 0 : kRows * row_stride);
    std::vector<Bfloat16> half_table = draw.halves(halves ? kRows * row_stride : 0);
    const TableRows rows{halves ? static_cast<void*>(half_table.data()) : table.data(), K, row_stride,
                         halves ? RowType::bfloat16 : RowType::float32};
    const TablePairs pairs{query.data(), query_flip.data(), query_distance.data(), key.data(), key_flip.data(),
                           key_distance.data(), code.data(), code_flip.data(), code_distance.data(),
                           draw.below(2) > 0, nullptr, nullptr, {nullptr, nullptr}};
    const auto some = [&](int64_t length) {
      return PairRun{static_cast<int32_t>(draw.below(P)), 0, static_cast<int32_t>(D - length),
                     static_cast<int32_t>(length), static_cast<int32_t>(M - length)};
    };
    const PairRun run = some(n), next = some(draw.below(n + 1));
    auto y = room<float>(K);
    set.sum_pairs(pairs, rows, run, next, y.data());
    out.bits.add(y);
    auto gain = room<float>(M), code_gains = room<float>(M);
    set.pair_gains(pairs, rows, run, next, v.data(), draw.below(4) ? gain.data() : nullptr, code_gains.data());
    out.bits.add(gain);
    out.bits.add(code_gains);

    const std::vector<int32_t> place = draw.ints(n, 5);
    std::vector<float> merged(static_cast<size_t>(5 * merged_stride(K)), 1.0f);
    set.add_to_rows(v.data(), K, place.data(), n, merged.data());
    out.bits.add(merged);
  }
}

// Readings of one table, their neighbours and gains.
struct TableReadings {
  int64_t K, J, M, P, row_stride, v_stride;
  RowType type;
  std::vector<float> table, v, gain[2];
  std::vector<Bfloat16> half_table;
  std::vector<int32_t> row, source, flipped[2];
  Readings readings;

  TableReadings(Random& draw, int64_t width, RowType numbers)
      : K(width), J(draw.between(1, 70)), M(draw.between(1, 90)), P(draw.between(1, 20)),
        row_stride(K + draw.below(9)), v_stride(K + draw.below(9)), type(numbers),
        table(draw.reals(type == RowType::float32 ? J * row_stride + kRoom : 0)),
        v(draw.reals(std::max(M, P) * v_stride)),
        half_table(draw.halves(type == RowType::bfloat16 ? J * row_stride + kRoom : 0)), row(draw.ints(M, J)),
        source(draw.ints(M, P)) {
    readings = {rows(), K, row_stride, M, row.data(), draw.below(2) ? source.data() : nullptr,
                draw.below(2) > 0, v.data(), v_stride, {nullptr, nullptr}, {nullptr, nullptr}, type};
    for (int f = 0; f < 2; ++f) {
      flipped[f] = draw.ints(M, J);
      for (int32_t& j : flipped[f]) j = draw.below(4) > 0 ? j : -1;
      gain[f] = room<float>(M);
      if (draw.below(3) == 0) continue;
      readings.flipped[f] = flipped[f].data();
      readings.gain[f] = gain[f].data();
    }
  }
  void* rows() { return type == RowType::float32 ? static_cast<void*>(table.data()) : half_table.data(); }
  void collect(Result& out) const {
    out.bits.add(table);
    out.bits.add(half_table);
    for (const auto& gains : gain) out.bits.add(gains);
  }
};

void merges_and_updates(const Kernels& set, Random& draw, Result& out) {
  for (const int64_t K : kWidths) {
    TableReadings t(draw, K, draw.below(2) ? RowType::float32 : RowType::bfloat16);
    RowSorter sorter;
    const RowGroups groups = sorter.sort(t.row.data(), t.M, t.J);
    auto merged = room<float>(groups.n_groups * merged_stride(K));
    set.merge_rows(t.readings, groups, merged.data());
    t.collect(out);
    const int64_t stride = merged_stride(K);
    for (int64_t q = 0; q < groups.n_groups; ++q) {  // beyond K the rows of `merged` are anyone's
      for (int64_t k = 0; k < K; ++k) out.bits.add(merged[static_cast<size_t>(q * stride + k)]);
    }
    const TableRows rows{t.rows(), K, t.row_stride, t.type, static_cast<uint32_t>(draw.below(int64_t{1} << 32))};
    set.update_sgd(rows, groups, merged.data(), 0.03f, draw.below(2) ? 2.0f : INFINITY);
    t.collect(out);
    std::vector<float> state(static_cast<size_t>(t.J), 0.25f);
    set.update_adagrad(rows, groups, merged.data(), state.data(), 0.03f, 1e-8f);
    t.collect(out);
    out.bits.add(state);
    state.assign(static_cast<size_t>(t.J * (K + kAdamNumbers)), 0.25f);
    set.update_adam(rows, groups, merged.data(), state.data(), {0.03f, 1e-8f, 0.9f, 0.1f, 0.99f, 0.01f});
    t.collect(out);
    out.bits.add(state);
  }
}

void online_updates(const Kernels& set, Random& draw, Result& out) {
  for (const int64_t K : kWidths) {
    TableReadings t(draw, K, RowType::float32);
    set.online_sgd(t.readings, 0.07f);
    t.collect(out);
  }
}

void slopes(const Kernels& set, Random& draw, Result& out) {
  for (int64_t n = 0; n < 50; ++n) {
    const std::vector<float> u = draw.specials(n), gain = draw.specials(n);
    auto slope = room<float>(n);
    set.surrogate_slope(u.data(), gain.data(), slope.data(), n);
    out.bits.add(slope);
  }
}

void softmaxes(const Kernels& set, Random& draw, Result& out) {
  for (const int64_t K : kWidths) {
    for (const float scale : {1.0f, 40.0f}) {
      const int64_t P = 5, stride = K + draw.below(9);
      auto logits = draw.below(3) ? draw.reals(P * stride + kRoom) : draw.specials(P * stride + kRoom);
      for (float& logit : logits) logit *= scale;
      const std::vector<int64_t> target = draw.classes(P, K);
      auto nats = room<float>(P);
      set.cross_entropy(logits.data(), stride, target.data(), nats.data(), P, K);
      out.bits.add(logits);
      out.logarithms.add(nats);
      set.softmax_cross_entropy(logits.data(), stride, target.data(), nats.data(), P, K);
      out.bits.add(logits);
      out.logarithms.add(nats);
    }
  }
}

void probes(const Kernels&, Random& draw, Result& out) {
  for (int64_t width = 8; width <= 256; width *= 2) {
    const int64_t n_rows = 11, n_reads = draw.between(1, 60);
    const std::vector<float> memory = draw.reals(n_rows * width);
    const std::vector<int32_t> rows = draw.ints(n_reads, n_rows);
    out.bits.add(read_rows({memory.data(), width, rows.data(), n_reads, draw.below(9)}, 2, 1).sum);
  }
}

}  // namespace

int main() {
  const std::pair<const char*, Case> cases[] = {
      {"hash_tile", hash_tiles}, {"gather_sum", gathers}, {"list_pairs, route_pairs", pairs_of_positions},
      {"sum_pairs, pair_gains, add_to_rows", sums_of_pairs},
      {"merge_rows, update_sgd, update_adagrad, update_adam", merges_and_updates}, {"online_sgd", online_updates},
      {"surrogate_slope", slopes}, {"cross_entropy, softmax_cross_entropy", softmaxes}, {"read_row_range", probes}};
  int n_failed = 0, n_compared = 0;
  uint64_t digest = 0xcbf29ce484222325u;  // FNV-1a over words
  for (const auto& [name, run] : cases) {
    for (uint64_t seed = 0; seed < 40; ++seed) {
      Result expected;
      for (const std::string& set : available_kernels()) {
        use_kernels(set);
        Random draw(seed);
        Result result;
        run(kernels(), draw, result);
        if (set == "scalar") {
          expected = result;
          for (const uint32_t word : expected.bits.words()) digest = (digest ^ word) * 0x100000001b3u;
          continue;
        }
        const std::string what = set + " " + name + " seed " + std::to_string(seed);
        n_failed += !same(expected.bits, result.bits, what) || !same(expected.logarithms, result.logarithms, what);
        ++n_compared;
      }
    }
  }
  std::printf("kernels:");
  for (const std::string& set : available_kernels()) std::printf(" %s", set.c_str());
  std::printf("; %d comparisons, %d failed; digest %016llx\n", n_compared, n_failed,
              static_cast<unsigned long long>(digest));
  return n_failed > 0;
}
