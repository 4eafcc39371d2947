// The runtime's kernels for x86-64 processors with AVX-512 (F, BW, DQ, VL).
#include "runtime_kernels.hpp"

#include <immintrin.h>

#include <cstddef>

#define POLYCHRON_SET_NAME "avx512"

namespace polychron::runtime::avx512 {
namespace {

constexpr int kVectorBytes = 64;

inline __m512i widen_bytes(const int8_t* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline __m512i widen_words(const int16_t* p) {
  return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

inline __m512i load_offsets(const int32_t* p) { return _mm512_loadu_si512(p); }

// Where latencies are read from: memory, or two registers that hold the 32 of them.
struct FloatMemory {
  const float* x;
  inline __mmask16 above(__m512i a, __m512i b) const {
    return _mm512_cmp_ps_mask(_mm512_i32gather_ps(a, x, 4), _mm512_i32gather_ps(b, x, 4), _CMP_GT_OQ);
  }
};

struct FloatRegisters {
  __m512 low, high;
  explicit FloatRegisters(const float* x) : low(_mm512_loadu_ps(x)), high(_mm512_loadu_ps(x + 16)) {}
  inline __mmask16 above(__m512i a, __m512i b) const {
    return _mm512_cmp_ps_mask(_mm512_permutex2var_ps(low, a, high), _mm512_permutex2var_ps(low, b, high),
                              _CMP_GT_OQ);
  }
};

struct IntMemory {
  const int32_t* x;
  inline __mmask16 above(__m512i a, __m512i b) const {
    return _mm512_cmpgt_epi32_mask(_mm512_i32gather_epi32(a, x, 4), _mm512_i32gather_epi32(b, x, 4));
  }
};

struct IntRegisters {
  __m512i low, high;
  explicit IntRegisters(const int32_t* x) : low(_mm512_loadu_si512(x)), high(_mm512_loadu_si512(x + 16)) {}
  inline __mmask16 above(__m512i a, __m512i b) const {
    return _mm512_cmpgt_epi32_mask(_mm512_permutex2var_epi32(low, a, high), _mm512_permutex2var_epi32(low, b, high));
  }
};

template <class Latencies> inline void hash(const HashPlan& plan, const Latencies& x, int32_t* index) {
  for (int64_t g = 0; g < plan.n_groups; ++g) {
    __m512i row = load_offsets(plan.first + g * kHashLanes);
    for (int64_t r = 0; r < plan.n_comparisons; ++r) {
      const int64_t at = (g * plan.n_comparisons + r) * kHashLanes;
      const __mmask16 above = x.above(load_offsets(plan.a + at), load_offsets(plan.b + at));
      row = _mm512_mask_or_epi32(row, above, row, _mm512_set1_epi32(int32_t{1} << r));
    }
    _mm512_storeu_si512(index + g * kHashLanes, row);
  }
}

void hash_f32(const HashPlan& plan, const float* x, int32_t* index) {
  plan.near ? hash(plan, FloatRegisters(x), index) : hash(plan, FloatMemory{x}, index);
}

void hash_i32(const HashPlan& plan, const int32_t* x, int32_t* index) {
  plan.near ? hash(plan, IntRegisters(x), index) : hash(plan, IntMemory{x}, index);
}

}  // namespace

#include "runtime_kernels.inl"

}  // namespace polychron::runtime::avx512
