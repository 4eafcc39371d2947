// The kernels for every processor.
#include <utility>

#include "contract.hpp"
#include "simd_scalar.hpp"

#define POLYCHRON_SET_NAME "scalar"

namespace polychron::scalar {
#include "kernels.inl"
}  // namespace polychron::scalar
