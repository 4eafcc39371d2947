#include "memory.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "threads.hpp"

namespace polychron {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kSmallPage = 4096;
constexpr std::size_t kCacheLine = 64;

std::size_t round_up(std::size_t bytes, std::size_t unit) {
  if (bytes > SIZE_MAX - unit) throw std::bad_alloc();
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

void* allocate_tables(std::size_t bytes, int n_threads) {
  if (bytes < kHugePage) {
    const std::size_t size = round_up(bytes > 0 ? bytes : 1, kCacheLine);
    void* memory = std::aligned_alloc(kCacheLine, size);
    if (!memory) throw std::bad_alloc();
    std::memset(memory, 0, size);
    return memory;
  }
  // A mapping is zero already. One huge page more is mapped than asked for, and
  // what lies outside the aligned part is given back.
  const std::size_t size = round_up(bytes, kHugePage);
  void* mapped = mmap(nullptr, round_up(size + 1, kHugePage), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  char* begin = static_cast<char*>(mapped);
  const std::size_t before = (kHugePage - reinterpret_cast<std::size_t>(begin) % kHugePage) % kHugePage;
  if (before > 0) munmap(begin, before);
  const std::size_t after = kHugePage - before;
  if (after > 0) munmap(begin + before + size, after);
#if defined(MADV_HUGEPAGE)
  madvise(begin + before, size, MADV_HUGEPAGE);  // a wish: where it is refused, small pages serve
#endif
  char* memory = begin + before;
  parallel_for(n_threads, static_cast<int64_t>(size / kHugePage), [memory](int64_t page, int) {
    for (std::size_t at = 0; at < kHugePage; at += kSmallPage) {
      *static_cast<volatile char*>(memory + static_cast<std::size_t>(page) * kHugePage + at) = 0;
    }
  });
  return memory;
}

void free_tables(void* memory, std::size_t bytes) noexcept {
  if (bytes < kHugePage) {
    std::free(memory);
  } else {
    munmap(memory, (bytes + kHugePage - 1) / kHugePage * kHugePage);
  }
}

}  // namespace polychron
