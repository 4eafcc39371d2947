#include "table_owner.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

namespace polychron {

void check_rows(const int32_t* row, int64_t n_readings, int64_t n_rows) {
  // Below the largest power of two that n_rows reaches, one OR over all rows decides, negative ones included.
  uint32_t bits = 0;
  for (int64_t m = 0; m < n_readings; ++m) bits |= static_cast<uint32_t>(row[m]);
  if (n_readings == 0 || bits < std::bit_floor(static_cast<uint64_t>(n_rows))) return;
  const int32_t* outside =
      std::find_if(row, row + n_readings, [n_rows](int32_t j) { return j < 0 || j >= n_rows; });
  if (outside == row + n_readings) return;
  throw std::invalid_argument("row must lie in [0, " + std::to_string(n_rows) + "); got " + std::to_string(*outside));
}

void set_betas(TableUpdate& update, const std::vector<float>& betas) {
  if (betas.size() != 4) throw std::invalid_argument("betas must be four numbers; got " + std::to_string(betas.size()));
  update.beta1 = betas[0], update.rest1 = betas[1], update.beta2 = betas[2], update.rest2 = betas[3];
}

void update_rows(int64_t i, const TableRows& given, int64_t n_rows, const RowGroups& groups, const float* merged,
                 const TableUpdate& update) {
  const Kernels& set = kernels();
  const int64_t n_outputs = given.n_outputs, stride = merged_stride(n_outputs);
  TableRows rows = given;
  rows.seed = update.seed + static_cast<uint32_t>(i) * 0xC2B2AE3Du;
  switch (update.kind) {
    case TableUpdate::Kind::sgd:
      set.update_sgd(rows, groups, merged, update.rate, update.visit_cap);
      break;
    case TableUpdate::Kind::adagrad:
      set.update_adagrad(rows, groups, merged, update.state + i * n_rows, update.rate, update.epsilon);
      break;
    case TableUpdate::Kind::adam:
      set.update_adam(rows, groups, merged, update.state + i * n_rows * (n_outputs + kAdamNumbers),
                      {update.rate, update.epsilon, update.beta1, update.rest1, update.beta2, update.rest2});
      break;
    case TableUpdate::Kind::dense:
      for (int64_t q = 0; q < groups.n_groups; ++q) {
        std::copy_n(merged + q * stride, n_outputs, update.dense + (i * n_rows + groups.rows[q]) * n_outputs);
      }
      break;
    case TableUpdate::Kind::sparse: {
      std::vector<int32_t>& indices = (*update.sparse_rows)[static_cast<size_t>(i)];
      std::vector<float>& values = (*update.sparse_values)[static_cast<size_t>(i)];
      indices.insert(indices.end(), groups.rows, groups.rows + groups.n_groups);
      for (int64_t q = 0; q < groups.n_groups; ++q) {
        values.insert(values.end(), merged + q * stride, merged + q * stride + n_outputs);
      }
      break;
    }
    case TableUpdate::Kind::none:
    case TableUpdate::Kind::online_sgd:
      break;
  }
}

TableOwner::TableOwner(int64_t n_readings, int64_t n_rows, int64_t n_outputs)
    : n_rows_(n_rows), merged_(std::min(n_readings, n_rows) * merged_stride(n_outputs)) {}

void TableOwner::apply(int64_t i, const Readings& readings, const TableUpdate& update) {
  if (readings.n_readings == 0) return;
  check_rows(readings.row, readings.n_readings, n_rows_);
  // Of one reading there is nothing to sort or to merge.
  const bool one_by_sgd = readings.n_readings == 1 && readings.type == RowType::float32 &&
                          update.kind == TableUpdate::Kind::sgd && update.visit_cap >= 1.0f;
  if (update.kind == TableUpdate::Kind::online_sgd || one_by_sgd) {
    kernels().online_sgd(readings, update.rate);
    return;
  }
  if (update.kind == TableUpdate::Kind::none && !readings.gain[0] && !readings.gain[1]) return;
  const RowGroups groups = sorter_.sort(readings.row, readings.n_readings, n_rows_);
  kernels().merge_rows(readings, groups, merged_.get());
  update_rows(i, {readings.table, readings.n_outputs, readings.row_stride, readings.type}, n_rows_, groups,
              merged_.get(), update);
}

}  // namespace polychron
