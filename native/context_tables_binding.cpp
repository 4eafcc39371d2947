// Counts of exact contexts, and reading tables of them, for arrays from Python.
//
// Legend: N text, B sequence, T position, K symbol, C context, E entry.
#include "context_tables_binding.hpp"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include "border.hpp"
#include "buffer.hpp"
#include "context_tables.hpp"
#include "recent_tables.hpp"

namespace nb = nanobind;
using namespace polychron::border;

namespace polychron {
namespace {

// Of a state: the last bytes, the latest first and -1 for none; hashes of three words; the column; the line before's length.
constexpr int64_t kStateSize = kHistory + 5;

ContextState state_of(const int64_t* of) {
  ContextState state;
  while (state.n_last < kHistory && of[state.n_last] >= 0) {
    state.last(state.n_last) = static_cast<uint8_t>(of[state.n_last]);
    ++state.n_last;
  }
  of += kHistory;
  state.word = static_cast<uint32_t>(of[0]);
  state.word_before = static_cast<uint32_t>(of[1]);
  state.second_before = static_cast<uint32_t>(of[2]);
  state.column = static_cast<int>(std::clamp<int64_t>(of[3], 0, kMaxColumn));
  state.line_before = static_cast<int>(std::clamp<int64_t>(of[4], 0, kMaxColumn + 1));
  return state;
}

void keep(const ContextState& state, int64_t* of) {
  std::fill_n(of, kHistory, -1);
  for (int k = 0; k < state.n_last; ++k) of[k] = state.last(k);
  of += kHistory;
  of[0] = state.word;
  of[1] = state.word_before;
  of[2] = state.second_before;
  of[3] = state.column;
  of[4] = state.line_before;
}

constexpr int64_t kPositions = 256;  // of a task: rows are far apart, and each has some tens of numbers

void require_symbols(const In<int64_t, 2>& tokens, int64_t n_symbols) {
  for (size_t p = 0; p < tokens.size(); ++p) {
    const int64_t id = tokens.data()[p];
    if (id >= 0 && id < n_symbols) continue;
    require(false, "tokens must lie in [0, " + std::to_string(n_symbols) + "); got " + std::to_string(id));
  }
}

class CountsHandle {
 public:
  CountsHandle(In<uint8_t, 1> text, const std::vector<std::pair<int64_t, int64_t>>& segments, In<uint8_t, 1> byte,
               int list, int depth)
      : counts_(count(text, segments, byte, list, depth)) {}

  int64_t n_contexts() const { return counts_.trie().n_contexts; }
  int64_t n_entries() const { return static_cast<int64_t>(counts_.values().size()); }

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
    std::copy_n(counts_.values().data(), n_entries(), value.data());
  }

 private:
  static ContextCounts count(const In<uint8_t, 1>& text, const std::vector<std::pair<int64_t, int64_t>>& segments,
                             const In<uint8_t, 1>& byte, int list, int depth) {
    const auto N = static_cast<int64_t>(text.size()), n_symbols = static_cast<int64_t>(byte.size());
    require(n_symbols >= 1 && n_symbols <= kMaxContextSymbols, "byte must be of 1 to 256 symbols; got " + std::to_string(n_symbols));
    require(list >= 0 && list < kContextLists, "list must lie in [0, 3); got " + std::to_string(list));
    require(depth >= 0 && depth <= kMaxContext, "depth must lie in [0, 7]; got " + std::to_string(depth));
    require(N < (int64_t{1} << 28), "text must be shorter than 2^28 bytes");
    for (const auto& [begin, end] : segments) {
      require(0 <= begin && begin <= end && end <= N, "segments must lie within the text");
    }
    const bool fits = N == 0 || *std::max_element(text.data(), text.data() + N) < n_symbols;
    require(fits, "text must hold ids below the number of symbols, " + std::to_string(n_symbols));
    nb::gil_scoped_release release;
    return {text.data(), segments, byte.data(), n_symbols, static_cast<ContextList>(list), depth};
  }

