// The kernels for x86-64 processors with AVX2.
#include <utility>

#include "contract.hpp"
#include "simd_avx2.hpp"

#define POLYCHRON_SET_NAME "avx2"

namespace polychron::avx2 {
#include "kernels.inl"
}  // namespace polychron::avx2
