// Memory for tables: aligned, zero, on huge pages where the system grants them.
#pragma once

#include <cstddef>

namespace polychron {

// `bytes` zero bytes on a 64-byte boundary, from 2 MiB on a 2 MiB boundary with huge pages asked for.
// Throws std::bad_alloc. Freed by free_tables with the same size.
void* allocate_tables(std::size_t bytes);
void free_tables(void* memory, std::size_t bytes) noexcept;

}  // namespace polychron
