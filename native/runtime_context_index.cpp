#include "runtime_context_index.hpp"

#include <algorithm>

namespace polychron::runtime {
namespace {

constexpr int64_t kInsertedAhead = 16;  // lines asked for ahead of use

// Three fifths of the table are taken: most lines have a place left, which ends a search.
int64_t lines_for(int64_t taken) { return taken * 5 / (3 * ContextLine::kRoom) + 1; }

}  // namespace

ContextIndex::ContextIndex(int64_t taken, int64_t entry_bytes)
    : n_lines_(lines_for(taken)), memory_(static_cast<size_t>(n_bytes(taken))),
      lines_(reinterpret_cast<ContextLine*>(memory_.get())) {
  for (int held = 0; held < 32; ++held) {
    bytes_of_[static_cast<size_t>(held)] = static_cast<uint8_t>(std::min<int64_t>(bytes_of(held, entry_bytes), 255));
  }
}

int64_t ContextIndex::n_bytes(int64_t taken) {
  return (lines_for(taken) + kLongestProbe) * static_cast<int64_t>(kLineBytes);
}

int64_t ContextIndex::taken_by(int held, int64_t entry_bytes) {
  return std::max(bytes_of(held, entry_bytes), ContextLine::kRoom / ContextLine::kPlaces);
}

int64_t ContextIndex::bytes_of(int held, int64_t entry_bytes) {
  if (held == kHoldsDenseRow) return sizeof(uint32_t);
  return held == kHoldsPlace ? kPlaceBytes : held * entry_bytes;
}

bool ContextIndex::insert(const ContextRecord& record) {
  const int64_t n_bytes = bytes_of_[static_cast<size_t>(record.holds)];
  auto* line = lines_ + (this->line(record.key) - lines_);
  for (int n = 0; n < kLongestProbe; ++n, ++line) {
    int place = 0;
    int64_t taken = 0;
    for (; place < ContextLine::kPlaces && line->key[place] != 0; ++place) {
      taken += bytes_of_[static_cast<size_t>(holds(line->key[place]))];
    }
    if (place < ContextLine::kPlaces && taken + n_bytes <= ContextLine::kRoom) {
      line->key[place] = record.key | static_cast<uint64_t>(record.holds) << kHoldsBits;
      std::memcpy(line->content + taken, record.content.data(), static_cast<size_t>(n_bytes));
      return true;
    }
    // Who looks for this context must not end here.
    for (; place < ContextLine::kPlaces; ++place) line->key[place] = kPassed;
  }
  return false;
}

bool ContextIndex::insert(const std::vector<ContextRecord>& records) {
  const auto n = static_cast<int64_t>(records.size());
  for (int64_t c = 0; c < n; ++c) {
    __builtin_prefetch(line(records[static_cast<size_t>(std::min(c + kInsertedAhead, n - 1))].key), 1);
    if (!insert(records[static_cast<size_t>(c)])) return false;
  }
  return true;
}

}  // namespace polychron::runtime
