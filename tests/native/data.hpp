// Seeded data for the native tests, the same on every machine, and results as bits to compare.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "contract.hpp"

namespace polychron::testing {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  float real() { return static_cast<float>(static_cast<int32_t>(next() >> 40) - (1 << 23)) * 0x1p-21f; }  // [-4, 4)
  // Now and then one of the values that instruction sets like to disagree on.
  float special() {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const float values[] = {0.0f, -0.0f, kInfinity, -kInfinity, std::nanf(""), 1e-41f, -1e-45f, 3e38f, -3e38f, 1.0f};
    return below(4) > 0 ? real() : values[below(10)];
  }

  std::vector<float> reals(int64_t n) { return fill<float>(n, [this] { return real(); }); }
  std::vector<float> specials(int64_t n) { return fill<float>(n, [this] { return special(); }); }
  std::vector<Bfloat16> halves(int64_t n) {  // the upper halves of reals
    return fill<Bfloat16>(n, [this] {
      return Bfloat16{static_cast<uint16_t>(std::bit_cast<uint32_t>(real()) >> 16)};
    });
  }
  std::vector<int32_t> ints(int64_t n, int64_t below_this) {
    return fill<int32_t>(n, [this, below_this] { return static_cast<int32_t>(below(below_this)); });
  }
  std::vector<int64_t> classes(int64_t n, int64_t below_this) {
    return fill<int64_t>(n, [this, below_this] { return below(below_this); });
  }

 private:
  uint64_t next() {  // splitmix64
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  template <class T, class Draw> std::vector<T> fill(int64_t n, const Draw& draw) {
    std::vector<T> values(static_cast<size_t>(n));
    for (T& value : values) value = draw();
    return values;
  }

  uint64_t state_;
};

// Results in the order of their making. Every NaN counts as one: processors differ in its sign and payload.
class Bits {
 public:
  void add(float value) { words_.push_back(std::isnan(value) ? 0x7fc00000u : std::bit_cast<uint32_t>(value)); }
  void add(int32_t value) { words_.push_back(static_cast<uint32_t>(value)); }
  void add(Bfloat16 value) { words_.push_back(value.bits); }
  void add(uint8_t value) { words_.push_back(value); }
  template <class T> void add(const std::vector<T>& values) { for (const T value : values) add(value); }

  const std::vector<uint32_t>& words() const { return words_; }

 private:
  std::vector<uint32_t> words_;
};

// Whether `actual` are the bits of `expected`; says where not.
inline bool same(const Bits& expected, const Bits& actual, const std::string& what) {
  if (expected.words() == actual.words()) return true;
  const size_t n = std::min(expected.words().size(), actual.words().size());
  size_t at = 0;
  while (at < n && expected.words()[at] == actual.words()[at]) ++at;
  std::printf("FAILED %s: %zu words, %zu expected; the first that differs is %zu\n", what.c_str(),
              actual.words().size(), expected.words().size(), at);
  return false;
}

}  // namespace polychron::testing
