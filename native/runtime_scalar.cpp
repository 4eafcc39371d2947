// The runtime's kernels for every processor: the definition of hash_f32 and hash_i32.
#include "runtime_kernels.hpp"

#include <cstddef>

#define POLYCHRON_SET_NAME "scalar"

namespace polychron::runtime::scalar {
namespace {

constexpr int kVectorBytes = 16;

template <class Wide, class Narrow> inline Wide widen(const void* p) {
  Narrow narrow;
  __builtin_memcpy(&narrow, p, sizeof narrow);
  return __builtin_convertvector(narrow, Wide);
}
inline auto widen_bytes(const int8_t* p) {
  using Bytes = int8_t __attribute__((vector_size(kVectorBytes / 2)));
  using Words = int16_t __attribute__((vector_size(kVectorBytes)));
  return widen<Words, Bytes>(p);
}
inline auto widen_words(const int16_t* p) {
  using Words = int16_t __attribute__((vector_size(kVectorBytes / 2)));
  using Doubles = int32_t __attribute__((vector_size(kVectorBytes)));
  return widen<Doubles, Words>(p);
}

template <class T> void hash(const HashPlan& plan, const T* x, int32_t* index) {
  for (int64_t g = 0; g < plan.n_groups; ++g) {
    int32_t row[kHashLanes];
    for (int l = 0; l < kHashLanes; ++l) row[l] = plan.first[g * kHashLanes + l];
    for (int64_t r = 0; r < plan.n_comparisons; ++r) {
      const int64_t at = (g * plan.n_comparisons + r) * kHashLanes;
      for (int l = 0; l < kHashLanes; ++l) {
        row[l] |= static_cast<int32_t>(x[plan.a[at + l]] > x[plan.b[at + l]]) << r;
      }
    }
    for (int l = 0; l < kHashLanes; ++l) index[g * kHashLanes + l] = row[l];
  }
}

void hash_f32(const HashPlan& plan, const float* x, int32_t* index) { hash(plan, x, index); }
void hash_i32(const HashPlan& plan, const int32_t* x, int32_t* index) { hash(plan, x, index); }

}  // namespace

#include "runtime_kernels.inl"

}  // namespace polychron::runtime::scalar
