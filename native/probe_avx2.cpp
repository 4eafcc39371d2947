// The probe for x86-64 processors with AVX2.
#include "probe.hpp"
#include "simd_avx2.hpp"

namespace polychron::avx2 {
#include "probe.inl"
}  // namespace polychron::avx2
