// Contexts by their bytes: one line of the cache says whether a context was met and holds its row, if that is short,
// without a look at the shorter contexts. All lengths can therefore be asked for at once, long before the answers are
// needed, and an answer is the row itself.
//
// An open hash table: a line has four places and room that they share; what does not fit goes to the next line that has
// both. Contexts are told apart by all their bytes, never by the hash alone.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "runtime_memory.hpp"

namespace polychron::runtime {

// A key is a context's bytes, seven at most, the nearest lowest; then three bits of their number, and five of `holds`.
struct ContextLine {
  static constexpr int kPlaces = 4;
  static constexpr int64_t kRoom = 32;
  uint64_t key[kPlaces];   // 0: free, and so are those that follow
  uint8_t content[kRoom];  // of the places, in their order
};
static_assert(sizeof(ContextLine) == kLineBytes);

// What a place holds: a row of up to so many entries, their values and then their symbols; or where the row is.
inline constexpr int kMostHeld = 28;
inline constexpr int kHoldsDenseRow = 30;  // its number
inline constexpr int kHoldsPlace = 31;     // its first entry among those elsewhere, and their number

struct PlaceOfEntries {
  uint32_t first;
  uint16_t n;
};
inline constexpr int64_t kPlaceBytes = 6;

struct ContextRecord {
  uint64_t key;  // without `holds`
  int holds;
  std::array<uint8_t, ContextLine::kRoom> content;
};

struct FoundContext {
  const uint8_t* content;
  int holds;
  int64_t number;  // below n_places(), each context its own
};

class ContextIndex {
 public:
  // taken: by all contexts together, as taken_by has it.
  ContextIndex(int64_t taken, int64_t entry_bytes);
  static int64_t n_bytes(int64_t taken);
  // Bytes of a line's room that a context takes up: its content's, and a place's share at least.
  static int64_t taken_by(int holds, int64_t entry_bytes);

  static uint64_t key(uint64_t symbols, int length) {
    return (symbols & ~(~uint64_t{0} << 8 * length)) | static_cast<uint64_t>(length) << kKeyBits;
  }

  // False when a context's line and many after it are full, as only contexts chosen for that can bring about.
  bool insert(const std::vector<ContextRecord>&);
  const ContextLine* line(uint64_t key) const {
    uint64_t mixed = (key ^ key >> 29) * 0x9E3779B97F4A7C15u;  // the golden ratio
    mixed = (mixed ^ mixed >> 32) * 0x9E3779B97F4A7C15u;       // once more: contexts that begin alike must part
    return lines_ + static_cast<int64_t>((mixed >> 32) * static_cast<uint64_t>(n_lines_) >> 32);
  }
  // line: of the key. False where there is no such context. Adds what is read to n_bytes.
  bool find(uint64_t key, const ContextLine* line, FoundContext& found, int64_t& n_bytes) const {
    for (int n = 0; n < kLongestProbe; ++n, ++line) {
      n_bytes += static_cast<int64_t>(kLineBytes);
      const auto is = [&](int place) { return ((line->key[place] ^ key) & kKeyMask) == 0 ? 1 : 0; };
      const int place = is(1) | 2 * is(2) | 3 * is(3);  // which of the four is chance: no branch
      if (is(place)) {
        found = {line->content + begin_of(*line, place), holds(line->key[place]),
                 (line - lines_) * ContextLine::kPlaces + place};
        return true;
      }
      if (line->key[ContextLine::kPlaces - 1] == 0) break;
    }
    return false;
  }

  int64_t n_places() const { return (n_lines_ + kLongestProbe) * ContextLine::kPlaces; }

 private:
  static int64_t bytes_of(int holds, int64_t entry_bytes);
  static constexpr int kKeyBits = 56;
  static constexpr int kHoldsBits = kKeyBits + 3;
  static constexpr uint64_t kKeyMask = ~(~uint64_t{0} << kHoldsBits);
  static constexpr uint64_t kPassed = 1;  // of no context, for it has no length
  static constexpr int kLongestProbe = 128;

  static int holds(uint64_t key) { return static_cast<int>(key >> kHoldsBits); }
  // Where a place's content begins: the bytes of the places before it, added in the bytes of one number.
  int begin_of(const ContextLine& line, int place) const {
    const auto bytes = [&](int p) { return uint32_t{bytes_of_[static_cast<size_t>(holds(line.key[p]))]}; };
    const uint32_t sizes = bytes(0) << 8 | bytes(1) << 16 | bytes(2) << 24;
    return static_cast<int>(sizes * 0x01010101u >> 8 * place & 255);
  }
  bool insert(const ContextRecord&);

  std::array<uint8_t, 32> bytes_of_;
  int64_t n_lines_;
  TableMemory memory_;
  ContextLine* lines_;
};

}  // namespace polychron::runtime
