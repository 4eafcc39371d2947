// The kernels for x86-64 processors with AVX-512 (F, BW, DQ, VL).
#include <utility>

#include "contract.hpp"
#include "simd_avx512.hpp"

#define POLYCHRON_SET_NAME "avx512"

namespace polychron::avx512 {
#include "kernels.inl"
}  // namespace polychron::avx512
