// The probe's border to Python.
#include "probe_binding.hpp"

#include <nanobind/stl/pair.h>

#include <utility>

#include "border.hpp"
#include "probe.hpp"

namespace polychron {
namespace {

using namespace border;

std::pair<double, float> py_read_rows(In<float, 2> memory, In<int32_t, 1> rows, int64_t prefetch_distance,
                                      int64_t n_passes, int n_threads) {
  const auto n_rows = static_cast<int64_t>(memory.shape(0)), row_floats = static_cast<int64_t>(memory.shape(1)),
             n_reads = static_cast<int64_t>(rows.shape(0));
  require(is_probe_width(row_floats),
          "memory must have rows of 8, 16, 32, 64, 128 or 256 floats; got " + std::to_string(row_floats));
  require(reinterpret_cast<uintptr_t>(memory.data()) % 64 == 0, "memory must begin on a 64-byte boundary");
  require(n_reads >= 1, "rows must name at least one row");
  require(prefetch_distance >= 0 && prefetch_distance <= 1 << 20,
          "prefetch_distance must lie in [0, 2^20]; got " + std::to_string(prefetch_distance));
  require(n_passes >= 1, "n_passes must be at least 1; got " + std::to_string(n_passes));
  const auto [lowest, highest] = std::minmax_element(rows.data(), rows.data() + n_reads);
  require(*lowest >= 0 && *highest < n_rows,
          "rows must lie in [0, " + std::to_string(n_rows) + "); got " + std::to_string(*lowest < 0 ? *lowest : *highest));
  const int workers = threads(n_threads);
  nb::gil_scoped_release release;
  const ReadTime time = read_rows({memory.data(), row_floats, rows.data(), n_reads, prefetch_distance}, n_passes, workers);
  return {time.seconds, time.sum};
}

}  // namespace

void bind_probe(nb::module_& m) {
  m.def("read_rows", &py_read_rows, nb::arg("memory").noconvert(), nb::arg("rows").noconvert(),
        nb::arg("prefetch_distance"), nb::arg("n_passes"), nb::arg("n_threads"));
}

}  // namespace polychron
