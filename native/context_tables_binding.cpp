// Counts of exact contexts, and reading tables of them, for arrays from Python.
//
// Legend: N text, B sequence, T position, K symbol, C context, E entry.
#include "context_tables_binding.hpp"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include "border.hpp"
#include "buffer.hpp"
#include "context_tables.hpp"

namespace nb = nanobind;
using namespace polychron::border;

namespace polychron {
namespace {

constexpr int64_t kPositions = 256;  // of a task: rows are far apart, and each has some tens of numbers

class CountsHandle {
 public:
  CountsHandle(In<uint8_t, 1> text, const std::vector<std::pair<int64_t, int64_t>>& segments, In<uint8_t, 1> letter,
               int depth)
      : counts_(checked(text, segments, static_cast<int64_t>(letter.size()), depth), segments, letter.data(),
                static_cast<int64_t>(letter.size()), depth) {}

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
    require(n_symbols >= 1 && n_symbols <= kMaxContextSymbols, "letter must name 1 to 256 symbols; got " + std::to_string(n_symbols));
    require(depth >= 0 && depth <= kMaxContext, "depth must lie in [0, 7]; got " + std::to_string(depth));
    require(N < (int64_t{1} << 28), "text must be shorter than 2^28 bytes");
    for (const auto& [begin, end] : segments) {
      require(0 <= begin && begin <= end && end <= N, "segments must lie within the text");
    }
    const bool fits = N == 0 || *std::max_element(text.data(), text.data() + N) < n_symbols;
    require(fits, "text must hold ids below the number of symbols, " + std::to_string(n_symbols));
    return text.data();
  }

  ContextCounts counts_;
};

// A trie that was checked once, for any number of readings. The arrays stay Python's and must not change meanwhile.
class Reader {
 public:
  Reader(In<uint8_t, 1> symbol, In<int32_t, 1> first_child, In<int32_t, 1> first_entry, In<uint8_t, 1> entry_symbol,
         In<uint8_t, 1> letter, int depth)
      : symbol_(symbol), first_child_(first_child), first_entry_(first_entry), entry_symbol_(entry_symbol),
        letter_(letter),
        trie_{static_cast<int64_t>(letter.size()), depth, static_cast<int64_t>(symbol.size()), symbol.data(),
              reinterpret_cast<const uint32_t*>(first_child.data()),
              reinterpret_cast<const uint32_t*>(first_entry.data()), entry_symbol.data()} {
    require_shape(first_child, "first_child", {trie_.n_contexts + 1});
    require_shape(first_entry, "first_entry", {trie_.n_contexts + 1});
    nb::gil_scoped_release release;
    const char* flaw = flaw_of(trie_, n_entries());
    require(flaw == nullptr, flaw ? flaw : "");
  }

  // `state` (B, 5): the last three symbols, the latest first, and two words' hashes; changed to those after the tokens.
  void add(In<float, 1> value, In<int64_t, 2> tokens, Out<int64_t, 2> state, Out<float, 3> y, int n_threads) const {
    const auto B = static_cast<int64_t>(tokens.shape(0)), T = static_cast<int64_t>(tokens.shape(1));
    const int64_t K = trie_.n_symbols, n_flat = B * T;
    require_shape(value, "value", {n_entries()});
    require_shape(state, "state", {B, 5});
    require_shape(y, "y", {B, T, K});
    for (int64_t p = 0; p < n_flat; ++p) {
      const int64_t id = tokens.data()[p];
      if (id >= 0 && id < K) continue;
      require(false, "tokens must lie in [0, " + std::to_string(K) + "); got " + std::to_string(id));
    }
    const int workers = threads(n_threads);
    nb::gil_scoped_release release;
    constexpr int64_t kStride = kMaxContext + 1;  // and how many are known
    Buffer<uint8_t> symbols(n_flat * kStride);
    parallel_for(workers, B, [&](int64_t b, int) {
      int64_t* of = state.data() + 5 * b;
      ContextState now{{of[0], of[1], of[2]}, static_cast<uint32_t>(of[3]), static_cast<uint32_t>(of[4])};
      for (int64_t p = b * T; p < (b + 1) * T; ++p) {
        now.advance(tokens.data()[p], letter_.data()[tokens.data()[p]]);
        uint8_t* out = symbols.get() + p * kStride;
        out[kMaxContext] = static_cast<uint8_t>(now.symbols(out));
      }
      std::copy_n(now.last, 3, of);
      of[3] = now.word;
      of[4] = now.word_before;
    });
    parallel_for(workers, (n_flat + kPositions - 1) / kPositions, [&](int64_t task, int) {
      for (int64_t p = task * kPositions; p < std::min(n_flat, (task + 1) * kPositions); ++p) {
        const uint8_t* of = symbols.get() + p * kStride;
        add_context_rows(trie_, value.data(), of, of[kMaxContext], y.data() + p * K);
      }
    });
  }

 private:
  int64_t n_entries() const { return static_cast<int64_t>(entry_symbol_.size()); }

  In<uint8_t, 1> symbol_;
  In<int32_t, 1> first_child_, first_entry_;
  In<uint8_t, 1> entry_symbol_, letter_;
  ContextTrie trie_;
};

}  // namespace

void bind_context_tables(nb::module_& m) {
  nb::class_<CountsHandle>(m, "ContextCounts")
      .def(nb::init<In<uint8_t, 1>, const std::vector<std::pair<int64_t, int64_t>>&, In<uint8_t, 1>, int>(),
           nb::arg("text").noconvert(), nb::arg("segments"), nb::arg("letter").noconvert(), nb::arg("depth"))
      .def_prop_ro("n_contexts", &CountsHandle::n_contexts)
      .def_prop_ro("n_entries", &CountsHandle::n_entries)
      .def("rows", &CountsHandle::rows, nb::arg("symbol").noconvert(), nb::arg("first_child").noconvert(),
           nb::arg("first_entry").noconvert(), nb::arg("entry_symbol").noconvert(), nb::arg("value").noconvert());
  nb::class_<Reader>(m, "ContextReader")
      .def(nb::init<In<uint8_t, 1>, In<int32_t, 1>, In<int32_t, 1>, In<uint8_t, 1>, In<uint8_t, 1>, int>(),
           nb::arg("symbol").noconvert(), nb::arg("first_child").noconvert(), nb::arg("first_entry").noconvert(),
           nb::arg("entry_symbol").noconvert(), nb::arg("letter").noconvert(), nb::arg("depth"))
      .def("add", &Reader::add, nb::arg("value").noconvert(), nb::arg("tokens").noconvert(),
           nb::arg("state").noconvert(), nb::arg("y").noconvert(), nb::arg("n_threads"));
}

}  // namespace polychron
