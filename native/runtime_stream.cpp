#include "runtime_stream.hpp"

#include <algorithm>
#include <bit>
#include <string>

#include "contract.hpp"
#include "dispatch.hpp"

namespace polychron::runtime {
namespace {

constexpr int64_t kAsked = 64;       // rows that are asked for before any is added, at most
constexpr int64_t kRoom = 256;       // rows that a trail writes before it moves

const float* as_float(const int32_t* p) { return reinterpret_cast<const float*>(p); }
float* as_float(int32_t* p) { return reinterpret_cast<float*>(p); }

int64_t longest_delay(const Lookup& lookup) { return lookup.contribution.empty() ? lookup.hash.max_delay : 0; }

// Numbers that a lookup remembers of each token: bits of rows, or latencies; those of the present one are the last row.
int64_t remembered(const Lookup& lookup, int64_t stride) {
  return lookup.hash.remembers_bits() ? lookup.hash.n_groups * kHashLanes : stride;
}

Trail trail_of(const Lookup& lookup, int64_t stride) { return Trail(longest_delay(lookup), remembered(lookup, stride)); }

int64_t trail_numbers(int64_t n_kept, int64_t stride) { return (2 * n_kept + kRoom) * stride; }

}  // namespace

const Kernels& kernels() {
  [[maybe_unused]] const std::string name = current_kernels();
#if defined(__x86_64__)
  if (name == avx512::kernels.name) return avx512::kernels;
  if (name == avx2::kernels.name) return avx2::kernels;
#endif
  return scalar::kernels;
}

Trail::Trail(int64_t n_kept, int64_t stride)
    : n_kept_(n_kept), stride_(stride), capacity_(2 * n_kept + kRoom), end_(n_kept),
      data_(static_cast<size_t>(capacity_ * stride), 0) {}

void Trail::clear() {
  std::fill(data_.begin(), data_.end(), 0);
  end_ = n_kept_;
}

int32_t* Trail::push() {
  if (end_ >= capacity_) {
    std::copy_n(data_.data() + (end_ - n_kept_) * stride_, n_kept_ * stride_, data_.data());
    end_ = n_kept_;
  }
  return data_.data() + end_++ * stride_;
}

int64_t stream_bytes(const Model& model) {
  int64_t numbers = 0, most_rows = 0;
  const auto add = [&](const Lookup& lookup) {
    numbers += trail_numbers(longest_delay(lookup), remembered(lookup, model.stride()));
    most_rows = std::max(most_rows, lookup.hash.n_groups * kHashLanes);
  };
  add(model.readout());
  for (const Stage& stage : model.stages()) {
    if (stage.lookup) {
      add(*stage.lookup);
      continue;
    }
    const int64_t padded = stage.attention->query.n_groups * kHashLanes;
    numbers += trail_numbers(stage.attention->window, padded) + 2 * padded;
    most_rows = std::max(most_rows, padded * stage.attention->window);
  }
  numbers += most_rows + model.stride() + (2 + kContextLists) * model.logits_stride();
  if (!model.recent().empty()) numbers += 2 * kRecentTables * kRecentPlaces;
  return numbers * static_cast<int64_t>(sizeof(int32_t));
}

Stream::Stream(const Model& model, Counters* counters)
    : model_(model), counters_(counters), set_(counters ? counting_kernels() : runtime::kernels()),
      readout_trail_(trail_of(model.readout(), model.stride())), tokens_(0, 1) {
  int64_t most_rows = model.readout().hash.n_groups * kHashLanes, n_tokens_kept = 0, n_parts = 1;
  const auto follow = [&](const Lookup& lookup) {
    if (lookup.contribution.empty() && !lookup.hash.remembers_bits()) return;
    n_parts = std::max(n_parts, lookup.hash.max_delay + 1);
    if (!lookup.contribution.empty()) n_tokens_kept = std::max(n_tokens_kept, lookup.hash.max_delay);
  };
  follow(model.readout());
  groups_.resize(model.readout().tables.groups.size());
  for (const Stage& stage : model.stages()) {
    if (stage.lookup) {
      follow(*stage.lookup);
      groups_.resize(std::max(groups_.size(), stage.lookup->tables.groups.size()));
      most_rows = std::max(most_rows, stage.lookup->hash.n_groups * kHashLanes);
      states_.push_back({trail_of(*stage.lookup, model.stride()), Trail(0, 1)});
    } else {
      const Attention& attention = *stage.attention;
      const int64_t padded = attention.query.n_groups * kHashLanes;
      most_rows = std::max(most_rows, padded * attention.window);
      query_.resize(std::max<size_t>(query_.size(), static_cast<size_t>(padded)));
      states_.push_back({Trail(0, 1), Trail(attention.window, padded)});
      groups_.resize(std::max(groups_.size(), attention.tables.groups.size()));
    }
  }
  tokens_ = Trail(n_tokens_kept, 1);
  z_.assign(static_cast<size_t>(model.stride()), 0);
  logits_.assign(static_cast<size_t>(model.logits_stride()), 0);
  index_.assign(static_cast<size_t>(most_rows), 0);
  scratch_.assign(static_cast<size_t>(model.logits_stride()), 0);
  if (!model.contexts().empty() && !model.integer()) sums_.assign(static_cast<size_t>(kContextLists * model.logits_stride()), 0);
  parts_.resize(static_cast<size_t>(n_parts));
  if (!model.recent().empty()) recent_places_.resize(static_cast<size_t>(kRecentTables * kRecentPlaces));
  reset();
}

void Stream::reset() {
  for (StageState& state : states_) {
    state.trail.clear();
    state.keys.clear();
    state.n_keys = 0;
  }
  readout_trail_.clear();
  tokens_.clear();
  std::fill(z_.begin(), z_.end(), 0);
  text_ = {};
  std::fill(recent_places_.begin(), recent_places_.end(), 0);
  for (int64_t d = 0; d < static_cast<int64_t>(parts_.size()); ++d) *tokens_.push() = static_cast<int32_t>(model_.n_tokens());
  started_ = false;
}

// Asks for all of a list's rows, if they are few: their kernel need not.
void Stream::ask_for(RowList& list) const {
  if (!list.prefetch || list.n > kAsked) return;
  const int64_t size = model_.integer() ? 1 : model_.precision() == Precision::bfloat16 ? 2 : 4;
  const auto* begin = static_cast<const char*>(list.rows);
  const int64_t stride = list.stride * size;
  for (int64_t at = 0; at < list.width * size; at += static_cast<int64_t>(kLineBytes)) {
    for (int64_t m = 0; m < list.n; ++m) __builtin_prefetch(begin + at + list.index[m] * stride);
  }
  list.prefetch = false;
}

RowList Stream::rows(const Tables& tables, const int32_t* index, int64_t n) const {
  return {tables.rows, tables.stride, index, n, tables.width, tables.prefetch};
}

template <bool integer>
void Stream::add(const RowList& list, const ShiftGroup* groups, int64_t n_groups, const int32_t* start,
                 int32_t* y) {
  if constexpr (integer) {
    set_.add_i8(list, groups, n_groups, start, y);
  } else if (model_.precision() == Precision::bfloat16) {
    set_.add_bf16(list, start ? as_float(start) : nullptr, as_float(y));
  } else {
    set_.add_f32(list, start ? as_float(start) : nullptr, as_float(y));
  }
}

template <bool integer> void Stream::hash(const Hash& hash, const int32_t* x, int32_t* index) {
  if constexpr (integer) {
    set_.hash_i32(hash.plan(), x, index);
  } else {
    set_.hash_f32(hash.plan(), as_float(x), index);
  }
}

// The rows that a layer reads, to index_.
template <bool integer> void Stream::address(const Lookup& lookup, Trail& trail, bool reads_embedding) {
  const int64_t padded = lookup.hash.n_groups * kHashLanes;
  if (reads_embedding && !lookup.contribution.empty()) {
    for (int64_t d = 0; d <= lookup.hash.max_delay; ++d) {
      parts_[static_cast<size_t>(d)] =
          lookup.contribution.data() + (d * (model_.n_tokens() + 1) + *tokens_.row(d)) * padded;
    }
    set_.join_bits(parts_.data(), lookup.hash.max_delay + 1, padded, index_.data());
    return;
  }
  if (lookup.hash.remembers_bits()) {
    hash<integer>(lookup.hash, z_.data(), trail.push());
    for (int64_t d = 0; d <= lookup.hash.max_delay; ++d) parts_[static_cast<size_t>(d)] = trail.row(d);
    set_.join_masked(parts_.data(), lookup.hash.of_delay.data(), lookup.hash.max_delay + 1, lookup.hash.base.data(),
                     padded, index_.data());
    return;
  }
  const int32_t* x = z_.data();
  if (lookup.hash.max_delay > 0) {
    int32_t* row = trail.push();
    std::copy_n(z_.data(), model_.stride(), row);
    x = row;
  }
  hash<integer>(lookup.hash, x, index_.data());
}

template <bool integer> void Stream::attend(const Attention& attention, StageState& state) {
  const int64_t padded = attention.query.n_groups * kHashLanes, I = attention.tables.n_tables;
  hash<integer>(attention.query, z_.data(), query_.data());
  const int64_t n = std::min(state.n_keys, attention.window);
  const auto query_shift = static_cast<int>(attention.n_key + attention.n_code);
  const auto key_shift = static_cast<int>(attention.n_code);
  // Table after table, its keys from the furthest to the nearest: the order of training's sums.
  int32_t* out = index_.data();
  for (int64_t q = 0; q < I; ++q) {
    const int32_t query = query_[static_cast<size_t>(q)] << query_shift;
    for (int64_t d = n; d >= 1; --d) {
      *out++ = attention.code[static_cast<size_t>(d * padded + q)] | query | state.keys.row(d - 1)[q] << key_shift;
    }
  }
  int32_t* key = state.keys.push();
  if (attention.key) {
    hash<integer>(*attention.key, z_.data(), key);
  } else {
    std::copy_n(query_.data(), padded, key);
  }
  ++state.n_keys;
  if (counters_) counters_->join_keys(I * n);
  if (n == 0) return;
  const std::vector<ShiftGroup>& of_tables = attention.tables.groups;
  for (size_t g = 0; g < of_tables.size(); ++g) {
    groups_[g] = {static_cast<int32_t>(of_tables[g].begin * n), static_cast<int32_t>(of_tables[g].end * n),
                  of_tables[g].shift};
  }
  add<integer>(rows(attention.tables, index_.data(), I * n), groups_.data(),
               static_cast<int64_t>(of_tables.size()), z_.data(), z_.data());
}

template <bool integer> void Stream::keep_in_range() {
  if constexpr (integer) {
    for (int32_t& latency : z_) latency = std::clamp(latency, -kLatencyLimit, kLatencyLimit);
  }
}

// logits_ <- logits_ + (the sums of all kinds' rows, kind after kind).
template <bool integer> void Stream::add_contexts() {
  const auto& contexts = model_.contexts();
  const int64_t width = model_.logits_stride();
  if constexpr (integer) {
    // In any order: dense rows come last, for they were asked for last.
    for (size_t k = 0; k < contexts.size(); ++k) contexts[k].add_following(paths_[k], logits_.data());
    add_recent(logits_.data());
    std::array<const int16_t*, kContextLists> narrow{};
    int64_t n_narrow = 0;
    for (size_t k = 0; k < contexts.size(); ++k) {
      const void* dense = contexts[k].dense_row(paths_[k].dense);
      if (contexts[k].narrow()) {
        narrow[static_cast<size_t>(n_narrow++)] = static_cast<const int16_t*>(dense);
      } else {
        for (int64_t v = 0; v < width; ++v) logits_[static_cast<size_t>(v)] += static_cast<const int32_t*>(dense)[v];
      }
    }
    set_.add_narrow(narrow.data(), n_narrow, width, logits_.data());
  } else {
    std::array<const float*, kContextLists> sums{};
    for (size_t k = 0; k < contexts.size(); ++k) {
      sums[k] = static_cast<const float*>(contexts[k].dense_row(paths_[k].dense));
      if (paths_[k].n == 0) continue;
      float* sum = sums_.data() + static_cast<int64_t>(k) * width;
      std::copy_n(sums[k], width, sum);
      contexts[k].add_following(paths_[k], sum);
      sums[k] = sum;
    }
    auto n = static_cast<int64_t>(contexts.size());
    if (!recent_places_.empty()) {  // added to the sum of all kinds, not to the logits: the order of training's additions
      std::fill(scratch_.begin(), scratch_.end(), 0.0f);
      set_.add_sums(sums.data(), n, width, scratch_.data());
      add_recent(scratch_.data());
      sums[0] = scratch_.data();
      n = 1;
    }
    set_.add_sums(sums.data(), n, width, as_float(logits_.data()));
  }
  for (size_t k = 0; counters_ && k < contexts.size(); ++k) counters_->read_contexts(k, contexts[k], paths_[k]);
}

// The token followed the contexts before it; asks for the places of those after it.
void Stream::remember(int64_t token) {
  const bool writes = !recent_places_.empty() && !ends_in_run(text_);
  for (int i = 0; i < kRecentTables && writes; ++i) {
    const uint32_t key = recent_keys_[static_cast<size_t>(i)];
    uint64_t& word = recent_places_[static_cast<size_t>(recent_place(i, key))];
    RecentPlace place = RecentPlace::of(word);
    place.write(key, static_cast<uint8_t>(token));
    word = place.word();
  }
  text_.advance(model_.byte(token));
  for (int list = 0; list < kContextLists; ++list) text_.bytes(static_cast<ContextList>(list), lists_[list]);
  if (recent_places_.empty()) return;
  polychron::recent_keys(lists_, recent_keys_.data());
  for (int i = 0; i < kRecentTables; ++i) {
    __builtin_prefetch(recent_places_.data() + recent_place(i, recent_keys_[static_cast<size_t>(i)]), 1);
  }
}

template <class T> void Stream::add_recent(T* y) const {
  if (recent_places_.empty() || ends_in_run(text_)) return;
  const int32_t* cells = model_.recent().data();
  if (counters_) counters_->read_places();
  const auto add = [&](uint8_t symbol, int cell) {
    y[symbol] += std::bit_cast<T>(cells[cell]);
    if (counters_) counters_->add_cell(cells, cell);
  };
  for (int i = 0; i < kRecentTables; ++i) {
    const uint32_t key = recent_keys_[static_cast<size_t>(i)];
    const RecentPlace place = RecentPlace::of(recent_places_[static_cast<size_t>(recent_place(i, key))]);
    if (!place.is_of(key)) continue;
    add(place.latest, recent_cell(i, 0, place.run));
    if (place.run_before > 0) add(place.before, recent_cell(i, 1, place.run_before));
  }
}

template <bool integer> void Stream::step(int64_t token, bool wants_logits) {
  *tokens_.push() = static_cast<int32_t>(token);
  const auto& contexts = model_.contexts();
  const bool reads_contexts = wants_logits && !contexts.empty();
  // Memory answers late: rows are asked for before they are added, and meanwhile the contexts are looked after.
  const auto follow_text = [&] {
    if (contexts.empty()) return;
    remember(token);
    for (size_t k = 0; reads_contexts && k < contexts.size(); ++k) contexts[k].begin(lists_[k], paths_[k]);
  };
  const auto add_tables = [&](const RowList& list, const Tables& tables, const int32_t* start, int32_t* y) {
    add<integer>(list, tables.groups.data(), static_cast<int64_t>(tables.groups.size()), start, y);
  };
  const bool recurrent = !states_.empty() && model_.stages()[0].lookup && model_.stages()[0].lookup->recurrent;
  if (recurrent) {
    if (counters_) counters_->enter(0);
    hash<integer>(model_.stages()[0].lookup->hash, z_.data(), index_.data());
  }
  std::copy_n(model_.embedding(token), model_.stride(), z_.data());
  for (size_t s = 0; s < states_.size(); ++s) {
    const Stage& stage = model_.stages()[s];
    if (counters_) counters_->enter(s);
    if (stage.lookup) {
      const Tables& tables = stage.lookup->tables;
      if (!recurrent) address<integer>(*stage.lookup, states_[s].trail, s == 0);
      RowList list = rows(tables, index_.data(), tables.n_tables);
      ask_for(list);
      if (s == 0) follow_text();
      add_tables(list, tables, z_.data(), z_.data());
    } else {
      if (s == 0) follow_text();
      attend<integer>(*stage.attention, states_[s]);
    }
    keep_in_range<integer>();
  }
  if (states_.empty()) follow_text();
  const Lookup& readout = model_.readout();
  if (!wants_logits && longest_delay(readout) == 0) return;
  if (counters_) counters_->enter(states_.size());
  address<integer>(readout, readout_trail_, states_.empty());
  if (!wants_logits) return;
  RowList list = rows(readout.tables, index_.data(), readout.tables.n_tables);
  ask_for(list);
  for (size_t k = 0; reads_contexts && k < contexts.size(); ++k) contexts[k].find(paths_[k]);
  add_tables(list, readout.tables, nullptr, logits_.data());
  if (reads_contexts) add_contexts<integer>();
  started_ = true;
}

void Stream::read(int64_t token) { model_.integer() ? step<true>(token, true) : step<false>(token, true); }
void Stream::pass(int64_t token) { model_.integer() ? step<true>(token, false) : step<false>(token, false); }

void Stream::copy_logits(float* out) const {
  for (int64_t k = 0; k < model_.n_tokens(); ++k) {
    out[k] = model_.integer() ? static_cast<float>(units()[k]) * model_.logit_unit() : logits()[k];
  }
}

float Stream::nats(int64_t token) {
  copy_logits(scratch_.data());
  float nats = 0.0f;
  polychron::kernels().softmax_cross_entropy(scratch_.data(), model_.n_tokens(), &token, &nats, 1, model_.n_tokens());
  return nats;
}

}  // namespace polychron::runtime
