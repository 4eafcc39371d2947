// The probe in plain C++.
#include "probe.hpp"
#include "simd_scalar.hpp"

namespace polychron::scalar {
#include "probe.inl"
}  // namespace polychron::scalar
