#pragma once

#include <nanobind/nanobind.h>

namespace polychron {

// Adds the class Chain to the module.
void bind_chain(nanobind::module_&);

}  // namespace polychron
