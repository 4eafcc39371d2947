// The kernels for 64-bit ARM processors, all of which have NEON.
#include <utility>

#include "contract.hpp"
#include "simd_neon.hpp"

#define POLYCHRON_SET_NAME "neon"

namespace polychron::neon {
#include "kernels.inl"
}  // namespace polychron::neon
