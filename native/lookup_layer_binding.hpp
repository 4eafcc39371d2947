#pragma once

#include <nanobind/nanobind.h>

namespace polychron {

void bind_lookup_layer(nanobind::module_&);

}  // namespace polychron