  ContextCounts counts_;
};

// A trie that was checked once, for any number of readings. The arrays stay Python's and must not change meanwhile.
class Reader {
 public:
  Reader(In<uint8_t, 1> symbol, In<int32_t, 1> first_child, In<int32_t, 1> first_entry, In<uint8_t, 1> entry_symbol,
         In<float, 1> value, In<uint8_t, 1> byte, int list, int depth)
      : symbol_(symbol), first_child_(first_child), first_entry_(first_entry), entry_symbol_(entry_symbol), value_(value),
        byte_(byte), list_(static_cast<ContextList>(list)),
        trie_{static_cast<int64_t>(byte.size()), depth, static_cast<int64_t>(symbol.size()), symbol.data(),
              reinterpret_cast<const uint32_t*>(first_child.data()),
              reinterpret_cast<const uint32_t*>(first_entry.data()), entry_symbol.data()} {
    require_shape(first_child, "first_child", {trie_.n_contexts + 1});
    require_shape(first_entry, "first_entry", {trie_.n_contexts + 1});
    require_shape(value, "value", {n_entries()});
    require(list >= 0 && list < kContextLists, "list must lie in [0, 3); got " + std::to_string(list));
    require(depth >= 0 && depth <= kListLength[list], "depth must lie in [0, " + std::to_string(kListLength[list]) + "]; got " + std::to_string(depth));
    nb::gil_scoped_release release;
    const char* flaw = flaw_of(trie_, n_entries());
    require(flaw == nullptr, flaw ? flaw : "");
    values_.emplace(trie_, value.data());
  }

  // y (depth + 1, B, T, K) <- the rows of each depth of the contexts after each token; `state` (B, kStateSize) <- what
  // follows the last.
  void each(In<int64_t, 2> tokens, Out<int64_t, 2> state, Out<float, 4> y, int n_threads) const {
    const auto B = static_cast<int64_t>(tokens.shape(0)), T = static_cast<int64_t>(tokens.shape(1));
    const int64_t K = trie_.n_symbols, n_flat = B * T, n_depths = trie_.depth + 1;
    check(tokens, state);
    require_shape(y, "y", {n_depths, B, T, K});
    const int workers = threads(n_threads);
    nb::gil_scoped_release release;
    Buffer<uint8_t> bytes(n_flat * kMaxContext);
    advance({this}, tokens, state, bytes.get(), workers);
    each_block(n_flat, workers, [&](int64_t p, int64_t n, int) {
      for (int64_t k = 0; k < n_depths; ++k) std::fill_n(y.data() + (k * n_flat + p) * K, n * K, 0.0f);
      add_context_rows(trie_, *values_, bytes.get() + p * kMaxContext, n, y.data() + p * K, n_flat * K);
    });
  }

  // y (B, T, K) <- what these readers sum up over all depths, added in their order; `state` as above.
  static void sum(const std::vector<const Reader*>& readers, In<int64_t, 2> tokens, Out<int64_t, 2> state,
                  Out<float, 3> y, int n_threads) {
    require(!readers.empty(), "there must be a reader at least");
    for (const Reader* reader : readers) {
      require(reader != nullptr, "readers must not be None");
      reader->check(tokens, state);
      require_shape(y, "y", {static_cast<int64_t>(tokens.shape(0)), static_cast<int64_t>(tokens.shape(1)), reader->trie_.n_symbols});
    }
    const int workers = threads(n_threads);
    nb::gil_scoped_release release;
    const int64_t K = readers[0]->trie_.n_symbols, n_flat = static_cast<int64_t>(tokens.size());
    Buffer<uint8_t> bytes(static_cast<int64_t>(readers.size()) * n_flat * kMaxContext);
    advance(readers, tokens, state, bytes.get(), workers);
    Buffer<float> of_one(workers * kPositions * K);
    each_block(n_flat, workers, [&](int64_t p, int64_t n, int worker) {
      float *out = y.data() + p * K, *own = of_one.get() + worker * kPositions * K;
      for (size_t i = 0; i < readers.size(); ++i) {
        float* to = i == 0 ? out : own;
        std::fill_n(to, n * K, 0.0f);
        const uint8_t* of = bytes.get() + (static_cast<int64_t>(i) * n_flat + p) * kMaxContext;
        add_context_rows(readers[i]->trie_, *readers[i]->values_, of, n, to);
        for (int64_t k = 0; i > 0 && k < n * K; ++k) out[k] += own[k];
      }
    });
  }

 private:
  int64_t n_entries() const { return static_cast<int64_t>(entry_symbol_.size()); }

  void check(const In<int64_t, 2>& tokens, const Out<int64_t, 2>& state) const {
    require_shape(state, "state", {static_cast<int64_t>(tokens.shape(0)), kStateSize});
    require_symbols(tokens, trie_.n_symbols);
  }

