// Sixteen float32 lanes in two AVX2 registers; see simd_scalar.hpp for what each function must equal.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "contract.hpp"

namespace polychron::avx2 {

struct F32 { __m256 lo, hi; };
struct I32 { __m256i lo, hi; };
struct Mask { __m256 lo, hi; };
constexpr int kSumsInRegisters = 8;

inline __m256i lanes_below(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline F32 load_partial(const float* p, int count) {
  return {_mm256_maskload_ps(p, lanes_below(count)), _mm256_maskload_ps(p + 8, lanes_below(count - 8))};
}
inline F32 load(const Bfloat16* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(halves)), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(halves + 1)), 16))};
}
inline F32 load_partial(const Bfloat16* p, int count) {  // AVX2 has no masked load of 16 bits
  Bfloat16 lanes[16] = {};
  for (int l = 0; l < count; ++l) lanes[l] = p[l];
  return load(lanes);
}
inline I32 load_i32(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
inline void store(float* p, F32 a) { _mm256_storeu_ps(p, a.lo); _mm256_storeu_ps(p + 8, a.hi); }
inline void store_partial(float* p, F32 a, int count) {
  _mm256_maskstore_ps(p, lanes_below(count), a.lo);
  _mm256_maskstore_ps(p + 8, lanes_below(count - 8), a.hi);
}
inline void store(int32_t* p, I32 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), a.hi);
}
inline void store_upper(Bfloat16* p, I32 a) {
  const __m256i words = _mm256_packus_epi32(_mm256_srli_epi32(a.lo, 16), _mm256_srli_epi32(a.hi, 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0b11011000));
}
inline void store_upper_partial(Bfloat16* p, I32 a, int count) {
  Bfloat16 lanes[16];
  store_upper(lanes, a);
  for (int l = 0; l < count; ++l) p[l] = lanes[l];
}
inline void store_u8(uint8_t* p, I32 a) {
  // Packing works within 128-bit halves: the order is put right before the last step.
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(a.lo, a.hi), 0b11011000);
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline F32 set1(float v) { const __m256 r = _mm256_set1_ps(v); return {r, r}; }
inline I32 set1(int32_t v) { const __m256i r = _mm256_set1_epi32(v); return {r, r}; }

inline F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline F32 abs(F32 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}

inline I32 operator|(I32 a, I32 b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
inline I32 operator+(I32 a, I32 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline I32 operator^(I32 a, I32 b) { return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)}; }
inline I32 operator*(I32 a, I32 b) { return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)}; }
template <int bits> inline I32 shift_right(I32 a) {
  return {_mm256_srli_epi32(a.lo, bits), _mm256_srli_epi32(a.hi, bits)};
}
template <int bits> inline I32 shift_left(I32 a) {
  return {_mm256_slli_epi32(a.lo, bits), _mm256_slli_epi32(a.hi, bits)};
}
inline I32 as_i32(F32 a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
inline F32 as_f32(I32 a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }

inline Mask operator>(F32 a, F32 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ)};
}
inline F32 select(Mask m, F32 yes, F32 no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, m.lo), _mm256_blendv_ps(no.hi, yes.hi, m.hi)};
}
inline I32 select(Mask m, I32 yes, I32 no) {
  return {_mm256_blendv_epi8(no.lo, yes.lo, _mm256_castps_si256(m.lo)),
          _mm256_blendv_epi8(no.hi, yes.hi, _mm256_castps_si256(m.hi))};
}

inline I32 or_where(Mask m, I32 a, I32 bits) {
  return {_mm256_or_si256(a.lo, _mm256_and_si256(_mm256_castps_si256(m.lo), bits.lo)),
          _mm256_or_si256(a.hi, _mm256_and_si256(_mm256_castps_si256(m.hi), bits.hi))};
}
inline Mask bit_of(I32 a, I32 bit) {
  const __m256i top = _mm256_set1_epi32(31);  // a blend looks at the sign only
  return {_mm256_castsi256_ps(_mm256_sllv_epi32(a.lo, _mm256_sub_epi32(top, bit.lo))),
          _mm256_castsi256_ps(_mm256_sllv_epi32(a.hi, _mm256_sub_epi32(top, bit.hi)))};
}

inline float reduce_add(F32 a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline void reduce_add_each(const float* vectors, float* sums) {
  for (int part = 0; part < 2; ++part, vectors += 8 * 16, sums += 8) {
    __m256 eight[8];
    for (int k = 0; k < 8; ++k) eight[k] = _mm256_add_ps(_mm256_loadu_ps(vectors + 16 * k), _mm256_loadu_ps(vectors + 16 * k + 8));
    __m256 four[4];  // halves: vector k, vector k + 4
    for (int k = 0; k < 4; ++k) {
      four[k] = _mm256_add_ps(_mm256_permute2f128_ps(eight[k], eight[k + 4], 0x20),
                              _mm256_permute2f128_ps(eight[k], eight[k + 4], 0x31));
    }
    __m256 two[2];   // quarters: vectors k, k + 2, k + 4, k + 6
    for (int k = 0; k < 2; ++k) {
      two[k] = _mm256_add_ps(_mm256_shuffle_ps(four[k], four[k + 2], 0x44),
                             _mm256_shuffle_ps(four[k], four[k + 2], 0xEE));
    }
    const __m256 one = _mm256_add_ps(_mm256_shuffle_ps(two[0], two[1], 0x88), _mm256_shuffle_ps(two[0], two[1], 0xDD));
    // Lanes hold vectors 0, 2, 1, 3 and 4, 6, 5, 7.
    _mm256_storeu_ps(sums, _mm256_permute_ps(one, 0b11011000));
  }
}
inline float reduce_max(F32 a) {
  const __m256 eight = _mm256_max_ps(a.lo, a.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

}  // namespace polychron::avx2
