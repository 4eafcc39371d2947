#include "table_owner.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace polychron {

TableOwner::TableOwner(int64_t n_readings, int64_t n_rows, int64_t n_outputs)
    : n_rows_(n_rows), merged_(std::min(n_readings, n_rows) * n_outputs) {}

void TableOwner::apply(int64_t i, const Readings& readings, const TableUpdate& update) {
  if (readings.n_readings == 0) return;
  const auto [lowest, highest] = std::minmax_element(readings.row, readings.row + readings.n_readings);
  if (*lowest < 0 || *highest >= n_rows_) {
    throw std::invalid_argument("row must lie in [0, " + std::to_string(n_rows_) + "); got " +
                                std::to_string(*lowest < 0 ? *lowest : *highest));
  }
  const Kernels& set = kernels();
  if (update.kind == TableUpdate::Kind::online_sgd) {
    set.online_sgd(readings, update.rate);
    return;
  }
  if (update.kind == TableUpdate::Kind::none && !readings.gain[0] && !readings.gain[1]) return;

  const int64_t n_outputs = readings.n_outputs;
  const RowGroups groups = sorter_.sort(readings.row, readings.n_readings, n_rows_);
  float* merged = merged_.get();
  set.merge_rows(readings, groups, merged);
  switch (update.kind) {
    case TableUpdate::Kind::sgd:
      set.update_sgd(readings.table, n_outputs, groups, merged, update.rate);
      break;
    case TableUpdate::Kind::adagrad:
      set.update_adagrad(readings.table, n_outputs, groups, merged, update.state + i * n_rows_, update.rate,
                         update.epsilon);
      break;
    case TableUpdate::Kind::dense:
      for (int64_t q = 0; q < groups.n_groups; ++q) {
        std::copy_n(merged + q * n_outputs, n_outputs, update.dense + (i * n_rows_ + groups.rows[q]) * n_outputs);
      }
      break;
    case TableUpdate::Kind::sparse:
      (*update.sparse_rows)[i].assign(groups.rows, groups.rows + groups.n_groups);
      (*update.sparse_values)[i].assign(merged, merged + groups.n_groups * n_outputs);
      break;
    case TableUpdate::Kind::none:
    case TableUpdate::Kind::online_sgd:
      break;
  }
}

}  // namespace polychron
