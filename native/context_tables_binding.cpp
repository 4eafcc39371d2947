// Counts of exact contexts, and reading tables of them, for arrays from Python.
//
// Legend: N text, B sequence, T position, K symbol, C context, E entry.
#include "context_tables_binding.hpp"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "border.hpp"
#include "context_tables.hpp"

namespace nb = nanobind;
using namespace polychron::border;

namespace polychron {
namespace {

constexpr int64_t kPositions = 256;  // of a task: rows are far apart, and each has some tens of numbers

class CountsHandle {
 public:
  CountsHandle(In<uint8_t, 1> text, const std::vector<std::pair<int64_t, int64_t>>& segments, int64_t n_symbols, int depth)
      : counts_(checked(text, segments, n_symbols, depth), segments, n_symbols, depth) {}

  int64_t n_contexts() const { return counts_.trie().n_contexts; }
  int64_t n_entries() const { return counts_.n_entries(); }

  void rows(Out<uint8_t, 1> symbol, Out<int32_t, 1> first_child, Out<int32_t, 1> first_entry,
            Out<uint8_t, 1> entry_symbol, Out<float, 1> value) const {
    const ContextTrie trie = counts_.trie();
    require_shape(symbol, "symbol", {trie.n_contexts});
    require_shape(first_child, "first_child", {trie.n_contexts + 1});
    require_shape(first_entry, "first_entry", {trie.n_contexts + 1});
    require_shape(entry_symbol, "entry_symbol", {n_entries()});
    require_shape(value, "value", {n_entries()});
    std::copy_n(trie.symbol, trie.n_contexts, symbol.data());
    std::copy_n(trie.first_child, trie.n_contexts + 1, first_child.data());
    std::copy_n(trie.first_entry, trie.n_contexts + 1, first_entry.data());
    std::copy_n(trie.entry_symbol, n_entries(), entry_symbol.data());
    nb::gil_scoped_release release;
    counts_.values(value.data());
  }

 private:
  static const uint8_t* checked(const In<uint8_t, 1>& text, const std::vector<std::pair<int64_t, int64_t>>& segments,
                                int64_t n_symbols, int depth) {
    const auto N = static_cast<int64_t>(text.size());
    require(n_symbols >= 1 && n_symbols <= kMaxContextSymbols, "n_symbols must lie in [1, 256]; got " + std::to_string(n_symbols));
    require(depth >= 0 && depth <= kMaxContext, "depth must lie in [0, 7]; got " + std::to_string(depth));
    require(N < (int64_t{1} << 28), "text must be shorter than 2^28 bytes");
    for (const auto& [begin, end] : segments) {
      require(0 <= begin && begin <= end && end <= N, "segments must lie within the text");
    }
    const bool fits = N == 0 || *std::max_element(text.data(), text.data() + N) < n_symbols;
    require(fits, "text must hold ids below n_symbols = " + std::to_string(n_symbols));
    return text.data();
  }

  ContextCounts counts_;
};

ContextTrie checked_trie(const In<uint8_t, 1>& symbol, const In<int32_t, 1>& first_child, const In<int32_t, 1>& first_entry,
                         const In<uint8_t, 1>& entry_symbol, int depth, int64_t n_symbols) {
  const auto C = static_cast<int64_t>(symbol.size());
  require_shape(first_child, "first_child", {C + 1});
  require_shape(first_entry, "first_entry", {C + 1});
  return {n_symbols, depth, C, symbol.data(), reinterpret_cast<const uint32_t*>(first_child.data()),
          reinterpret_cast<const uint32_t*>(first_entry.data()), entry_symbol.data()};
}

// The arrays were found to be a trie when they were made or loaded: context_rows_flaw.
void add_rows(In<uint8_t, 1> symbol, In<int32_t, 1> first_child, In<int32_t, 1> first_entry, In<uint8_t, 1> entry_symbol,
              In<float, 1> value, int depth, In<int64_t, 2> tokens, Out<float, 3> y, int n_threads) {
  const auto B = static_cast<int64_t>(tokens.shape(0)), width = static_cast<int64_t>(tokens.shape(1));
  const auto T = static_cast<int64_t>(y.shape(1)), K = static_cast<int64_t>(y.shape(2));
  const ContextTrie trie = checked_trie(symbol, first_child, first_entry, entry_symbol, depth, K);
  require_shape(value, "value", {static_cast<int64_t>(entry_symbol.size())});
  require_shape(y, "y", {B, T, K});
  require(width >= T, "tokens must have at least as many positions as y");
  for (int64_t p = 0; p < B * width; ++p) {
    const int64_t id = tokens.data()[p];
    if (id >= kNoSymbol && id < K) continue;
    require(false, "tokens must lie in [-1, " + std::to_string(K) + "); got " + std::to_string(id));
  }
  const int64_t n_flat = B * T;
  const int workers = threads(n_threads);
  nb::gil_scoped_release release;
  parallel_for(workers, (n_flat + kPositions - 1) / kPositions, [&](int64_t task, int) {
    for (int64_t p = task * kPositions; p < std::min(n_flat, (task + 1) * kPositions); ++p) {
      const int64_t n_before = width - T + p % T + 1;
      add_context_rows(trie, value.data(), tokens.data() + p / T * width + n_before, n_before, y.data() + p * K);
    }
  });
}

std::optional<std::string> flaw(In<uint8_t, 1> symbol, In<int32_t, 1> first_child, In<int32_t, 1> first_entry,
                                In<uint8_t, 1> entry_symbol, int depth, int64_t n_symbols) {
  const ContextTrie trie = checked_trie(symbol, first_child, first_entry, entry_symbol, depth, n_symbols);
  const char* found = flaw_of(trie, static_cast<int64_t>(entry_symbol.size()));
  return found ? std::optional<std::string>(found) : std::nullopt;
}

}  // namespace

void bind_context_tables(nb::module_& m) {
  nb::class_<CountsHandle>(m, "ContextCounts")
      .def(nb::init<In<uint8_t, 1>, const std::vector<std::pair<int64_t, int64_t>>&, int64_t, int>(),
           nb::arg("text").noconvert(), nb::arg("segments"), nb::arg("n_symbols"), nb::arg("depth"))
      .def_prop_ro("n_contexts", &CountsHandle::n_contexts)
      .def_prop_ro("n_entries", &CountsHandle::n_entries)
      .def("rows", &CountsHandle::rows, nb::arg("symbol").noconvert(), nb::arg("first_child").noconvert(),
           nb::arg("first_entry").noconvert(), nb::arg("entry_symbol").noconvert(), nb::arg("value").noconvert());
  m.def("add_context_rows", &add_rows, nb::arg("symbol").noconvert(), nb::arg("first_child").noconvert(),
        nb::arg("first_entry").noconvert(), nb::arg("entry_symbol").noconvert(), nb::arg("value").noconvert(), nb::arg("depth"),
        nb::arg("tokens").noconvert(), nb::arg("y").noconvert(), nb::arg("n_threads"));
  m.def("context_rows_flaw", &flaw, nb::arg("symbol").noconvert(), nb::arg("first_child").noconvert(),
        nb::arg("first_entry").noconvert(), nb::arg("entry_symbol").noconvert(), nb::arg("depth"), nb::arg("n_symbols"));
}

}  // namespace polychron
