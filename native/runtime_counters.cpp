#include "runtime_counters.hpp"

#include <algorithm>

namespace polychron::runtime {
namespace {

thread_local Counters* active = nullptr;

void hash_f32(const HashPlan& plan, const float* x, int32_t* index) {
  active->hash(plan, sizeof *x);
  kernels().hash_f32(plan, x, index);
}

void hash_i32(const HashPlan& plan, const int32_t* x, int32_t* index) {
  active->hash(plan, sizeof *x);
  kernels().hash_i32(plan, x, index);
}

void join_bits(const int32_t* const* parts, int64_t n_parts, int64_t n, int32_t* index) {
  active->join(n_parts, n);
  kernels().join_bits(parts, n_parts, n, index);
}

void join_masked(const int32_t* const* parts, const int32_t* mask, int64_t n_parts, const int32_t* first, int64_t n,
                 int32_t* index) {
  active->join(n_parts, n);
  kernels().join_masked(parts, mask, n_parts, first, n, index);
}

void add_f32(const RowList& list, const float* start, float* y) {
  active->add(list, sizeof(float));
  kernels().add_f32(list, start, y);
}

void add_bf16(const RowList& list, const float* start, float* y) {
  active->add(list, sizeof(uint16_t));
  kernels().add_bf16(list, start, y);
}

void add_i8(const RowList& list, const ShiftGroup* groups, int64_t n_groups, const int32_t* start, int32_t* y) {
  active->add(list, sizeof(int8_t));
  kernels().add_i8(list, groups, n_groups, start, y);
}

size_t n_rows(const Tables& tables) { return static_cast<size_t>(tables.n_tables * tables.n_rows); }

}  // namespace

Counters::Counters(const Model& model) {
  for (const Stage& stage : model.stages()) {
    seen_.emplace_back(n_rows(stage.lookup ? stage.lookup->tables : stage.attention->tables));
  }
  seen_.emplace_back(n_rows(model.readout().tables));
  for (const Contexts& contexts : model.contexts()) seen_.emplace_back(static_cast<size_t>(contexts.n_rows()));
  n_kinds_ = model.contexts().size();
  if (!model.recent().empty()) seen_.emplace_back(static_cast<size_t>(kRecentCells));
  n_recent_ = model.recent().empty() ? 0 : 1;
  counts_.resize(seen_.size());
}

void Counters::forget() {
  std::fill(counts_.begin(), counts_.end(), Counts{});
  for (std::vector<bool>& rows : seen_) std::fill(rows.begin(), rows.end(), false);
}

void Counters::enter(size_t stage) {
  stage_ = stage;
  active = this;
}

void Counters::hash(const HashPlan& plan, int64_t latency_size) {
  Counts& counts = counts_[stage_];
  for (int64_t at = 0; at < plan.n_groups * plan.n_comparisons * kHashLanes; ++at) {
    if (plan.a[at] == plan.b[at]) {
      ++counts.filler;
    } else {
      ++counts.comparisons;
      counts.latency_bytes += 2 * latency_size;
    }
  }
}

void Counters::add(const RowList& list, int64_t element_size) {
  Counts& counts = counts_[stage_];
  const int64_t n_bytes = list.width * element_size;
  for (int64_t m = 0; m < list.n; ++m) {
    const int64_t row = list.index[m];
    ++counts.rows;
    counts.additions += list.width;
    read_bytes(static_cast<const char*>(list.rows) + row * list.stride * element_size, n_bytes);
    see(row);
  }
}

void Counters::read_contexts(size_t kind, const Contexts& contexts, const Path& path) {
  stage_ = counts_.size() - n_recent_ - n_kinds_ + kind;
  Counts& counts = counts_[stage_];
  const int64_t V = contexts.n_symbols();
  counts.rows += contexts.length_of_dense(path.dense) + 1 + path.n;
  counts.additions += V;  // of all rows' sum to the logits: the first is no addition where it begins the sum
  counts.place_bytes += path.n_bytes;
  read_bytes(contexts.dense_row(path.dense), V * contexts.dense_bytes());
  see(path.dense);
  for (int m = 0; m < path.n; ++m) {
    const ContextRow& row = path.rows[static_cast<size_t>(m)];
    const int64_t n = row.n_entries;
    counts.additions += n;
    counts.row_bytes += n * contexts.entry_bytes();
    counts.row_lines += contexts.n_lines(row);
    see(row.number);
  }
}

void Counters::read_places() {
  stage_ = counts_.size() - 1;
  counts_[stage_].place_bytes += kRecentTables * static_cast<int64_t>(kLineBytes);
}

void Counters::add_cell(const int32_t* cells, int64_t cell) {
  ++counts_[stage_].rows;
  ++counts_[stage_].additions;
  read_bytes(cells + cell, sizeof(int32_t));
  see(cell);
}

void Counters::read_bytes(const void* begin, int64_t n_bytes) {
  if (n_bytes == 0) return;
  const auto address = reinterpret_cast<uintptr_t>(begin);
  counts_[stage_].row_bytes += n_bytes;
  counts_[stage_].row_lines +=
      static_cast<int64_t>((address + static_cast<uintptr_t>(n_bytes) - 1) / kLineBytes - address / kLineBytes + 1);
}

void Counters::see(int64_t row) {
  if (seen_[stage_][static_cast<size_t>(row)]) return;
  seen_[stage_][static_cast<size_t>(row)] = true;
  ++counts_[stage_].distinct_rows;
}

Kernels counting_kernels() {
  Kernels set = kernels();
  set.hash_f32 = hash_f32;
  set.hash_i32 = hash_i32;
  set.join_bits = join_bits;
  set.join_masked = join_masked;
  set.add_f32 = add_f32;
  set.add_bf16 = add_bf16;
  set.add_i8 = add_i8;
  return set;
}

}  // namespace polychron::runtime
