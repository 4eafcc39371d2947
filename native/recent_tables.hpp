// Tables that are written while a text is read: what followed a context when it was last met, how many times in a row, and
// what had followed it before. A reading compares nothing: a context's bytes are the address, and what stands there names
// two symbols, to whose logits numbers are added that depend on how long the symbols' runs were. Those numbers, the cells,
// are fitted after training (training/blend.py); what is written is the state of a text, and a new text begins with nothing.
//
// A table has 2^15 places. A context's place is given by the highest bits of its key, and a place remembers the key, so that
// a context is not taken for another; one that comes later takes the place of one that was there.
//
// Where a text ends in a run of one byte, nothing is read and nothing written: a model that writes, and remembers what it
// writes, would find in every space of an indentation one more reason for the next.
//
// Legend: I table, S place.
#pragma once

#include <array>
#include <cstdint>

#include "context_tables.hpp"

namespace polychron {

inline constexpr int kRecentTables = 5;
inline constexpr int kRecentBits = 15;
inline constexpr int64_t kRecentPlaces = int64_t{1} << kRecentBits;
inline constexpr int kRunClasses = 8;
inline constexpr int kRecentCells = kRecentTables * 2 * kRunClasses;

// What each table knows of a text: so many bytes of a list.
struct RecentContext {
  ContextList list;
  int depth;
};
inline constexpr std::array<RecentContext, kRecentTables> kRecentContexts{{{ContextList::kText, 3},
                                                                           {ContextList::kText, 5},
                                                                           {ContextList::kText, 7},
                                                                           {ContextList::kWords, 4},
                                                                           {ContextList::kLine, 3}}};

// A place as one number: the key, the symbol before the latest, how long its run was, the latest symbol, its run; of 32
// and four times 8 bits, the key highest. Where the latest's run is 0 nothing was written.
struct RecentPlace {
  uint32_t key;
  uint8_t before, run_before, latest, run;

  static RecentPlace of(uint64_t word) {
    return {static_cast<uint32_t>(word >> 32), static_cast<uint8_t>(word >> 24), static_cast<uint8_t>(word >> 16),
            static_cast<uint8_t>(word >> 8), static_cast<uint8_t>(word)};
  }
  uint64_t word() const {
    return uint64_t{key} << 32 | uint64_t{before} << 24 | uint64_t{run_before} << 16 | uint64_t{latest} << 8 | run;
  }
  bool is_of(uint32_t other) const { return run > 0 && key == other; }
  // After the context with this key, the symbol followed.
  void write(uint32_t other, uint8_t symbol) {
    if (!is_of(other)) {
      *this = {other, 0, 0, symbol, 1};
    } else if (symbol == latest) {
      if (run < 255) ++run;
    } else {
      before = latest;
      run_before = run;
      latest = symbol;
      run = 1;
    }
  }
};

// 0 to 7: runs of 1, 2, 3, 4, up to 6, 9, 14, and longer ones.
constexpr int run_class(int run) {
  return run <= 4 ? run - 1 : run <= 6 ? 4 : run <= 9 ? 5 : run <= 14 ? 6 : 7;
}

// Of a table, the latest symbol's (0) or that before (1), after a run so long.
constexpr int recent_cell(int table, int which, int run) { return (2 * table + which) * kRunClasses + run_class(run); }

// Keys of the contexts that a text ends with, from the lists of all kinds. Each byte is added and mixed in by Marsaglia's
// xorshift: exports know no multiplication, and h + (h << k) would become one.
inline void recent_keys(const uint8_t (*lists)[kMaxContext], uint32_t* keys) {
  uint32_t h = 0;
  int k = 0;
  for (size_t i = 0; i < kRecentTables; ++i) {
    const RecentContext& context = kRecentContexts[i];
    const uint8_t* bytes = lists[static_cast<int>(context.list)];
    if (i > 0 && context.list != kRecentContexts[i - 1].list) h = 0, k = 0;  // else it goes on where the one before ends
    for (; k < context.depth; ++k) {
      h += bytes[k];
      h ^= h << 13;
      h ^= h >> 17;
      h ^= h << 5;
    }
    keys[i] = h;
  }
}

// Before a text's beginning, too: nothing is known there.
inline bool ends_in_run(const ContextState& text) {
  return text.last(0) == text.last(1) && text.last(1) == text.last(2);
}

inline int64_t recent_place(int table, uint32_t key) {
  return table * kRecentPlaces + static_cast<int64_t>(key >> (32 - kRecentBits));
}

}  // namespace polychron
