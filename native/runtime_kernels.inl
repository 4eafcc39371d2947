// The runtime's kernels, written once against vectors of kVectorBytes bytes. A runtime_<set>.cpp includes this file
// inside its own namespace after it has defined kVectorBytes, widen_bytes and widen_words (a vector of numbers twice
// as wide as those in memory), hash_f32 and hash_i32.

namespace {

constexpr int kLanes = kVectorBytes / 4;
constexpr int kHalfLanes = kVectorBytes / 2;

using F32 = float __attribute__((vector_size(kVectorBytes)));
using I16 = int16_t __attribute__((vector_size(kVectorBytes)));
using U32 = uint32_t __attribute__((vector_size(kVectorBytes)));
using U16 = uint16_t __attribute__((vector_size(kVectorBytes / 2)));

template <class V> inline V load(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V> inline void store(void* p, V v) { __builtin_memcpy(p, &v, sizeof v); }

struct Float32Rows {
  using Element = float;
  static constexpr int kStep = kLanes;
  static inline F32 read(const float* p) { return load<F32>(p); }
};

struct Bfloat16Rows {
  using Element = uint16_t;
  static constexpr int kStep = kLanes;
  static inline F32 read(const uint16_t* p) {
    return reinterpret_cast<F32>(__builtin_convertvector(load<U16>(p), U32) << 16);
  }
};

constexpr int64_t kAhead = 24;  // rows asked for ahead of use

template <class T> inline void prefetch_row(const RowList& list, int64_t m) {
  const T* row = static_cast<const T*>(list.rows) + int64_t{list.index[m]} * list.stride;
  for (int64_t k = 0; k < list.width; k += 64 / int64_t{sizeof(T)}) __builtin_prefetch(row + k);
}

template <class Rows, int Blocks>
inline void add_block(const RowList& list, int64_t column, const float* start, float* y) {
  using T = typename Rows::Element;
  const T* rows = static_cast<const T*>(list.rows) + column;
  F32 sum[Blocks];
  for (int b = 0; b < Blocks; ++b) sum[b] = start ? load<F32>(start + column + b * kLanes) : F32{};
  for (int64_t m = 0; m < list.n; ++m) {
    if (list.prefetch && column == 0 && m + kAhead < list.n) prefetch_row<T>(list, m + kAhead);
    const T* row = rows + int64_t{list.index[m]} * list.stride;
    for (int b = 0; b < Blocks; ++b) sum[b] += Rows::read(row + b * kLanes);
  }
  for (int b = 0; b < Blocks; ++b) store(y + column + b * kLanes, sum[b]);
}

// Columns in chunks of at most 8 vectors, whose sums stay in registers.
template <class Body> inline void for_columns(int64_t width, int64_t lanes, const Body& body) {
  for (int64_t column = 0; column < width; column += 8 * lanes) {
    switch ((width - column + lanes - 1) / lanes) {
      case 1: body.template run<1>(column); break;
      case 2: body.template run<2>(column); break;
      case 3: body.template run<3>(column); break;
      case 4: body.template run<4>(column); break;
      case 5: body.template run<5>(column); break;
      case 6: body.template run<6>(column); break;
      case 7: body.template run<7>(column); break;
      default: body.template run<8>(column); break;
    }
  }
}

template <class Rows> struct AddBody {
  const RowList& list;
  const float* start;
  float* y;
  template <int Blocks> void run(int64_t column) const { add_block<Rows, Blocks>(list, column, start, y); }
};

template <class Rows> void add_rows(const RowList& list, const float* start, float* y) {
  if (list.prefetch) {
    for (int64_t m = 0; m < list.n && m < kAhead; ++m) prefetch_row<typename Rows::Element>(list, m);
  }
  for_columns(list.width, kLanes, AddBody<Rows>{list, start, y});
}

// Sums of up to 256 int8 fit 16 bits: a group is added up there, then widened, shifted and added to the output.
constexpr int64_t kFitting = 256;

struct AddInt8Body {
  const RowList& list;
  const ShiftGroup* groups;
  int64_t n_groups;
  int32_t* y;

  template <int Blocks> void run(int64_t column) const {
    const int8_t* rows = static_cast<const int8_t*>(list.rows) + column;
    for (int64_t q = 0; q < n_groups; ++q) {
      for (int64_t begin = groups[q].begin; begin < groups[q].end; begin += kFitting) {
        const int64_t end = begin + kFitting < groups[q].end ? begin + kFitting : groups[q].end;
        I16 sum[Blocks] = {};
        for (int64_t m = begin; m < end; ++m) {
          if (list.prefetch && column == 0 && m + kAhead < list.n) prefetch_row<int8_t>(list, m + kAhead);
          const int8_t* row = rows + int64_t{list.index[m]} * list.stride;
          for (int b = 0; b < Blocks; ++b) {
            sum[b] += reinterpret_cast<I16>(widen_bytes(row + b * kHalfLanes));
          }
        }
        int16_t sums[Blocks * kHalfLanes];
        __builtin_memcpy(sums, sum, sizeof sums);
        int32_t* out = y + column;
        for (int k = 0; k < Blocks * kHalfLanes; ++k) {
          out[k] += static_cast<int32_t>(static_cast<uint32_t>(int32_t{sums[k]}) << groups[q].shift);
        }
      }
    }
  }
};

void add_i8(const RowList& list, const ShiftGroup* groups, int64_t n_groups, const int32_t* start, int32_t* y) {
  if (list.prefetch) {
    for (int64_t m = 0; m < list.n && m < kAhead; ++m) prefetch_row<int8_t>(list, m);
  }
  if (!start) {
    __builtin_memset(y, 0, static_cast<size_t>(list.width) * sizeof *y);
  } else if (start != y) {
    __builtin_memcpy(y, start, static_cast<size_t>(list.width) * sizeof *y);
  }
  for_columns(list.width, kHalfLanes, AddInt8Body{list, groups, n_groups, y});
}

void add_narrow(const int16_t* const* rows, int64_t n_rows, int64_t n, int32_t* y) {
  for (int64_t k = 0; k < n; k += kLanes) {
    U32 sum = load<U32>(y + k);
    for (int64_t r = 0; r < n_rows; ++r) sum += reinterpret_cast<U32>(widen_words(rows[r] + k));
    store(y + k, sum);
  }
}

void add_sums(const float* const* rows, int64_t n_rows, int64_t n, float* y) {
  for (int64_t k = 0; k < n; k += kLanes) {
    F32 sum = load<F32>(rows[0] + k);
    for (int64_t r = 1; r < n_rows; ++r) sum += load<F32>(rows[r] + k);
    store(y + k, load<F32>(y + k) + sum);
  }
}

void join_bits(const int32_t* const* parts, int64_t n_parts, int64_t n, int32_t* index) {
  for (int64_t i = 0; i < n; i += 16) {
    U32 bits[64 / kVectorBytes];
    for (int b = 0; b < 64 / kVectorBytes; ++b) bits[b] = load<U32>(parts[0] + i + b * kLanes);
    for (int64_t p = 1; p < n_parts; ++p) {
      for (int b = 0; b < 64 / kVectorBytes; ++b) bits[b] |= load<U32>(parts[p] + i + b * kLanes);
    }
    for (int b = 0; b < 64 / kVectorBytes; ++b) store(index + i + b * kLanes, bits[b]);
  }
}

void join_masked(const int32_t* const* parts, const int32_t* mask, int64_t n_parts, const int32_t* first, int64_t n,
                 int32_t* index) {
  for (int64_t i = 0; i < n; i += 16) {
    U32 bits[64 / kVectorBytes];
    for (int b = 0; b < 64 / kVectorBytes; ++b) bits[b] = load<U32>(first + i + b * kLanes);
    for (int64_t p = 0; p < n_parts; ++p) {
      for (int b = 0; b < 64 / kVectorBytes; ++b) {
        bits[b] |= load<U32>(parts[p] + i + b * kLanes) & load<U32>(mask + p * n + i + b * kLanes);
      }
    }
    for (int b = 0; b < 64 / kVectorBytes; ++b) store(index + i + b * kLanes, bits[b]);
  }
}

// exp(x) for x <= 0 in one order of operations, so that a weight is the same number everywhere; 0 below -87.
inline float exp_nonpositive(float x) {
  const float bounded = x > -87.0f ? x : -87.0f;
  const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer and leaves that in the low bits
  const float shifted = bounded * 1.44269504f + shifter;
  const float n = shifted - shifter;
  const float r = bounded - n * 0.693359375f - n * -2.12194440e-4f;  // ln 2 in two parts, the first short
  float e = 1.0f / 720.0f;
  e = e * r + 1.0f / 120.0f;
  e = e * r + 1.0f / 24.0f;
  e = e * r + 1.0f / 6.0f;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  const float power = __builtin_bit_cast(float, (__builtin_bit_cast(uint32_t, shifted) + 127u) << 23);
  return x > -87.0f ? e * power : 0.0f;
}

void weigh(const float* __restrict logits, int64_t n, float highest, float coldness, uint32_t* __restrict weight) {
  for (int64_t k = 0; k < n; ++k) {
    // An infinite distance times a coldness of 0 is no number, and no number is not above -87: weight 0.
    const float e = exp_nonpositive((logits[k] - highest) * coldness);
    const float scaled = e * 4194304.0f + 12582912.0f;
    weight[k] = __builtin_bit_cast(uint32_t, scaled) - 0x4B400000u;
  }
}

float highest_f32(const float* logits, int64_t n) {
  F32 highest = F32{} + logits[0];
  auto numbers = highest == highest;
  int64_t k = 0;
  for (; k + kLanes <= n; k += kLanes) {
    const F32 some = load<F32>(logits + k);
    numbers &= some == some;
    highest = some > highest ? some : highest;
  }
  float best = highest[0];
  bool all_numbers = true;
  for (int l = 0; l < kLanes; ++l) {
    best = highest[l] > best ? highest[l] : best;
    all_numbers &= numbers[l] != 0;
  }
  for (; k < n; ++k) {
    best = logits[k] > best ? logits[k] : best;
    all_numbers &= logits[k] == logits[k];
  }
  return all_numbers ? best : __builtin_nanf("");
}

int32_t highest_i32(const int32_t* units, int64_t n) {
  int32_t highest = units[0];
  for (int64_t k = 0; k < n; ++k) highest = units[k] > highest ? units[k] : highest;
  return highest;
}

void weigh_units(const int32_t* __restrict units, int64_t n, int32_t highest, const uint32_t* __restrict table,
                 uint32_t table_size, int shift, uint32_t* __restrict weight) {
  const uint32_t last = table_size - 1;
  for (int64_t k = 0; k < n; ++k) {
    const uint32_t below = (static_cast<uint32_t>(highest) - static_cast<uint32_t>(units[k])) >> shift;
    weight[k] = below < last ? below : last;
  }
  for (int64_t k = 0; k < n; ++k) weight[k] = table[weight[k]];
}

uint32_t sum_blocks(const uint32_t* weight, int64_t n, uint32_t* sums) {
  uint32_t total = 0;
  for (int64_t k = 0; k < n; k += 16) {
    uint32_t sum = 0;
    for (int l = 0; l < 16; ++l) sum += weight[k + l];
    sums[k / 16] = sum;
    total += sum;
  }
  return total;
}

uint32_t sum_before(const uint32_t* weight, int64_t n, int64_t token) {
  const uint32_t own = weight[token];
  uint32_t before = 0, n_equal = 0;
  for (int64_t k = 0; k < n; ++k) before += weight[k] > own ? weight[k] : 0;
  for (int64_t k = 0; k < token; ++k) n_equal += weight[k] == own ? 1 : 0;
  return before + n_equal * own;
}

}  // namespace

const Kernels kernels = {
    POLYCHRON_SET_NAME, hash_f32, hash_i32, join_bits, join_masked, add_rows<Float32Rows>, add_rows<Bfloat16Rows>,
    add_i8, add_narrow, add_sums, highest_f32, highest_i32, weigh, weigh_units, sum_blocks, sum_before,
};
