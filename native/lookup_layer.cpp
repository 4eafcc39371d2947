#include "lookup_layer.hpp"

#include <algorithm>
#include <vector>

#include "contract.hpp"
#include "threads.hpp"

namespace polychron {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kLargestTask = 1024;
constexpr int64_t kSmallestTask = 64;  // where all threads get one: positions come back to rows that the cache holds
// Room between the rows of two tables: at a power of two, all tables' would share a few sets of the cache.
constexpr int64_t kBetweenTables = kLanes;
constexpr int64_t kFloatsPerComparison = 2;  // that are added in the time

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Worker {
  Buffer<float> scratch;
  Buffer<int32_t> row;
};

// What a call needs that its own thread computes alone: kept from call to call, since asking for memory takes as long as
// a small batch does. Of bounded size: it serves what one thread does in little time.
struct OwnScratch {
  std::vector<float> scratch;
  std::vector<int32_t> row;

  static OwnScratch& of(int64_t n_scratch, int64_t n_rows) {
    static thread_local OwnScratch own;
    const auto grow = [](auto& v, int64_t size) {
      if (static_cast<int64_t>(v.size()) < size) v.resize(static_cast<size_t>(size));
    };
    grow(own.scratch, n_scratch);
    grow(own.row, n_rows);
    return own;
  }
};

}  // namespace

void read_layer(const Hasher& hasher, const Latencies& given, const Tables& tables, int64_t n_tables,
                const float* residual, float* y, const Addresses& keep, int n_threads) {
  const int64_t n_flat = given.n_sequences * given.n_positions, K = tables.n_outputs, n = given.n_inputs;
  if (n_flat == 0) return;
  const Latencies in = hasher.max_delay() == 0 ? one_sequence(given) : given;
  const int64_t floats = n_flat * n_tables * (std::max(K, kLanes) + hasher.n_comparisons() * kFloatsPerComparison);
  n_threads = threads_worth_waking(floats, n_threads);
  const bool few = n_flat < kLanes;  // threads share their outputs, not them
  if (few || (n_threads == 1 && floats < kFloatsWorthWaking && n_flat <= kLargestTask)) {
    const bool keeps = keep.row != nullptr;
    const int64_t plane = n_flat < kLanes ? n_flat : n_flat + kBetweenTables;
    OwnScratch& own = OwnScratch::of(hasher.scratch_floats(), keeps ? 0 : n_tables * plane);
    const Addresses rows = keeps ? keep : Addresses{own.row.data(), nullptr, nullptr, plane};
    hasher.positions(in, 0, n_flat, rows, own.scratch.data());
    const GatherSum sum{tables.data, n_tables, tables.n_rows, K, tables.row_stride, tables.which, rows.row, rows.plane,
                        residual, y, K, tables.type};
    if (few) {
      gather(sum, n_flat, n_threads);
    } else {
      kernels().gather_sum(sum, 0, n_flat);
    }
    return;
  }
  const auto share = [&](int64_t n_parts) { return divide_up(divide_up(n_flat, n_parts), kLanes) * kLanes; };
  const int64_t least = std::min(share(n_threads), n_threads == 1 ? kLargestTask : kSmallestTask);
  const int64_t chunk = std::clamp(share(int64_t{n_threads} * 4), least, kLargestTask);
  const int64_t n_tasks = divide_up(n_flat, chunk), plane = chunk + kBetweenTables;

  // Delays reach back into other tasks' positions of a sequence: then rows stand where the whole batch's would.
  const bool own_rows = !keep.row && hasher.max_delay() == 0;
  Buffer<int32_t> all_rows(own_rows || keep.row ? 0 : n_tables * n_flat);
  const Addresses all = keep.row ? keep : Addresses{all_rows.get(), nullptr, nullptr, n_flat};
  std::vector<Worker> workers;
  for (int64_t w = 0; w < std::min<int64_t>(n_threads, n_tasks); ++w) {
    workers.push_back({Buffer<float>(hasher.scratch_floats()), Buffer<int32_t>(own_rows ? n_tables * plane : 0)});
    std::fill_n(workers.back().scratch.get(), hasher.scratch_floats(), 0.0f);
  }
  parallel_for(n_threads, n_tasks, [&](int64_t task, int w) {
    const int64_t begin = task * chunk, end = std::min(n_flat, begin + chunk), count = end - begin;
    Worker& worker = workers[static_cast<size_t>(w)];
    if (own_rows) {
      hasher.positions({in.x + begin * n, 1, count, n, nullptr, 0}, 0, count,
                       {worker.row.get(), nullptr, nullptr, plane}, worker.scratch.get());
      kernels().gather_sum({tables.data, n_tables, tables.n_rows, K, tables.row_stride, tables.which, worker.row.get(),
                            plane, residual ? residual + begin * K : nullptr, y + begin * K, K, tables.type},
                           0, count);
    } else {
      hasher.positions(in, begin, end, all, worker.scratch.get());
      kernels().gather_sum({tables.data, n_tables, tables.n_rows, K, tables.row_stride, tables.which, all.row, n_flat,
                            residual, y, K, tables.type},
                           begin, end);
    }
  });
}

}  // namespace polychron