  // Writes each reader's lists (readers, B, T, kMaxContext), and the states after the last tokens.
  static void advance(const std::vector<const Reader*>& readers, const In<int64_t, 2>& tokens,
                      const Out<int64_t, 2>& state, uint8_t* bytes, int workers) {
    const auto B = static_cast<int64_t>(tokens.shape(0)), T = static_cast<int64_t>(tokens.shape(1));
    parallel_for(workers, B, [&](int64_t b, int) {
      int64_t* of = state.data() + kStateSize * b;
      ContextState now = state_of(of);
      for (int64_t p = b * T; p < (b + 1) * T; ++p) {
        now.advance(readers[0]->byte_.data()[tokens.data()[p]]);
        uint8_t* to = bytes + p * kMaxContext;
        for (const Reader* reader : readers) {
          now.bytes(reader->list_, to);
          to += B * T * kMaxContext;
        }
      }
      keep(now, of);
    });
  }

  // Calls work(first position, how many, worker) for all positions.
  template <class Work> static void each_block(int64_t n_flat, int workers, const Work& work) {
    parallel_for(workers, (n_flat + kPositions - 1) / kPositions, [&](int64_t task, int worker) {
      const int64_t p = task * kPositions;
      work(p, std::min(kPositions, n_flat - p), worker);
    });
  }

  In<uint8_t, 1> symbol_;
  In<int32_t, 1> first_child_, first_entry_;
  In<uint8_t, 1> entry_symbol_;
  In<float, 1> value_;
  In<uint8_t, 1> byte_;
  ContextList list_;
  ContextTrie trie_;
  std::optional<ContextValues> values_;
};

// Of a state with recent tables: what contexts are made of, then the keys of the last ones, then all places.
constexpr int64_t kRecentStateSize = kStateSize + kRecentTables + kRecentTables * kRecentPlaces;
constexpr uint8_t kNoCell = kRecentCells;

// Places of a text of which no state is kept: all 0 between two texts.
class EmptyPlaces {
 public:
  int64_t* get() {
    places_.resize(static_cast<size_t>(kRecentTables * kRecentPlaces));
    return places_.data();
  }
  void note(int64_t place) { written_.push_back(place); }
  void clear() {
    for (const int64_t place : written_) places_[static_cast<size_t>(place)] = 0;
    written_.clear();
  }

 private:
  std::vector<int64_t> places_, written_;
};

void find_recent(In<uint8_t, 1> byte, In<int64_t, 2> tokens, Maybe<Out<int64_t, 2>> state, Out<uint8_t, 3> symbols,
                 Out<uint8_t, 3> cells, int n_threads) {
  const auto B = static_cast<int64_t>(tokens.shape(0)), T = static_cast<int64_t>(tokens.shape(1));
  const auto K = static_cast<int64_t>(byte.size());
  require(K >= 1 && K <= kMaxContextSymbols, "byte must be of 1 to 256 symbols; got " + std::to_string(K));
  if (state) require_shape(*state, "state", {B, kRecentStateSize});
  require_shape(symbols, "symbols", {B, T, 2 * kRecentTables});
  require_shape(cells, "cells", {B, T, 2 * kRecentTables});
  require_symbols(tokens, K);
  const int workers = threads(n_threads);
  nb::gil_scoped_release release;
  parallel_for(workers, B, [&](int64_t b, int) {
    thread_local EmptyPlaces empty;
    int64_t* of = state ? state->data() + kRecentStateSize * b : nullptr;
    int64_t *kept_keys = of ? of + kStateSize : nullptr, *places = of ? kept_keys + kRecentTables : empty.get();
    ContextState now;
    uint32_t keys[kRecentTables] = {};
    if (of) {
      now = state_of(of);
      std::copy_n(kept_keys, kRecentTables, keys);
    }
    for (int64_t p = b * T; p < (b + 1) * T; ++p) {
      const int64_t token = tokens.data()[p];
      for (int i = 0; i < kRecentTables && !ends_in_run(now); ++i) {
        const int64_t at = recent_place(i, keys[i]);
        int64_t& word = places[at];
        if (!of && word == 0) empty.note(at);
        RecentPlace place = RecentPlace::of(static_cast<uint64_t>(word));
        place.write(keys[i], static_cast<uint8_t>(token));
        word = static_cast<int64_t>(place.word());
      }
      now.advance(byte.data()[token]);
      uint8_t lists[kContextLists][kMaxContext];
      for (int list = 0; list < kContextLists; ++list) now.bytes(static_cast<ContextList>(list), lists[list]);
      recent_keys(lists, keys);
      const bool reads = !ends_in_run(now);
      uint8_t *symbol = symbols.data() + p * 2 * kRecentTables, *cell = cells.data() + p * 2 * kRecentTables;
      for (int i = 0; i < kRecentTables; ++i, symbol += 2, cell += 2) {
        const RecentPlace place = RecentPlace::of(static_cast<uint64_t>(places[recent_place(i, keys[i])]));
        const bool met = reads && place.is_of(keys[i]);
        const auto note = [&](int which, uint8_t what, uint8_t run) {
          const bool there = met && run > 0 && what < K;  // a state may come from anywhere
          symbol[which] = there ? what : 0;
          cell[which] = there ? static_cast<uint8_t>(recent_cell(i, which, run)) : kNoCell;
        };
        note(0, place.latest, place.run);
        note(1, place.before, place.run_before);
      }
    }
    if (of) {
      keep(now, of);
      std::copy_n(keys, kRecentTables, kept_keys);
    } else {
      empty.clear();
    }
  });
}

// y (P, K) <- y + cells where they were found, table after table.
void add_recent(Out<float, 2> y, In<float, 1> cells, In<uint8_t, 2> symbols, In<uint8_t, 2> found, int n_threads) {
  const auto P = static_cast<int64_t>(y.shape(0)), K = static_cast<int64_t>(y.shape(1));
  require_shape(cells, "cells", {kRecentCells});
  require_shape(symbols, "symbols", {P, 2 * kRecentTables});
  require_shape(found, "found", {P, 2 * kRecentTables});
  const auto highest = [](const In<uint8_t, 2>& of) { return of.size() ? *std::max_element(of.data(), of.data() + of.size()) : 0; };
  require(P == 0 || highest(symbols) < K, "symbols must lie below the width of y");
  require(highest(found) <= kNoCell, "found must be numbers of cells, or their number where there is none");
  const int workers = threads(n_threads);
  nb::gil_scoped_release release;
  parallel_for(workers, (P + kPositions - 1) / kPositions, [&](int64_t task, int) {
    for (int64_t p = task * kPositions; p < std::min(P, (task + 1) * kPositions); ++p) {
      for (int64_t i = p * 2 * kRecentTables; i < (p + 1) * 2 * kRecentTables; ++i) {
        const uint8_t cell = found.data()[i];
        y.data()[p * K + symbols.data()[i]] += cell == kNoCell ? 0.0f : cells.data()[cell];
      }
    }
  });
}

}  // namespace

