// A model laid out for one token at a time: who owns what, where a latency stands, which rows are copied.
//
// Built from arrays that stay where they are (a mapped file). Tables whose rows are wide enough for the kernels may be
// read in place; others, and small ones, are copied to padded rows on huge pages. Everything that could make a kernel
// read outside an array is checked here, once.
//
// Legend: V token, I table, R comparison, J row, K output, n neuron, D delay or distance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "runtime_contexts.hpp"
#include "runtime_kernels.hpp"
#include "runtime_memory.hpp"

namespace polychron::runtime {

enum class Precision { float32, bfloat16, int8 };

inline constexpr int32_t kLatencyLimit = 32767;  // of int8 models' latencies, either way

// Arrays of a layer as a file has them; shapes are the caller's word, contents are checked.
struct TablesView {
  const void* rows;         // (I, J, K) of the model's precision
  int64_t n_tables, n_rows, n_outputs;
  const uint8_t* shifts;    // (I): int8 rows count 2^shift units; null otherwise
};

struct AnchorsView {
  const int32_t* anchors;   // (I, R, 2)
  const int32_t* delays;    // (I, R, 2) or null
  int64_t n_comparisons;
};

struct ContextsView {
  const uint8_t* symbol;
  const int32_t *first_child, *first_entry;
  const uint8_t* entry_symbol;
  const void* value;        // (E) float32, or int16 of an int8 model
  int64_t n_contexts, n_entries;
  int depth;
};

struct CodeView {           // of the relative position
  const float* code;        // (I, D, n_code), compared with 0
  int64_t n_distances, n_code;
};

// Where both neurons of every pair have one delay, what they compare to d tokens from now is known now: bits are
// remembered rather than latencies, and a row's are the present one's of the pairs without delay, those of a token ago
// of the pairs with delay 1, ...
struct Hash {
  std::vector<int32_t> a, b, first;
  int64_t n_groups = 0, n_comparisons = 0;
  int64_t max_delay = 0;
  bool near = false;
  std::vector<int32_t> of_delay;  // (D + 1, padded I) the bits of pairs with that delay; empty: latencies are remembered
  std::vector<int32_t> base;      // (padded I) the tables' first rows; `first` is 0 where bits are remembered

  bool remembers_bits() const { return max_delay > 0 && !of_delay.empty(); }
  HashPlan plan() const { return {a.data(), b.data(), first.data(), n_groups, n_comparisons, near}; }
};

struct Tables {
  std::shared_ptr<TableMemory> memory;  // null: read in place
  const void* rows = nullptr;
  int64_t stride = 0;                   // elements from row to row
  int64_t n_tables = 0, n_rows = 0, n_outputs = 0, width = 0;
  bool prefetch = false;
  std::vector<int32_t> order;           // int8: tables in ascending order of their shift; place q is table order[q]
  std::vector<ShiftGroup> groups;       // int8: places of equal shift
};

// z <- z + rows. Where a layer reads the embedding and both neurons of every pair have one delay, what a token
// contributes to the rows is known beforehand: rows of now = OR over d of contribution[d][token of d ago].
struct Lookup {
  Tables tables;
  Hash hash;
  std::vector<int32_t> contribution;    // (D + 1, V + 1, padded I), or empty; token V: none yet
  bool recurrent = false;               // z <- embedding + rows of the z of the token before; the only stage then
};

struct Attention {
  Tables tables;
  Hash query;
  std::optional<Hash> key;              // none: the query's
  int64_t n_key = 0, n_code = 0, window = 0;
  std::vector<int32_t> code;            // (D, padded I): bits of the relative position
};

struct Stage {
  std::optional<Lookup> lookup;
  std::optional<Attention> attention;
};

class Model {
 public:
  // embedding (V, n): float32, or int16 latencies of an int8 model. logit_unit: an int8 model's logits count it.
  Model(Precision, const void* embedding, int64_t n_tokens, int64_t n_neurons, float logit_unit);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // Throw std::invalid_argument when something does not fit.
  void add_lookup(const TablesView&, const AnchorsView&);
  void add_attention(const TablesView&, const AnchorsView& query, const AnchorsView* key, const CodeView&);
  void add_recurrent(const TablesView&, const AnchorsView&);
  void set_readout(const TablesView&, const AnchorsView&);
  // After the readout, to whose logits contexts add, kind after kind. byte: (V) of each token.
  void set_bytes(const uint8_t* byte);
  // Copied where that takes at most so many bytes, else read in place.
  void add_contexts(const ContextsView&, int64_t most_copied);
  // After the contexts. cells: (kRecentCells) float32, or int16 of an int8 model.
  void set_recent(const void* cells);

  Precision precision() const { return precision_; }
  bool integer() const { return precision_ == Precision::int8; }
  int64_t n_tokens() const { return n_tokens_; }
  int64_t n_neurons() const { return n_neurons_; }
  int64_t stride() const { return stride_; }      // of a latency vector in memory
  int64_t logits_stride() const { return logits_stride_; }
  float logit_unit() const { return logit_unit_; }
  const int32_t* embedding(int64_t token) const { return embedding_.data() + token * stride_; }  // float32 bits or int32
  const std::vector<Stage>& stages() const { return stages_; }
  const Lookup& readout() const { return *readout_; }
  const std::vector<Contexts>& contexts() const { return contexts_; }  // of each kind, or none
  // (kRecentCells) float32 bits or int32, of the tables that a stream writes, or empty.
  const std::vector<int32_t>& recent() const { return recent_; }
  uint8_t byte(int64_t token) const { return byte_[static_cast<size_t>(token)]; }
  bool ready() const { return readout_.has_value(); }

 private:
  Tables lay_out(const TablesView&, int64_t n_rows_expected, bool residual, int64_t n_read) const;
  Hash plan_hash(const AnchorsView&, const Tables&) const;
  void push(Stage);
  void precompute(Lookup&) const;
  template <class T> void precompute_as(Lookup&) const;

  Precision precision_;
  int64_t n_tokens_, n_neurons_, stride_;
  int64_t logits_stride_ = 0;
  float logit_unit_;
  std::vector<int32_t> embedding_;
  std::vector<Stage> stages_;
  std::optional<Lookup> readout_;
  std::vector<Contexts> contexts_;
  std::vector<uint8_t> byte_;  // of each token, where there are contexts
  std::vector<int32_t> recent_;
};

}  // namespace polychron::runtime
