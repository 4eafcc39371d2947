// Tables of contexts: a row for each context that was met, and in a row only what followed it there. Rows are counted in
// one pass over a text; a reading adds one row a depth to the logits.
//
// A context is a list of bytes, the nearest first; there are three kinds of lists, each with a trie of its own:
//   text   the last four bytes, and hashes of the two, three and four bytes before them
//   words  the last two bytes; of the word so far two bytes of a hash, of the word before likewise, one of that before
//   line   the column, the last byte, and the byte that stands in the line above where the next one will stand
// In text and words a line break between two words is read as a space. Depth k knows the first k bytes of a list.
//
// A row's values are the terms of interpolated modified Kneser-Ney smoothing (Chen and Goodman, 1999):
//     P_k(w | h) = (c(hw) - D(c(hw))) / c(h) + gamma(h) P_{k-1}(w | h'),    gamma(h) = sum_w D(c(hw)) / c(h),
// h' being h without its furthest byte, and value_k(h, w) = log(P_k(w | h) / (gamma(h) P_{k-1}(w | h'))), which is 0 for
// what never followed h: an empty row leaves the shorter contexts' word. The values' sum over k is log P_K up to a number
// that is the same for all w. In the deepest contexts c counts occurrences, in the others the bytes met before hw. A
// context that was met once has no deeper ones: they would know no more.
//
// Contexts lie in a trie, level by level and in order, so that the children of a context (one byte deeper each) are
// neighbours, and so are its entries.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace polychron {

inline constexpr int kMaxContext = 7;  // bytes of a context: with what follows they fill 64 bits
inline constexpr int kMaxContextSymbols = 256;
inline constexpr int kHistory = 128;      // bytes that are remembered, for the line above
inline constexpr int kRing = 256;         // places for them: numbers of 8 bits go round
inline constexpr int kMaxColumn = 255;    // further ones count as this
inline constexpr uint8_t kNoByte = 255;   // before a text's beginning, or above a line's end

enum class ContextList : int { kText, kWords, kLine };
inline constexpr int kContextLists = 3;
// Bytes of each kind of list.
inline constexpr int kListLength[kContextLists] = {7, 7, 3};

// What contexts are made of, of the text so far; hashes are 0 where there is no word.
struct ContextState {
  // The latest byte stands at `latest`, the one before it behind it, and so on in a ring; line breaks between two words
  // are spaces.
  uint8_t ring[kRing];
  uint8_t latest = 0;
  int n_last = 0;       // bytes that are there, kHistory at most
  uint32_t word = 0, word_before = 0, second_before = 0;
  int column = 0;       // of the next byte
  int line_before = 0;  // bytes of it, with its break; 0: none

  ContextState() { std::memset(ring, kNoByte, sizeof ring); }

  uint8_t& last(int k) { return ring[static_cast<uint8_t>(latest + k)]; }
  uint8_t last(int k) const { return ring[static_cast<uint8_t>(latest + k)]; }  // kNoByte where there is none

