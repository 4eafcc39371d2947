// The probe for x86-64 processors with AVX-512 (F, BW, DQ, VL).
#include "probe.hpp"
#include "simd_avx512.hpp"

namespace polychron::avx512 {
#include "probe.inl"
}  // namespace polychron::avx512
