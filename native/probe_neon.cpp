// The probe for 64-bit ARM processors.
#include "probe.hpp"
#include "simd_neon.hpp"

namespace polychron::neon {
#include "probe.inl"
}  // namespace polychron::neon
