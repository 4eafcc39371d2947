// Sixteen float32 lanes in four NEON registers; see simd_scalar.hpp for what each function must equal.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "contract.hpp"

namespace polychron::neon {

struct F32 { float32x4_t q[4]; };
struct I32 { int32x4_t q[4]; };
struct Mask { uint32x4_t q[4]; };
constexpr int kSumsInRegisters = 8;

// One register after another: op(0), op(1), op(2), op(3).
template <class R, class Op> inline __attribute__((always_inline)) R each(const Op& op) {
  return {{op(0), op(1), op(2), op(3)}};
}

inline float32x4_t load_quarter(const float* p, int count) {
  if (count >= 4) return vld1q_f32(p);
  float lanes[4] = {};
  for (int l = 0; l < count; ++l) lanes[l] = p[l];
  return vld1q_f32(lanes);
}
inline void store_quarter(float* p, float32x4_t a, int count) {
  if (count >= 4) return vst1q_f32(p, a);
  float lanes[4];
  vst1q_f32(lanes, a);
  for (int l = 0; l < count; ++l) p[l] = lanes[l];
}

inline F32 load(const float* p) { return each<F32>([p](int k) { return vld1q_f32(p + 4 * k); }); }
inline F32 load_partial(const float* p, int count) {
  return each<F32>([=](int k) { return load_quarter(p + 4 * k, count - 4 * k); });
}
inline F32 load(const Bfloat16* p) {
  return each<F32>([p](int k) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p) + 4 * k), 16));
  });
}
inline F32 load_partial(const Bfloat16* p, int count) {
  Bfloat16 lanes[16] = {};
  for (int l = 0; l < count; ++l) lanes[l] = p[l];
  return load(lanes);
}
inline I32 load_i32(const int32_t* p) { return each<I32>([p](int k) { return vld1q_s32(p + 4 * k); }); }
inline void store(float* p, F32 a) { for (int k = 0; k < 4; ++k) vst1q_f32(p + 4 * k, a.q[k]); }
inline void store_partial(float* p, F32 a, int count) {
  for (int k = 0; k < 4; ++k) store_quarter(p + 4 * k, a.q[k], count - 4 * k);
}
inline void store(int32_t* p, I32 a) { for (int k = 0; k < 4; ++k) vst1q_s32(p + 4 * k, a.q[k]); }
inline void store_upper(Bfloat16* p, I32 a) {
  for (int k = 0; k < 4; ++k) {
    vst1_u16(reinterpret_cast<uint16_t*>(p) + 4 * k, vshrn_n_u32(vreinterpretq_u32_s32(a.q[k]), 16));
  }
}
inline void store_upper_partial(Bfloat16* p, I32 a, int count) {
  Bfloat16 lanes[16];
  store_upper(lanes, a);
  for (int l = 0; l < count; ++l) p[l] = lanes[l];
}
inline void store_u8(uint8_t* p, I32 a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.q[0]), vmovn_s32(a.q[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.q[2]), vmovn_s32(a.q[3]));
  vst1q_u8(p, vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(low), vmovn_s16(high))));
}

inline F32 set1(float v) { return each<F32>([v](int) { return vdupq_n_f32(v); }); }
inline I32 set1(int32_t v) { return each<I32>([v](int) { return vdupq_n_s32(v); }); }