  static constexpr bool is_blank(uint8_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }
  // What a byte adds to the hash of a word, 0 for those that end one. Capitals count as small letters.
  static constexpr uint8_t letter(uint8_t byte) {
    if (byte >= 'A' && byte <= 'Z') return static_cast<uint8_t>(byte + 32);
    const bool inside = (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte > 127 || byte == '\'' || byte == '_';
    return inside ? byte : 0;
  }

  void advance(uint8_t byte) {
    if (n_last > 1 && last(0) == '\n' && !is_blank(byte) && !is_blank(last(1))) last(0) = ' ';
    --latest;
    last(0) = byte;
    if (n_last < kHistory) ++n_last;
    if (const uint8_t in_word = letter(byte); in_word != 0) {
      word = word << 5 ^ in_word;  // of small letters' five bits six stand side by side, and older ones are forgotten
    } else if (word != 0) {
      second_before = word_before;
      word_before = word;
      word = 0;
    }
    if (byte == '\n') {
      line_before = column + 1;
      column = 0;
    } else if (column < kMaxColumn) {
      ++column;
    }
  }

  // Writes the bytes of a list, kListLength of them.
  void bytes(ContextList list, uint8_t* out) const {
    const auto folded = [](uint32_t hash) { return hash ^ hash >> 16; };
    switch (list) {
      case ContextList::kText:
        for (int k = 0; k < 4; ++k) out[k] = last(k);
        out[4] = hash(4, 6);
        out[5] = hash(6, 9);
        out[6] = hash(9, 13);
        return;
      case ContextList::kWords:
        out[0] = last(0);
        out[1] = last(1);
        out[2] = static_cast<uint8_t>(folded(word));
        out[3] = static_cast<uint8_t>(folded(word) >> 8);
        out[4] = static_cast<uint8_t>(folded(word_before));
        out[5] = static_cast<uint8_t>(folded(word_before) >> 8);
        out[6] = static_cast<uint8_t>(folded(second_before));
        return;
      case ContextList::kLine:
        out[0] = static_cast<uint8_t>(column);
        out[1] = last(0);
        out[2] = column < line_before && line_before <= kHistory ? last(line_before - 1) : kNoByte;
        return;
    }
  }

 private:
  uint8_t hash(int begin, int end) const {
    unsigned h = 0;
    for (int k = begin; k < end; ++k) h = ((h << 3 | h >> 5) + last(k)) & 255;
    return static_cast<uint8_t>(h);
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

// A trie's values, and once more the rows that many symbols have followed, with a number for each symbol: one is added by
// some vector operations, where entries are scattered one by one. The bits of a sum are the same, since what has no entry
// adds 0 to what is no -0: sums begin with 0.
class ContextValues {
 public:
  ContextValues(const ContextTrie& trie, const float* value);

  const float* entries() const { return value_; }
  // (n_symbols), or null: its entries must be added.
  const float* dense_row(uint32_t context) const {
    return context < row_.size() && row_[context] != 0 ? rows_.data() + row_[context] - 1 : nullptr;
  }

 private:
  const float* value_;
  std::vector<uint32_t> row_;  // 1 + where a context's begins, 0: it has none; up to the last that has one
  std::vector<float> rows_;
};

// Of each of n places in a text: y[w] += value for every entry of the contexts that its bytes begin with, shallowest first,
// as deep as was met. bytes: (n, kMaxContext), of a list; y: (n, n_symbols), of each depth `apart` numbers further on; 0:
// depths are added up.
void add_context_rows(const ContextTrie& trie, const ContextValues& values, const uint8_t* bytes, int64_t n, float* y,
                      int64_t apart = 0);

// Whether the arrays describe a trie: what comes from a file may not. Returns the first flaw, or null.
const char* flaw_of(const ContextTrie& trie, int64_t n_entries);

// Counts of a text, and the trie they lie in.
class ContextCounts {
 public:
  // `segments`: [begin, end) of the text's parts that are counted; contexts do not reach across. `byte`: of each symbol.
  ContextCounts(const uint8_t* text, const std::vector<std::pair<int64_t, int64_t>>& segments, const uint8_t* byte,
                int64_t n_symbols, ContextList list, int depth);

  ContextTrie trie() const;
  const std::vector<float>& values() const { return value_; }

 private:
  struct Discounts { float of[4]; };  // of a count of 0, 1, 2, and of more

  void fill(std::vector<uint64_t>& words);
  void leave_out_deeper_than_once();
  Discounts discounts_of_level(int level) const;
  float discount(int level, uint32_t count) const { return discounts_[static_cast<size_t>(level)].of[count < 3 ? count : 3]; }
  void find_values();

  int64_t n_symbols_;
  int depth_;
  std::vector<uint32_t> level_begin_;  // (depth + 2) first context of each level
  std::vector<uint8_t> symbol_, entry_symbol_;
  std::vector<uint32_t> first_child_, first_entry_, entry_count_;
  std::vector<uint32_t> met_;  // (C) how often a context was
  std::vector<float> value_;
  std::vector<Discounts> discounts_;
};

}  // namespace polychron
