// Python's view of the tables of exact contexts.
#pragma once

#include <nanobind/nanobind.h>

namespace polychron {

void bind_context_tables(nanobind::module_& m);

}  // namespace polychron