inline F32 operator+(F32 a, F32 b) { return each<F32>([&](int k) { return vaddq_f32(a.q[k], b.q[k]); }); }
inline F32 operator-(F32 a, F32 b) { return each<F32>([&](int k) { return vsubq_f32(a.q[k], b.q[k]); }); }
inline F32 operator*(F32 a, F32 b) { return each<F32>([&](int k) { return vmulq_f32(a.q[k], b.q[k]); }); }
inline F32 operator/(F32 a, F32 b) { return each<F32>([&](int k) { return vdivq_f32(a.q[k], b.q[k]); }); }
// NEON's own maximum and minimum prefer NaN and the greater zero; the definition takes the second then.
inline float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline float32x4_t smaller(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline F32 max(F32 a, F32 b) { return each<F32>([&](int k) { return larger(a.q[k], b.q[k]); }); }
inline F32 min(F32 a, F32 b) { return each<F32>([&](int k) { return smaller(a.q[k], b.q[k]); }); }
inline F32 abs(F32 a) { return each<F32>([&](int k) { return vabsq_f32(a.q[k]); }); }

inline I32 operator|(I32 a, I32 b) { return each<I32>([&](int k) { return vorrq_s32(a.q[k], b.q[k]); }); }
inline I32 operator+(I32 a, I32 b) { return each<I32>([&](int k) { return vaddq_s32(a.q[k], b.q[k]); }); }
inline I32 operator^(I32 a, I32 b) { return each<I32>([&](int k) { return veorq_s32(a.q[k], b.q[k]); }); }
inline I32 operator*(I32 a, I32 b) { return each<I32>([&](int k) { return vmulq_s32(a.q[k], b.q[k]); }); }
template <int bits> inline I32 shift_right(I32 a) {
  return each<I32>([&](int k) {
    return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a.q[k]), bits));
  });
}
template <int bits> inline I32 shift_left(I32 a) {
  return each<I32>([&](int k) { return vshlq_n_s32(a.q[k], bits); });
}
inline I32 as_i32(F32 a) { return each<I32>([&](int k) { return vreinterpretq_s32_f32(a.q[k]); }); }
inline F32 as_f32(I32 a) { return each<F32>([&](int k) { return vreinterpretq_f32_s32(a.q[k]); }); }

inline Mask operator>(F32 a, F32 b) { return each<Mask>([&](int k) { return vcgtq_f32(a.q[k], b.q[k]); }); }
inline F32 select(Mask m, F32 yes, F32 no) {
  return each<F32>([&](int k) { return vbslq_f32(m.q[k], yes.q[k], no.q[k]); });
}
inline I32 select(Mask m, I32 yes, I32 no) {
  return each<I32>([&](int k) { return vbslq_s32(m.q[k], yes.q[k], no.q[k]); });
}
inline I32 or_where(Mask m, I32 a, I32 bits) {
  return each<I32>([&](int k) {
    return vorrq_s32(a.q[k], vandq_s32(vreinterpretq_s32_u32(m.q[k]), bits.q[k]));
  });
}
inline Mask bit_of(I32 a, I32 bit) {
  return each<Mask>([&](int k) { return vtstq_s32(a.q[k], vshlq_s32(vdupq_n_s32(1), bit.q[k])); });
}

inline float32x4_t fold_to_four(const float32x4_t (&q)[4]) {
  return vaddq_f32(vaddq_f32(q[0], q[2]), vaddq_f32(q[1], q[3]));
}
inline float reduce_add(F32 a) {
  const float32x4_t four = fold_to_four(a.q);
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline void reduce_add_each(const float* vectors, float* sums) {
  for (int part = 0; part < 4; ++part, vectors += 4 * 16, sums += 4) {
    float32x4_t four[4];
    for (int k = 0; k < 4; ++k) four[k] = fold_to_four(load(vectors + 16 * k).q);
    float32x4_t two[2];  // two lanes of vector 2k, then two of vector 2k + 1
    for (int k = 0; k < 2; ++k) {
      two[k] = vaddq_f32(vcombine_f32(vget_low_f32(four[2 * k]), vget_low_f32(four[2 * k + 1])),
                         vcombine_f32(vget_high_f32(four[2 * k]), vget_high_f32(four[2 * k + 1])));
    }
    vst1q_f32(sums, vpaddq_f32(two[0], two[1]));
  }
}
inline float reduce_max(F32 a) {
  const float32x4_t four = larger(larger(a.q[0], a.q[2]), larger(a.q[1], a.q[3]));
  const float32x4_t two = larger(four, vextq_f32(four, four, 2));
  return vgetq_lane_f32(larger(two, vdupq_laneq_f32(two, 1)), 0);
}

}  // namespace polychron::neon
