// Sixteen float32 lanes in one AVX-512 register; see simd_scalar.hpp for what each function must equal.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "contract.hpp"

namespace polychron::avx512 {

struct F32 { __m512 v; };
struct I32 { __m512i v; };
using Mask = __mmask16;
constexpr int kSumsInRegisters = 16;

inline __mmask16 lanes_below(int count) { return static_cast<__mmask16>((1u << count) - 1u); }

inline F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline F32 load_partial(const float* p, int count) { return {_mm512_maskz_loadu_ps(lanes_below(count), p)}; }
inline F32 widened(__m256i halves) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}
inline F32 load(const Bfloat16* p) { return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline F32 load_partial(const Bfloat16* p, int count) { return widened(_mm256_maskz_loadu_epi16(lanes_below(count), p)); }
inline I32 load_i32(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
inline void store_partial(float* p, F32 a, int count) { _mm512_mask_storeu_ps(p, lanes_below(count), a.v); }
inline void store(int32_t* p, I32 a) { _mm512_storeu_si512(p, a.v); }
inline __m256i upper(I32 a) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(a.v, 16)); }
inline void store_upper(Bfloat16* p, I32 a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), upper(a)); }
inline void store_upper_partial(Bfloat16* p, I32 a, int count) {
  _mm256_mask_storeu_epi16(p, lanes_below(count), upper(a));
}
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
inline F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32 abs(F32 a) { return {_mm512_abs_ps(a.v)}; }

inline I32 operator|(I32 a, I32 b) { return {_mm512_or_si512(a.v, b.v)}; }
inline I32 operator+(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32 operator^(I32 a, I32 b) { return {_mm512_xor_si512(a.v, b.v)}; }
inline I32 operator*(I32 a, I32 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
template <int bits> inline I32 shift_right(I32 a) { return {_mm512_srli_epi32(a.v, bits)}; }
template <int bits> inline I32 shift_left(I32 a) { return {_mm512_slli_epi32(a.v, bits)}; }
inline I32 as_i32(F32 a) { return {_mm512_castps_si512(a.v)}; }
inline F32 as_f32(I32 a) { return {_mm512_castsi512_ps(a.v)}; }

inline Mask operator>(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
inline F32 select(Mask m, F32 yes, F32 no) { return {_mm512_mask_blend_ps(m, no.v, yes.v)}; }
inline I32 select(Mask m, I32 yes, I32 no) { return {_mm512_mask_blend_epi32(m, no.v, yes.v)}; }

inline I32 or_where(Mask m, I32 a, I32 bits) { return {_mm512_mask_or_epi32(a.v, m, a.v, bits.v)}; }
inline Mask bit_of(I32 a, I32 bit) { return _mm512_test_epi32_mask(a.v, _mm512_sllv_epi32(_mm512_set1_epi32(1), bit.v)); }

inline float reduce_add(F32 a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline void reduce_add_each(const float* vectors, float* sums) {
  __m512 eight[8];  // halves: vector k, vector k + 8
  for (int k = 0; k < 8; ++k) {
    const __m512 a = _mm512_loadu_ps(vectors + 16 * k), b = _mm512_loadu_ps(vectors + 16 * (k + 8));
    eight[k] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  }
  __m512 four[4];   // quarters: vectors k, k + 8, k + 4, k + 12
  for (int k = 0; k < 4; ++k) {
    four[k] = _mm512_add_ps(_mm512_shuffle_f32x4(eight[k], eight[k + 4], 0x88),
                            _mm512_shuffle_f32x4(eight[k], eight[k + 4], 0xDD));
  }
  __m512 two[2];    // in each quarter two lanes of vector k's, then two of vector k + 2's
  for (int k = 0; k < 2; ++k) {
    two[k] = _mm512_add_ps(_mm512_shuffle_ps(four[k], four[k + 2], 0x44), _mm512_shuffle_ps(four[k], four[k + 2], 0xEE));
  }
  const __m512 one = _mm512_add_ps(_mm512_shuffle_ps(two[0], two[1], 0x88), _mm512_shuffle_ps(two[0], two[1], 0xDD));
  // Lanes hold vectors 0 2 1 3, then those + 8, + 4 and + 12.
  const __m512i place = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  _mm512_storeu_ps(sums, _mm512_permutexvar_ps(place, one));
}
inline float reduce_max(F32 a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

}  // namespace polychron::avx512
