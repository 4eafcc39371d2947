// Memory of a runtime's model that is read at random.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polychron::runtime {

constexpr uintptr_t kLineBytes = 64;  // of the cache

// Zero memory on huge pages.
class TableMemory {
 public:
  explicit TableMemory(size_t bytes);
  ~TableMemory();
  TableMemory(const TableMemory&) = delete;
  TableMemory& operator=(const TableMemory&) = delete;
  char* get() const { return memory_; }

 private:
  char* memory_;
  size_t bytes_;
};

}  // namespace polychron::runtime
