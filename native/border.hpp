// What every binding checks: shapes, types and ranges of arrays from Python, once, in words that name the argument.
//
// Arrays are never copied (.noconvert) and never owned here.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

#include "lookup.hpp"
#include "threads.hpp"

namespace polychron::border {

namespace nb = nanobind;

template <class T, int N> using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, int N> using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
// Rows of K numbers, evenly spaced: (I, J, K) tables or (B, T, K) outputs whose rows may be padded.
template <class T> using Rows = nb::ndarray<T, nb::ndim<3>, nb::device::cpu>;
// Tables (I, J, K), rows padded or not: float32, or bfloat16 as int16, since numpy has no bfloat16.
using TableArray = nb::ndarray<nb::ndim<3>, nb::device::cpu>;
using ConstTableArray = nb::ndarray<nb::ro, nb::ndim<3>, nb::device::cpu>;
template <class A> using Maybe = std::optional<A>;

inline constexpr int kMaxThreads = 1024;
inline constexpr int64_t kMaxComparisons = 30;

template <class A> auto data(const Maybe<A>& array) -> decltype(array->data()) { return array ? array->data() : nullptr; }

inline void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}
inline void require(bool holds, const char* what) {  // makes no string where nothing is wrong
  if (!holds) throw std::invalid_argument(what);
}

template <class A> void require_shape(const A& array, const char* name, std::initializer_list<int64_t> expected) {
  bool equal = array.ndim() == expected.size();
  std::string want, got;
  size_t axis = 0;
  for (const int64_t size : expected) {
    want += (axis ? ", " : "") + std::to_string(size);
    equal = equal && axis < array.ndim() && static_cast<int64_t>(array.shape(axis)) == size;
    ++axis;
  }
  for (axis = 0; axis < array.ndim(); ++axis) got += (axis ? ", " : "") + std::to_string(array.shape(axis));
  require(equal, std::string(name) + " must have shape (" + want + "); got (" + got + ")");
}

// How many numbers apart the rows of a padded array begin.
template <class A> int64_t row_stride(const A& rows, const char* name) {
  const auto many = static_cast<int64_t>(rows.shape(0)), each = static_cast<int64_t>(rows.shape(1)),
             K = static_cast<int64_t>(rows.shape(2));
  if (many * each <= 1) return K;
  const int64_t stride = each > 1 ? rows.stride(1) : rows.stride(0);
  require((K <= 1 || rows.stride(2) == 1) && stride >= K && (each <= 1 || many <= 1 || rows.stride(0) == each * stride),
          std::string(name) + " must have contiguous, evenly spaced rows");
  return stride;
}

inline int threads(int n_threads) {
  if (n_threads < 1) throw std::invalid_argument("n_threads must be at least 1; got " + std::to_string(n_threads));
  return std::min(n_threads, kMaxThreads);
}

// Anchors with every neuron inside the latency vector and every delay bounded.
inline Anchors checked_anchors(const In<int32_t, 3>& anchors, const Maybe<In<int32_t, 3>>& delays, int64_t n_inputs) {
  const auto n_tables = static_cast<int64_t>(anchors.shape(0));
  const auto n_comparisons = static_cast<int64_t>(anchors.shape(1));
  require(anchors.shape(2) == 2, "anchors must have shape (n_tables, n_comparisons, 2): a pair of neurons each");
  require(n_tables >= 1, "anchors must name at least one table");
  require(n_comparisons >= 1 && n_comparisons <= kMaxComparisons,
          "anchors must name 1 to 30 comparisons a table; got " + std::to_string(n_comparisons));
  const int64_t n = n_tables * n_comparisons * 2;
  const auto [lowest, highest] = std::minmax_element(anchors.data(), anchors.data() + n);
  require(*lowest >= 0 && *highest < n_inputs,
          "anchors must lie in [0, n_inputs = " + std::to_string(n_inputs) + "); got " +
              std::to_string(*lowest < 0 ? *lowest : *highest) + ". Were they drawn for another n_inputs?");
  int64_t longest_delay = 0;
  if (delays) {
    require_shape(*delays, "delays", {n_tables, n_comparisons, 2});
    const auto [shortest, longest] = std::minmax_element(delays->data(), delays->data() + n);
    require(*shortest >= 0 && *longest < (1 << 16),
            "delays must lie in [0, 65536); got " + std::to_string(*shortest < 0 ? *shortest : *longest));
    longest_delay = *longest;
  }
  require((longest_delay + 512) * n_inputs < (int64_t{1} << 31),
          "delays and n_inputs are too large together: their product must stay below 2^31");
  return {anchors.data(), data(delays), n_tables, n_comparisons};
}

template <class A> RowType row_type(const A& tables) {
  if (tables.dtype() == nb::dtype<float>()) return RowType::float32;
  if (tables.dtype() == nb::dtype<int16_t>()) return RowType::bfloat16;
  throw nb::type_error("tables must be float32, or int16 that holds bfloat16");
}

struct TableShape {
  int64_t n_tables, n_rows, n_outputs, row_stride;
  RowType type;
};

template <class A> TableShape checked_tables(const A& tables, int64_t n_tables, int64_t n_bits) {
  const auto n_rows = static_cast<int64_t>(tables.shape(1));
  const auto n_outputs = static_cast<int64_t>(tables.shape(2));
  require(n_bits <= kMaxComparisons, "a row's index has at most 30 bits; got " + std::to_string(n_bits));
  require_shape(tables, "tables", {n_tables, int64_t{1} << n_bits, n_outputs});
  require(n_outputs >= 1, "tables must have at least one output");
  return {n_tables, n_rows, n_outputs, row_stride(tables, "tables"), row_type(tables)};
}

inline void check_flat(int64_t n_flat) {
  require(n_flat < (int64_t{1} << 31), "at most 2^31 - 1 positions in one call; got " + std::to_string(n_flat));
}

// check_rows by all threads: on one it takes as long as the gather that follows.
inline void check_all_rows(const int32_t* row, int64_t n_readings, int64_t n_rows, int n_threads) {
  constexpr int64_t kPiece = 1 << 15;
  parallel_for(n_threads, (n_readings + kPiece - 1) / kPiece, [&](int64_t piece, int) {
    check_rows(row + piece * kPiece, std::min(kPiece, n_readings - piece * kPiece), n_rows);
  });
}

}  // namespace polychron::border
