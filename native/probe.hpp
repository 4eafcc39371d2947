// What the memory can deliver: reads rows at random places and adds them up, as fast as it goes. No part of any model;
// benchmarks/memory_limit.py compares the kernels with it.
#pragma once

#include <cstdint>

namespace polychron {

struct RowReads {
  const float* memory;        // (n_rows, row_floats), on a 64-byte boundary
  int64_t row_floats;         // 8, 16, 32, 64, 128 or 256
  const int32_t* rows;        // (n_reads): which row each read takes
  int64_t n_reads;
  int64_t prefetch_distance;  // reads between asking for a row and adding it; 0: nothing is asked for
};

struct ReadTime {
  double seconds;             // of all passes, threads started and joined
  float sum;                  // of everything that was read: nobody can leave the reading out
};

// All reads, n_passes times, each thread its own part of the list. Runs the instruction set that the kernels run.
ReadTime read_rows(const RowReads&, int64_t n_passes, int n_threads);

bool is_probe_width(int64_t row_floats);

namespace scalar { float read_row_range(const RowReads&, int64_t begin, int64_t end); }
#if defined(__x86_64__)
namespace avx2 { float read_row_range(const RowReads&, int64_t begin, int64_t end); }
namespace avx512 { float read_row_range(const RowReads&, int64_t begin, int64_t end); }
#elif defined(__aarch64__)
namespace neon { float read_row_range(const RowReads&, int64_t begin, int64_t end); }
#endif

}  // namespace polychron