void bind_context_tables(nb::module_& m) {
  nb::class_<CountsHandle>(m, "ContextCounts")
      .def(nb::init<In<uint8_t, 1>, const std::vector<std::pair<int64_t, int64_t>>&, In<uint8_t, 1>, int, int>(),
           nb::arg("text").noconvert(), nb::arg("segments"), nb::arg("byte").noconvert(), nb::arg("list"),
           nb::arg("depth"))
      .def_prop_ro("n_contexts", &CountsHandle::n_contexts)
      .def_prop_ro("n_entries", &CountsHandle::n_entries)
      .def("rows", &CountsHandle::rows, nb::arg("symbol").noconvert(), nb::arg("first_child").noconvert(),
           nb::arg("first_entry").noconvert(), nb::arg("entry_symbol").noconvert(), nb::arg("value").noconvert());
  nb::class_<Reader>(m, "ContextReader")
      .def(nb::init<In<uint8_t, 1>, In<int32_t, 1>, In<int32_t, 1>, In<uint8_t, 1>, In<float, 1>, In<uint8_t, 1>, int, int>(),
           nb::arg("symbol").noconvert(), nb::arg("first_child").noconvert(), nb::arg("first_entry").noconvert(),
           nb::arg("entry_symbol").noconvert(), nb::arg("value").noconvert(), nb::arg("byte").noconvert(), nb::arg("list"), nb::arg("depth"))
      .def("each", &Reader::each, nb::arg("tokens").noconvert(), nb::arg("state").noconvert(),
           nb::arg("y").noconvert(), nb::arg("n_threads"))
      .def_static("sum", &Reader::sum, nb::arg("readers"), nb::arg("tokens").noconvert(),
                  nb::arg("state").noconvert(), nb::arg("y").noconvert(), nb::arg("n_threads"));
  m.def("add_recent", &add_recent, nb::arg("y").noconvert(), nb::arg("cells").noconvert(),
        nb::arg("symbols").noconvert(), nb::arg("found").noconvert(), nb::arg("n_threads"));
  m.def("find_recent", &find_recent, nb::arg("byte").noconvert(), nb::arg("tokens").noconvert(),
        nb::arg("state").noconvert().none(), nb::arg("symbols").noconvert(), nb::arg("cells").noconvert(),
        nb::arg("n_threads"));
}

}  // namespace polychron
