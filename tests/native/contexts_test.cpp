// Counted contexts without Python: counting, reading on several threads, and tries that were damaged.
//
// A damaged trie is refused by flaw_of, or read inside its arrays, which a sanitizer watches.
#include <cmath>
#include <cstdio>
#include <vector>

#include "context_tables.hpp"
#include "data.hpp"
#include "threads.hpp"

namespace {

using namespace polychron;
using namespace polychron::testing;

struct Rows {
  std::vector<uint8_t> symbol, entry_symbol;
  std::vector<uint32_t> first_child, first_entry;
  std::vector<float> value;
  int depth;

  ContextTrie trie(int64_t n_symbols) const {
    return {n_symbols, depth, static_cast<int64_t>(symbol.size()), symbol.data(), first_child.data(), first_entry.data(),
            entry_symbol.data()};
  }
};

Rows counted(const std::vector<uint8_t>& text, const std::vector<uint8_t>& byte, ContextList list, int depth) {
  const auto n = static_cast<int64_t>(text.size()), n_symbols = static_cast<int64_t>(byte.size());
  const ContextCounts counts(text.data(), {{0, n / 2}, {n / 2 + 1, n}}, byte.data(), n_symbols, list, depth);
  const ContextTrie trie = counts.trie();
  const int64_t C = trie.n_contexts, E = static_cast<int64_t>(counts.values().size());
  return {{trie.symbol, trie.symbol + C}, {trie.entry_symbol, trie.entry_symbol + E},
          {trie.first_child, trie.first_child + C + 1}, {trie.first_entry, trie.first_entry + C + 1},
          counts.values(), trie.depth};
}

// Logits after every position of a text.
std::vector<float> read(const Rows& rows, const std::vector<uint8_t>& text, const std::vector<uint8_t>& byte,
                        ContextList list, int n_threads) {
  constexpr int64_t kPositions = 50;  // of a task
  const auto n_symbols = static_cast<int64_t>(byte.size());
  const auto n = static_cast<int64_t>(text.size());
  std::vector<uint8_t> bytes(static_cast<size_t>(n) * kMaxContext);
  ContextState state;
  for (int64_t t = 0; t < n; ++t) {
    state.advance(byte[text[static_cast<size_t>(t)]]);
    state.bytes(list, bytes.data() + t * kMaxContext);
  }
  std::vector<float> y(static_cast<size_t>(n * n_symbols));
  const ContextTrie trie = rows.trie(n_symbols);
  const ContextValues values(trie, rows.value.data());
  parallel_for(n_threads, n / kPositions, [&](int64_t task, int) {
    const int64_t t = task * kPositions;
    add_context_rows(trie, values, bytes.data() + t * kMaxContext, kPositions, y.data() + t * n_symbols);
  });
  return y;
}

int failed(const char* what) {
  std::printf("%s\n", what);
  return 1;
}

}  // namespace

int main() {
  Random draw(1);
  const std::vector<uint8_t> byte{10, 97, 98, 32, 200, 99};
  const auto n_symbols = static_cast<int64_t>(byte.size());
  std::vector<uint8_t> text(3000);
  for (uint8_t& symbol : text) symbol = static_cast<uint8_t>(draw.below(n_symbols));
  int n_refused = 0;
  for (int k = 0; k < kContextLists * (kMaxContext + 1); ++k) {
    const auto list = static_cast<ContextList>(k % kContextLists);
    const Rows rows = counted(text, byte, list, k / kContextLists);
    const auto n_entries = static_cast<int64_t>(rows.value.size());
    if (flaw_of(rows.trie(n_symbols), n_entries)) return failed("what was counted is refused");
    const std::vector<float> y = read(rows, text, byte, list, 1);
    for (const float number : y) {
      if (!std::isfinite(number)) return failed("a logit is not finite");
    }
    if (read(rows, text, byte, list, 3) != y) return failed("threads change the logits");
    for (int tried = 0; tried < 100; ++tried) {
      Rows damaged = rows;
      const auto flip = [&](auto& part) {
        auto& number = part[static_cast<size_t>(draw.below(static_cast<int64_t>(part.size())))];
        number ^= static_cast<std::decay_t<decltype(number)>>(1u << draw.below(8 * static_cast<int64_t>(sizeof number)));
      };
      switch (draw.below(4)) {
        case 0: flip(damaged.symbol); break;
        case 1: flip(damaged.entry_symbol); break;
        case 2: flip(damaged.first_child); break;
        default: flip(damaged.first_entry);
      }
      if (flaw_of(damaged.trie(n_symbols), n_entries)) {
        ++n_refused;
      } else {
        read(damaged, text, byte, list, 1);
      }
    }
  }
  std::printf("contexts of three kinds and 8 depths, %d of 2400 damaged tries refused\n", n_refused);
  return n_refused > 400 ? 0 : failed("too few damaged tries are refused");
}
