// The runtime's kernels for x86-64 processors with AVX2.
#include "runtime_kernels.hpp"

#include <immintrin.h>

#include <cstddef>

#define POLYCHRON_SET_NAME "avx2"

namespace polychron::runtime::avx2 {
namespace {

constexpr int kVectorBytes = 32;

inline __m256i widen_bytes(const int8_t* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline __m256i widen_words(const int16_t* p) {
  return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline __m256i load_offsets(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

struct CompareFloat {
  static inline __m256i above(const float* x, __m256i a, __m256i b) {
    return _mm256_castps_si256(
        _mm256_cmp_ps(_mm256_i32gather_ps(x, a, 4), _mm256_i32gather_ps(x, b, 4), _CMP_GT_OQ));
  }
};

struct CompareInt {
  static inline __m256i above(const int32_t* x, __m256i a, __m256i b) {
    return _mm256_cmpgt_epi32(_mm256_i32gather_epi32(x, a, 4), _mm256_i32gather_epi32(x, b, 4));
  }
};

template <class Compare, class T> void hash(const HashPlan& plan, const T* x, int32_t* index) {
  for (int64_t g = 0; g < plan.n_groups; ++g) {
    for (int half = 0; half < kHashLanes; half += 8) {
      __m256i row = load_offsets(plan.first + g * kHashLanes + half);
      for (int64_t r = 0; r < plan.n_comparisons; ++r) {
        const int64_t at = (g * plan.n_comparisons + r) * kHashLanes + half;
        const __m256i above = Compare::above(x, load_offsets(plan.a + at), load_offsets(plan.b + at));
        row = _mm256_or_si256(row, _mm256_and_si256(above, _mm256_set1_epi32(int32_t{1} << r)));
      }
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(index + g * kHashLanes + half), row);
    }
  }
}

void hash_f32(const HashPlan& plan, const float* x, int32_t* index) { hash<CompareFloat>(plan, x, index); }
void hash_i32(const HashPlan& plan, const int32_t* x, int32_t* index) { hash<CompareInt>(plan, x, index); }

}  // namespace

#include "runtime_kernels.inl"

}  // namespace polychron::runtime::avx2
