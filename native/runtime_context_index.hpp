// Contexts by their bytes: one line of the cache says whether a context was met and where its row stands, without a
// look at the shorter ones. All lengths can therefore be asked for at once, long before the answers are needed.
//
// An open hash table: a line has four places, what does not fit goes to the next line that has room. Contexts are told
// apart by all their bytes, never by the hash alone.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime_memory.hpp"

namespace polychron::runtime {

// Where a context's row stands. Most rows hold one number: it is here.
struct ContextPlace {
  uint64_t key;                  // 0: empty
  uint32_t first_entry;          // of one entry, its value
  uint16_t n_entries, symbol;    // of one entry, its symbol
};

class ContextIndex {
 public:
  explicit ContextIndex(int64_t n_contexts);

  // Of a context's first `length` bytes, 1 to 7, the nearest lowest; what stands above them does not matter.
  static uint64_t key(uint64_t symbols, int length) {
    return (symbols & ~(~uint64_t{0} << 8 * length)) | static_cast<uint64_t>(length) << 56;
  }

  // False when a key's line and many after it are full, as only keys chosen for that can bring about.
  bool insert(const std::vector<ContextPlace>&);
  void ask_for(uint64_t key) const { __builtin_prefetch(line(key)); }
  // Null where there is none. Adds what is read to n_bytes.
  const ContextPlace* find(uint64_t key, int64_t& n_bytes) const {
    const ContextPlace* places = line(key);
    for (int n = 0; n < kLongestProbe; ++n, places += kPlaces) {
      n_bytes += static_cast<int64_t>(kLineBytes);
      const int found = (places[1].key == key ? 1 : 0) | (places[2].key == key ? 2 : 0) | (places[3].key == key ? 3 : 0);
      if (places[found].key == key) return places + found;
      if (places[kPlaces - 1].key == 0) break;
    }
    return nullptr;
  }

  int64_t n_places() const { return (n_lines_ + kLongestProbe) * kPlaces; }
  int64_t number_of(const ContextPlace* place) const { return place - places_; }
  static int64_t n_bytes(int64_t n_contexts);

 private:
  static constexpr int kPlaces = 4;
  static constexpr int kLongestProbe = 128;

  ContextPlace* line(uint64_t key) const {
    uint64_t mixed = (key ^ key >> 29) * 0x9E3779B97F4A7C15u;  // the golden ratio
    mixed = (mixed ^ mixed >> 32) * 0x9E3779B97F4A7C15u;       // once more: contexts that begin alike must part
    return places_ + static_cast<int64_t>((mixed >> 32) * static_cast<uint64_t>(n_lines_) >> 32) * kPlaces;
  }

  int64_t n_lines_;
  TableMemory memory_;
  ContextPlace* places_;
};

}  // namespace polychron::runtime
