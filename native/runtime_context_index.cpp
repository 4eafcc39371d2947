#include "runtime_context_index.hpp"

#include <algorithm>

namespace polychron::runtime {
namespace {

constexpr int64_t kInsertedAhead = 16;  // lines asked for ahead of use

static_assert(sizeof(ContextPlace) * 4 == kLineBytes);

// Three of five places are taken: most lines have room left, which ends a search.
int64_t lines_for(int64_t n_contexts) { return n_contexts * 5 / 12 + 1; }

}  // namespace

ContextIndex::ContextIndex(int64_t n_contexts)
    : n_lines_(lines_for(n_contexts)), memory_(static_cast<size_t>(n_bytes(n_contexts))),
      places_(reinterpret_cast<ContextPlace*>(memory_.get())) {}

int64_t ContextIndex::n_bytes(int64_t n_contexts) {
  return (lines_for(n_contexts) + kLongestProbe) * static_cast<int64_t>(kLineBytes);
}

bool ContextIndex::insert(const std::vector<ContextPlace>& contexts) {
  const auto n = static_cast<int64_t>(contexts.size());
  for (int64_t c = 0; c < n; ++c) {
    ask_for(contexts[static_cast<size_t>(std::min(c + kInsertedAhead, n - 1))].key);
    ContextPlace* first = line(contexts[static_cast<size_t>(c)].key);
    ContextPlace* end = first + kLongestProbe * kPlaces;
    ContextPlace* place = std::find_if(first, end, [](const auto& p) { return p.key == 0; });
    if (place == end) return false;
    *place = contexts[static_cast<size_t>(c)];
  }
  return true;
}

}  // namespace polychron::runtime
