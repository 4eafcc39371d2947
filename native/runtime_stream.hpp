// A position in a text: what a model must remember, and the cost of one more token.
//
// Legend: V token, I table, K output, n neuron, D delay.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "recent_tables.hpp"
#include "runtime_counters.hpp"
#include "runtime_model.hpp"

namespace polychron::runtime {

// The last rows of numbers of something that moves on by one row a token, always in one piece: when the room is used
// up, what is still needed moves to the front. Rows before the first are 0.
class Trail {
 public:
  Trail(int64_t n_kept, int64_t stride);
  void clear();
  int32_t* push();                    // the next row's place, to be written; n_kept rows stand before it
  const int32_t* row(int64_t ago) const { return data_.data() + (end_ - 1 - ago) * stride_; }

 private:
  int64_t n_kept_, stride_, capacity_, end_;
  std::vector<int32_t> data_;
};

// Memory that a stream of a model takes, known before it is taken: a small file can name a window or delay of 65,535.
int64_t stream_bytes(const Model& model);

class Stream {
 public:
  // counters: of this model, to count what is done; null to do it only.
  explicit Stream(const Model& model, Counters* counters = nullptr);

  void reset();
  void read(int64_t token);           // logits are those of the token after it; token < n_tokens
  void pass(int64_t token);           // the same, but nobody will ask for its logits
  bool started() const { return started_; }

  // After read: of a float model in float32, of an int8 model in the model's unit.
  const float* logits() const { return reinterpret_cast<const float*>(logits_.data()); }
  const int32_t* units() const { return logits_.data(); }
  // -log softmax(logits)[token] in float32.
  float nats(int64_t token);
  // The logits in float32, whatever the model's precision.
  void copy_logits(float* out) const;

 private:
  struct StageState {
    Trail trail;                      // of a lookup with delays: latencies, or the bits of rows
    Trail keys;                       // of attention: a position's bits, one number a table
    int64_t n_keys = 0;
  };

  template <bool integer> void step(int64_t token, bool wants_logits);
  template <bool integer> void add(const RowList&, const ShiftGroup*, int64_t n_groups, const int32_t* start,
                                   int32_t* y);
  template <bool integer> void address(const Lookup&, Trail&, bool reads_embedding);
  template <bool integer> void hash(const Hash&, const int32_t* x, int32_t* index);
  template <bool integer> void attend(const Attention&, StageState&);
  template <bool integer> void keep_in_range();
  template <bool integer> void add_contexts();
  void remember(int64_t token);
  template <class T> void add_recent(T* y) const;
  void ask_for(RowList&) const;
  RowList rows(const Tables&, const int32_t* index, int64_t n) const;

  const Model& model_;
  Counters* counters_;
  const Kernels set_;
  std::vector<StageState> states_;
  Trail readout_trail_;
  Trail tokens_;                      // of lookups whose rows follow from the last tokens
  std::vector<int32_t> z_, logits_, index_, query_, key_;
  std::vector<float> scratch_, sums_;
  ContextState text_;                 // of contexts
  uint8_t lists_[kContextLists][kMaxContext] = {};     // its bytes of all kinds, 0 behind a list's end
  std::array<Path, kContextLists> paths_;
  std::array<uint32_t, kRecentTables> recent_keys_{};  // of the contexts that the text ends with
  std::vector<uint64_t> recent_places_;                // empty where the model has no recent tables
  std::vector<const int32_t*> parts_;
  std::vector<ShiftGroup> groups_;
  bool started_ = false;
};

}  // namespace polychron::runtime
