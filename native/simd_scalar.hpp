// Sixteen float32 lanes in plain C++: what every other simd_*.hpp must equal, bit for bit.
//
// The kernels are written once (kernels.inl) against these few functions. Sums over lanes follow one fixed tree,
// nothing is contracted to a fused multiply-add, so all instruction sets round alike.
#pragma once

#include <cstdint>
#include <cstring>

#include "contract.hpp"

namespace polychron::scalar {

struct F32 { float lane[16]; };
struct I32 { int32_t lane[16]; };
struct Mask { bool lane[16]; };
constexpr int kSumsInRegisters = 8;

#define POLYCHRON_LANES for (int l = 0; l < 16; ++l)

inline F32 load(const float* p) { F32 r; std::memcpy(r.lane, p, sizeof r.lane); return r; }
inline F32 load_partial(const float* p, int count) {  // lanes from count on are 0
  F32 r{};
  for (int l = 0; l < count; ++l) r.lane[l] = p[l];
  return r;
}
inline F32 load_partial(const Bfloat16* p, int count) {
  F32 r{};
  for (int l = 0; l < count && l < 16; ++l) {  // the second bound is for GCC, which fears for r
    const uint32_t bits = static_cast<uint32_t>(p[l].bits) << 16;
    std::memcpy(&r.lane[l], &bits, sizeof bits);
  }
  return r;
}
inline F32 load(const Bfloat16* p) { return load_partial(p, 16); }
inline I32 load_i32(const int32_t* p) { I32 r; std::memcpy(r.lane, p, sizeof r.lane); return r; }
inline void store(float* p, F32 a) { std::memcpy(p, a.lane, sizeof a.lane); }
inline void store_partial(float* p, F32 a, int count) { for (int l = 0; l < count; ++l) p[l] = a.lane[l]; }
inline void store(int32_t* p, I32 a) { std::memcpy(p, a.lane, sizeof a.lane); }
// The upper 16 bits of each lane.
inline void store_upper_partial(Bfloat16* p, I32 a, int count) {
  for (int l = 0; l < count; ++l) p[l].bits = static_cast<uint16_t>(static_cast<uint32_t>(a.lane[l]) >> 16);
}
inline void store_upper(Bfloat16* p, I32 a) { store_upper_partial(p, a, 16); }
inline void store_u8(uint8_t* p, I32 a) { POLYCHRON_LANES p[l] = static_cast<uint8_t>(a.lane[l]); }

inline F32 set1(float v) { F32 r; POLYCHRON_LANES r.lane[l] = v; return r; }
inline I32 set1(int32_t v) { I32 r; POLYCHRON_LANES r.lane[l] = v; return r; }

inline F32 operator+(F32 a, F32 b) { POLYCHRON_LANES a.lane[l] += b.lane[l]; return a; }
inline F32 operator-(F32 a, F32 b) { POLYCHRON_LANES a.lane[l] -= b.lane[l]; return a; }
inline F32 operator*(F32 a, F32 b) { POLYCHRON_LANES a.lane[l] *= b.lane[l]; return a; }
inline F32 operator/(F32 a, F32 b) { POLYCHRON_LANES a.lane[l] /= b.lane[l]; return a; }
inline F32 max(F32 a, F32 b) { POLYCHRON_LANES a.lane[l] = a.lane[l] > b.lane[l] ? a.lane[l] : b.lane[l]; return a; }
// The second where either is NaN, as the processor's instruction has it.
inline F32 min(F32 a, F32 b) { POLYCHRON_LANES a.lane[l] = a.lane[l] < b.lane[l] ? a.lane[l] : b.lane[l]; return a; }
inline F32 abs(F32 a) { POLYCHRON_LANES a.lane[l] = __builtin_fabsf(a.lane[l]); return a; }

inline I32 operator|(I32 a, I32 b) { POLYCHRON_LANES a.lane[l] |= b.lane[l]; return a; }
inline I32 operator+(I32 a, I32 b) {
  POLYCHRON_LANES a.lane[l] = static_cast<int32_t>(static_cast<uint32_t>(a.lane[l]) + static_cast<uint32_t>(b.lane[l]));
  return a;
}
inline I32 operator^(I32 a, I32 b) { POLYCHRON_LANES a.lane[l] ^= b.lane[l]; return a; }
inline I32 operator*(I32 a, I32 b) {  // the lower 32 bits
  POLYCHRON_LANES a.lane[l] = static_cast<int32_t>(static_cast<uint32_t>(a.lane[l]) * static_cast<uint32_t>(b.lane[l]));
  return a;
}
template <int bits> inline I32 shift_right(I32 a) {  // zeros come in
  POLYCHRON_LANES a.lane[l] = static_cast<int32_t>(static_cast<uint32_t>(a.lane[l]) >> bits);
  return a;
}
template <int bits> inline I32 shift_left(I32 a) {
  POLYCHRON_LANES a.lane[l] = static_cast<int32_t>(static_cast<uint32_t>(a.lane[l]) << bits);
  return a;
}
inline I32 as_i32(F32 a) { I32 r; std::memcpy(&r, &a, sizeof r); return r; }
inline F32 as_f32(I32 a) { F32 r; std::memcpy(&r, &a, sizeof r); return r; }

inline Mask operator>(F32 a, F32 b) { Mask m; POLYCHRON_LANES m.lane[l] = a.lane[l] > b.lane[l]; return m; }
inline F32 select(Mask m, F32 yes, F32 no) { POLYCHRON_LANES no.lane[l] = m.lane[l] ? yes.lane[l] : no.lane[l]; return no; }
inline I32 select(Mask m, I32 yes, I32 no) { POLYCHRON_LANES no.lane[l] = m.lane[l] ? yes.lane[l] : no.lane[l]; return no; }
inline I32 or_where(Mask m, I32 a, I32 bits) { POLYCHRON_LANES a.lane[l] |= m.lane[l] ? bits.lane[l] : 0; return a; }
inline Mask bit_of(I32 a, I32 bit) { Mask m; POLYCHRON_LANES m.lane[l] = (a.lane[l] >> bit.lane[l]) & 1; return m; }

#undef POLYCHRON_LANES

// Halves are folded onto each other: lane l takes lane l + 8, then l + 4, l + 2, l + 1.
inline float reduce_add(F32 a) {
  for (int half = 8; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) a.lane[l] += a.lane[l + half];
  return a.lane[0];
}
// reduce_add of each of 16 vectors.
inline void reduce_add_each(const float* vectors, float* sums) {
  for (int k = 0; k < 16; ++k) sums[k] = reduce_add(load(vectors + 16 * k));
}
inline float reduce_max(F32 a) {
  for (int half = 8; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) a.lane[l] = a.lane[l] > a.lane[l + half] ? a.lane[l] : a.lane[l + half];
  return a.lane[0];
}

}  // namespace polychron::scalar
