#pragma once

#include <nanobind/nanobind.h>

namespace polychron {

// Adds the function read_rows to the module.
void bind_probe(nanobind::module_&);

}  // namespace polychron
