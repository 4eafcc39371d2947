// Tables of contexts: one for each depth, a row for each context that was met, and in a row only what followed it there.
// Rows are counted in one pass over a text; a reading adds one row a table to the logits.
//
// A context is a list of bytes, the nearest first: the last three symbols; of the word so far two bytes of a hash; of the
// word before likewise. Depth k knows the first k of them.
//
// A row's values are the terms of interpolated modified Kneser-Ney smoothing (Chen and Goodman, 1999):
//     P_k(w | h) = (c(hw) - D(c(hw))) / c(h) + gamma(h) P_{k-1}(w | h'),    gamma(h) = sum_w D(c(hw)) / c(h),
// h' being h without its furthest byte, and value_k(h, w) = log(P_k(w | h) / (gamma(h) P_{k-1}(w | h'))), which is 0 for
// what never followed h: an empty row leaves the shorter contexts' word. The values' sum over k is log P_K up to a number
// that is the same for all w. In the deepest contexts c counts occurrences, in the others the bytes met before hw.
//
// Contexts lie in a trie, level by level and in order, so that the children of a context (one byte deeper each) are
// neighbours, and so are its entries.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace polychron {

inline constexpr int kMaxContext = 7;  // bytes of a context: with what follows they fill 64 bits
inline constexpr int kMaxContextSymbols = 256;
inline constexpr int64_t kNoSymbol = -1;  // before a text's beginning

// What a context is made of, of the text so far; hashes are 0 where there is no word.
struct ContextState {
  int64_t last[3] = {kNoSymbol, kNoSymbol, kNoSymbol};  // the latest first
  uint32_t word = 0, word_before = 0;

  // `letter`: what the symbol adds to a word's hash; 0 ends the word.
  void advance(int64_t symbol, uint8_t letter) {
    last[2] = last[1];
    last[1] = last[0];
    last[0] = symbol;
    if (letter != 0) {
      word = (word << 5 | word >> 27) ^ letter;  // of small letters' five bits six stand side by side
    } else if (word != 0) {
      word_before = word;
      word = 0;
    }
  }

  // Writes kMaxContext bytes; returns how many of them are known.
  int symbols(uint8_t* out) const {
    const uint32_t now = word ^ word >> 16, before = word_before ^ word_before >> 16;
    for (int k = 0; k < 3; ++k) out[k] = static_cast<uint8_t>(last[k]);
    out[3] = static_cast<uint8_t>(now);
    out[4] = static_cast<uint8_t>(now >> 8);
    out[5] = static_cast<uint8_t>(before);
    out[6] = static_cast<uint8_t>(before >> 8);
    for (int k = 0; k < 3; ++k) {
      if (last[k] == kNoSymbol) return k;
    }
    return kMaxContext;
  }
};

// Views; C contexts, E entries.
struct ContextTrie {
  int64_t n_symbols;             // w lies below it
  int depth;                     // bytes of the deepest contexts
  int64_t n_contexts;
  const uint8_t* symbol;         // (C) a context's furthest byte
  const uint32_t* first_child;   // (C + 1)
  const uint32_t* first_entry;   // (C + 1)
  const uint8_t* entry_symbol;   // (E) w, ascending in a row
};

// y[w] += value for every entry of the contexts that `symbols` begin with, shallowest first, as deep as was met.
void add_context_rows(const ContextTrie& trie, const float* value, const uint8_t* symbols, int n_known, float* y);

// Whether the arrays describe a trie: what comes from a file may not. Returns the first flaw, or null.
const char* flaw_of(const ContextTrie& trie, int64_t n_entries);

// Counts of a text, and the trie they lie in.
class ContextCounts {
 public:
  // `segments`: [begin, end) of the text's parts that are counted; contexts do not reach across. `letter`: of a symbol.
  ContextCounts(const uint8_t* text, const std::vector<std::pair<int64_t, int64_t>>& segments, const uint8_t* letter,
                int64_t n_symbols, int depth);

  ContextTrie trie() const;
  int64_t n_entries() const { return static_cast<int64_t>(entry_symbol_.size()); }
  // (E) of a row's values.
  void values(float* value) const;

 private:
  struct Discounts { float of[4]; };  // of a count of 0, 1, 2, and of more

  Discounts discounts_of_level(int level) const;
  float discount(int level, uint32_t count) const { return discounts_[level].of[count < 3 ? count : 3]; }

  int64_t n_symbols_;
  int depth_;
  std::vector<uint32_t> level_begin_;  // (depth + 2) first context of each level
  std::vector<uint8_t> symbol_, entry_symbol_;
  std::vector<uint32_t> first_child_, first_entry_, entry_count_;
  std::vector<Discounts> discounts_;
};

}  // namespace polychron
