#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

namespace polychron {

// Memory that is written before it is read, on a cache line's boundary: new[] without the zeros.
template <class T> class Buffer {
 public:
  Buffer() : Buffer(0) {}
  explicit Buffer(int64_t size)
      : data_(static_cast<T*>(::operator new[](sizeof(T) * static_cast<size_t>(size > 0 ? size : 1), kLine))) {}
  T* get() { return data_.get(); }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free { void operator()(T* p) const { ::operator delete[](p, kLine); } };

  static_assert(std::is_trivially_default_constructible_v<T>);
  std::unique_ptr<T[], Free> data_;
};

}  // namespace polychron
