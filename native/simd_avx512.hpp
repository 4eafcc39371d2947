// Sixteen float32 lanes in one AVX-512 register; see simd_scalar.hpp for what each function must equal.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace polychron::avx512 {

struct F32 { __m512 v; };
struct I32 { __m512i v; };
using Mask = __mmask16;

inline __mmask16 lanes_below(int count) { return static_cast<__mmask16>((1u << count) - 1u); }

inline F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline F32 load_partial(const float* p, int count) { return {_mm512_maskz_loadu_ps(lanes_below(count), p)}; }
inline void store(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
inline void store_partial(float* p, F32 a, int count) { _mm512_mask_storeu_ps(p, lanes_below(count), a.v); }
inline void store(int32_t* p, I32 a) { _mm512_storeu_si512(p, a.v); }
inline void store_u8(uint8_t* p, I32 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

inline F32 set1(float v) { return {_mm512_set1_ps(v)}; }
inline I32 set1(int32_t v) { return {_mm512_set1_epi32(v)}; }

inline F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32 abs(F32 a) { return {_mm512_abs_ps(a.v)}; }

inline I32 operator|(I32 a, I32 b) { return {_mm512_or_si512(a.v, b.v)}; }
inline I32 operator+(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
template <int bits> inline I32 shift_left(I32 a) { return {_mm512_slli_epi32(a.v, bits)}; }
inline I32 as_i32(F32 a) { return {_mm512_castps_si512(a.v)}; }
inline F32 as_f32(I32 a) { return {_mm512_castsi512_ps(a.v)}; }

inline Mask operator>(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
inline F32 select(Mask m, F32 yes, F32 no) { return {_mm512_mask_blend_ps(m, no.v, yes.v)}; }
inline I32 select(Mask m, I32 yes, I32 no) { return {_mm512_mask_blend_epi32(m, no.v, yes.v)}; }

inline float reduce_add(F32 a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float reduce_max(F32 a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

}  // namespace polychron::avx512
