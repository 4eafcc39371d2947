#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace polychron {

// Memory that is written before it is read: new[] without the zeros.
template <class T> class Buffer {
 public:
  explicit Buffer(int64_t size = 0) : data_(new T[static_cast<size_t>(size > 0 ? size : 1)]) {}
  T* get() { return data_.get(); }

 private:
  std::unique_ptr<T[]> data_;
};

}  // namespace polychron
