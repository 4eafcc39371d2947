// Memory for tables: aligned, zero, on huge pages where the system grants them.
#pragma once

#include <cstddef>

namespace polychron {

// `bytes` zero bytes on a 64-byte boundary, from 2 MiB on a 2 MiB boundary with huge pages asked for. All pages are
// touched at once, by n_threads threads: a run does not stop for them later, and memory that is not there is missed
// now. Throws std::bad_alloc. Freed by free_tables with the same size.
void* allocate_tables(std::size_t bytes, int n_threads);
void free_tables(void* memory, std::size_t bytes) noexcept;

}  // namespace polychron
