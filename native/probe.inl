// The probe's loop, written once. A probe_<set>.cpp includes this file inside its own namespace after simd_<set>.hpp.
//
// Loads of different rows do not wait for each other; additions would, so they go to eight sums in turn. Several short
// rows are taken together, so that no sum is used twice in a row.

namespace {

constexpr int kLanes = 16;
constexpr int kSums = 8;

template <int Floats> inline void prefetch(const float* row) {
  for (int at = 0; at < Floats; at += kLanes) __builtin_prefetch(row + at);
}

template <int Floats, bool Prefetch> inline void read(const RowReads& a, int64_t begin, int64_t end, F32 (&sums)[kSums]) {
  constexpr int kBlocks = (Floats + kLanes - 1) / kLanes;
  constexpr int kTogether = kBlocks < kSums ? kSums / kBlocks : 1;
  int64_t m = begin;
  for (; m + kTogether <= end; m += kTogether) {
    for (int r = 0; r < kTogether; ++r) {
      if constexpr (Prefetch) prefetch<Floats>(a.memory + int64_t{a.rows[m + r + a.prefetch_distance]} * Floats);
      const float* row = a.memory + int64_t{a.rows[m + r]} * Floats;
      for (int b = 0; b < kBlocks; ++b) {
        F32& sum = sums[(r * kBlocks + b) % kSums];
        sum = sum + (Floats % kLanes ? load_partial(row, Floats) : load(row + b * kLanes));
      }
    }
  }
  for (; m < end; ++m) {
    const float* row = a.memory + int64_t{a.rows[m]} * Floats;
    for (int b = 0; b < kBlocks; ++b) {
      F32& sum = sums[b % kSums];
      sum = sum + (Floats % kLanes ? load_partial(row, Floats) : load(row + b * kLanes));
    }
  }
}

template <int Floats> float read_range(const RowReads& a, int64_t begin, int64_t end) {
  F32 sums[kSums];
  for (F32& sum : sums) sum = set1(0.0f);
  // The last rows of the range were asked for before; nothing is left to ask for.
  const int64_t last = a.prefetch_distance > 0 ? end - a.prefetch_distance : begin;
  if (last > begin) read<Floats, true>(a, begin, last, sums);
  read<Floats, false>(a, last > begin ? last : begin, end, sums);
  for (int s = 1; s < kSums; ++s) sums[0] = sums[0] + sums[s];
  return reduce_add(sums[0]);
}

}  // namespace

float read_row_range(const RowReads& a, int64_t begin, int64_t end) {
  switch (a.row_floats) {
    case 8: return read_range<8>(a, begin, end);
    case 16: return read_range<16>(a, begin, end);
    case 32: return read_range<32>(a, begin, end);
    case 64: return read_range<64>(a, begin, end);
    case 128: return read_range<128>(a, begin, end);
    default: return read_range<256>(a, begin, end);
  }
}
