#include "runtime_model.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "memory.hpp"
#include "recent_tables.hpp"

namespace polychron::runtime {
namespace {

constexpr int64_t kCopiedBytes = int64_t{256} << 20;   // tables up to here are copied, for huge pages and padded rows
constexpr int64_t kCacheBytes = int64_t{1} << 20;
constexpr int64_t kContributionBytes = int64_t{4} << 20;
constexpr int64_t kDelaysPerComparison = 8;            // up to here bits are remembered: joining more would take as long
constexpr int64_t kMaxRows = int64_t{1} << 30;
constexpr int64_t kMaxSize = int64_t{1} << 16;         // of a count of neurons, tables, tokens, delays
constexpr int64_t kMaxTokens = 257;                    // every byte, and one token for unseen bytes
constexpr int kMaxShift = 15;
constexpr int64_t kMaxContexts = (int64_t{1} << 31) - 1;

void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

int64_t element_size(Precision precision) {
  return precision == Precision::float32 ? 4 : precision == Precision::bfloat16 ? 2 : 1;
}

}  // namespace

TableMemory::TableMemory(size_t bytes) : memory_(static_cast<char*>(allocate_tables(bytes, 1))), bytes_(bytes) {}
TableMemory::~TableMemory() { free_tables(memory_, bytes_); }

Model::Model(Precision precision, const void* embedding, int64_t n_tokens, int64_t n_neurons, float logit_unit)
    : precision_(precision), n_tokens_(n_tokens), n_neurons_(n_neurons), stride_(round_up(n_neurons, kOutputPad)),
      logit_unit_(logit_unit) {
  require(n_tokens >= 2 && n_tokens <= kMaxTokens, "the embedding must have 2 to 257 tokens");
  require(n_neurons >= 2 && n_neurons <= kMaxSize, "the embedding must have 2 to 65536 neurons");
  require(std::isfinite(logit_unit) && logit_unit > 0, "the unit of the logits must be above 0 and finite");
  embedding_.assign(static_cast<size_t>(n_tokens * stride_), 0);
  for (int64_t token = 0; token < n_tokens; ++token) {
    int32_t* out = embedding_.data() + token * stride_;
    if (integer()) {
      const auto* in = static_cast<const int16_t*>(embedding) + token * n_neurons;
      for (int64_t k = 0; k < n_neurons; ++k) {
        require(in[k] >= -kLatencyLimit, "latencies of int8 models must lie in [-32767, 32767]");
        out[k] = in[k];
      }
    } else {
      std::memcpy(out, static_cast<const float*>(embedding) + token * n_neurons, static_cast<size_t>(n_neurons) * 4);
    }
  }
}

// n_read: rows of one table that a token adds at most.
Tables Model::lay_out(const TablesView& view, int64_t n_rows_expected, bool residual, int64_t n_read) const {
  require(view.n_tables >= 1 && view.n_tables <= kMaxSize, "a layer must have 1 to 65536 tables");
  require(view.n_rows == n_rows_expected, "synaptic_vectors must have " + std::to_string(n_rows_expected) +
                                              " rows, 2 to the number of comparisons; got " +
                                              std::to_string(view.n_rows));
  require(view.n_tables * view.n_rows <= kMaxRows, "a layer must have at most 2^30 rows in all its tables");
  require(view.n_outputs >= 1 && view.n_outputs <= kMaxSize, "synaptic_vectors must have 1 to 65536 outputs");
  if (residual) {
    require(view.n_outputs == n_neurons_, "synaptic_vectors must have as many outputs as there are neurons, " +
                                              std::to_string(n_neurons_) + "; got " + std::to_string(view.n_outputs));
  }
  require(integer() == (view.shifts != nullptr), "int8 tables, and no others, must come with shifts");

  Tables tables;
  tables.n_tables = view.n_tables;
  tables.n_rows = view.n_rows;
  tables.n_outputs = view.n_outputs;
  tables.width = round_up(view.n_outputs, integer() ? 2 * kRowPad : kRowPad);
  const int64_t size = element_size(precision_);
  const int64_t n_rows = view.n_tables * view.n_rows;
  const int64_t bytes = n_rows * tables.width * size;
  tables.prefetch = bytes > kCacheBytes;
  if (tables.width == view.n_outputs && bytes > kCopiedBytes) {
    tables.rows = view.rows;
    tables.stride = view.n_outputs;
  } else {
    tables.memory = std::make_shared<TableMemory>(static_cast<size_t>(bytes));
    tables.rows = tables.memory->get();
    tables.stride = tables.width;
    const char* in = static_cast<const char*>(view.rows);
    for (int64_t j = 0; j < n_rows; ++j) {
      std::memcpy(tables.memory->get() + j * tables.stride * size, in + j * view.n_outputs * size,
                  static_cast<size_t>(view.n_outputs * size));
    }
  }

  tables.order.resize(static_cast<size_t>(view.n_tables));
  std::iota(tables.order.begin(), tables.order.end(), 0);
  if (view.shifts) {
    const int highest = *std::max_element(view.shifts, view.shifts + view.n_tables);
    require(highest <= kMaxShift, "shifts must lie in [0, 15]; got " + std::to_string(highest));
    // All sums of 32 bits are exact: latencies of 16 bits and every row that a token can read.
    require(view.n_tables * n_read * (int64_t{128} << highest) < (int64_t{1} << 31) - (int64_t{1} << 16),
            "shifts are too large for the number of tables: sums could leave 32 bits");
    std::stable_sort(tables.order.begin(), tables.order.end(),
                     [&](int32_t p, int32_t q) { return view.shifts[p] < view.shifts[q]; });
    for (int32_t q = 0; q < view.n_tables; ++q) {
      const int32_t shift = view.shifts[tables.order[static_cast<size_t>(q)]];
      if (tables.groups.empty() || tables.groups.back().shift != shift) tables.groups.push_back({q, q, shift});
      tables.groups.back().end = q + 1;
    }
  }
  return tables;
}

Hash Model::plan_hash(const AnchorsView& view, const Tables& tables) const {
  require(view.n_comparisons >= 1 && view.n_comparisons <= 30, "a table must have 1 to 30 comparisons");
  const int64_t I = tables.n_tables, R = view.n_comparisons;
  for (int64_t e = 0; e < I * R * 2; ++e) {
    require(view.anchors[e] >= 0 && view.anchors[e] < n_neurons_,
            "anchors must lie in [0, " + std::to_string(n_neurons_) + "); got " + std::to_string(view.anchors[e]));
    if (!view.delays) continue;
    require(view.delays[e] >= 0 && view.delays[e] < kMaxSize,
            "delays must lie in [0, 65536); got " + std::to_string(view.delays[e]));
  }
  Hash hash;
  hash.n_comparisons = R;
  hash.n_groups = round_up(I, kHashLanes) / kHashLanes;
  const auto n_places = static_cast<size_t>(hash.n_groups * R * kHashLanes);
  hash.a.assign(n_places, 0);
  hash.b.assign(n_places, 0);
  hash.first.assign(static_cast<size_t>(hash.n_groups * kHashLanes), 0);
  bool shared = true;
  for (int64_t e = 0; view.delays && e < I * R * 2; ++e) {
    hash.max_delay = std::max<int64_t>(hash.max_delay, view.delays[e]);
    shared = shared && view.delays[e] == view.delays[e & ~int64_t{1}];
  }
  const int64_t padded = hash.n_groups * kHashLanes;
  if (shared && hash.max_delay < kDelaysPerComparison * R) {
    hash.of_delay.assign(static_cast<size_t>((hash.max_delay + 1) * padded), 0);
  }
  hash.near = true;
  for (int64_t q = 0; q < I; ++q) {
    const int64_t i = tables.order[static_cast<size_t>(q)];
    hash.first[static_cast<size_t>(q)] = static_cast<int32_t>(i * tables.n_rows);
    for (int64_t r = 0; r < R; ++r) {
      const int32_t* pair = view.anchors + (i * R + r) * 2;
      const int32_t* delay = view.delays ? view.delays + (i * R + r) * 2 : nullptr;
      const auto place = static_cast<size_t>((q / kHashLanes * R + r) * kHashLanes + q % kHashLanes);
      const bool present = !delay || hash.remembers_bits();
      hash.a[place] = static_cast<int32_t>(pair[0] - (present ? 0 : delay[0] * stride_));
      hash.b[place] = static_cast<int32_t>(pair[1] - (present ? 0 : delay[1] * stride_));
      for (const int32_t at : {hash.a[place], hash.b[place]}) hash.near = hash.near && at >= 0 && at < 32;
      if (hash.of_delay.empty()) continue;
      hash.of_delay[static_cast<size_t>((delay ? delay[0] : 0) * padded + q)] |= int32_t{1} << r;
    }
  }
  require((hash.max_delay + 1) * stride_ < (int64_t{1} << 31), "delays are too long for so many neurons");
  hash.base = hash.first;
  if (hash.remembers_bits()) std::fill(hash.first.begin(), hash.first.end(), 0);
  return hash;
}

template <class T> void Model::precompute_as(Lookup& lookup) const {
  const Hash& hash = lookup.hash;
  const int64_t I = hash.n_groups * kHashLanes, R = hash.n_comparisons, D = hash.max_delay;
  const auto at = [&](int64_t d, int64_t token, int64_t q) {
    return static_cast<size_t>((d * (n_tokens_ + 1) + token) * I + q);
  };
  lookup.contribution.assign(static_cast<size_t>((D + 1) * (n_tokens_ + 1) * I), 0);
  for (int64_t token = 0; token <= n_tokens_; ++token) {
    for (int64_t q = 0; q < I; ++q) {
      lookup.contribution[at(0, token, q)] = hash.base[static_cast<size_t>(q)];
      if (token == n_tokens_) continue;  // before the text every latency is 0 and every comparison a tie
      int32_t bits = 0;
      for (int64_t r = 0; r < R; ++r) {
        const auto place = static_cast<size_t>((q / kHashLanes * R + r) * kHashLanes + q % kHashLanes);
        const auto latency = [&](int32_t neuron) { return std::bit_cast<T>(embedding(token)[neuron]); };
        if (latency(hash.a[place]) > latency(hash.b[place])) bits |= int32_t{1} << r;
      }
      for (int64_t d = 0; d <= D; ++d) {
        lookup.contribution[at(d, token, q)] |= bits & hash.of_delay[static_cast<size_t>(d * I + q)];
      }
    }
  }
}

void Model::precompute(Lookup& lookup) const {
  const Hash& hash = lookup.hash;
  const int64_t numbers = (hash.max_delay + 1) * (n_tokens_ + 1) * hash.n_groups * kHashLanes;
  if (numbers * 4 > kContributionBytes || hash.of_delay.empty()) return;
  integer() ? precompute_as<int32_t>(lookup) : precompute_as<float>(lookup);
}

void Model::add_lookup(const TablesView& view, const AnchorsView& anchors) {
  require(anchors.n_comparisons >= 1 && anchors.n_comparisons <= 30, "a table must have 1 to 30 comparisons");
  Lookup lookup;
  lookup.tables = lay_out(view, int64_t{1} << anchors.n_comparisons, true, 1);
  lookup.hash = plan_hash(anchors, lookup.tables);
  if (stages_.empty()) precompute(lookup);
  push({std::move(lookup), std::nullopt});
}

void Model::add_recurrent(const TablesView& view, const AnchorsView& anchors) {
  require(anchors.n_comparisons >= 1 && anchors.n_comparisons <= 30, "a table must have 1 to 30 comparisons");
  require(stages_.empty(), "a recurrent layer stands alone before the readout");
  Lookup lookup;
  lookup.tables = lay_out(view, int64_t{1} << anchors.n_comparisons, true, 1);
  lookup.hash = plan_hash(anchors, lookup.tables);
  require(lookup.hash.max_delay == 0, "a recurrent layer has no delays");
  lookup.recurrent = true;
  push({std::move(lookup), std::nullopt});
}

void Model::push(Stage stage) {
  require(stages_.empty() || !stages_[0].lookup || !stages_[0].lookup->recurrent,
          "a recurrent layer stands alone before the readout");
  stages_.push_back(std::move(stage));
}

void Model::add_attention(const TablesView& view, const AnchorsView& query, const AnchorsView* key,
                          const CodeView& code) {
  const int64_t n_key = key ? key->n_comparisons : query.n_comparisons;
  const int64_t n_bits = query.n_comparisons + n_key + code.n_code;
  require(query.n_comparisons >= 1 && n_key >= 1 && code.n_code >= 0 && n_bits <= 30,
          "an index of attention must have at most 30 bits");
  require(code.n_distances >= 2 && code.n_distances <= kMaxSize, "position_code must have 2 to 65536 distances");
  Attention attention;
  attention.n_key = n_key;
  attention.n_code = code.n_code;
  attention.window = code.n_distances - 1;
  attention.tables = lay_out(view, int64_t{1} << n_bits, true, attention.window);
  attention.query = plan_hash(query, attention.tables);
  if (key) attention.key = plan_hash(*key, attention.tables);
  require(attention.query.max_delay == 0 && (!key || attention.key->max_delay == 0), "attention has no delays");
  // A hash of attention is bits alone; the table's first row is added when the three parts are joined.
  const std::vector<int32_t> first = attention.query.first;
  std::fill(attention.query.first.begin(), attention.query.first.end(), 0);
  if (attention.key) std::fill(attention.key->first.begin(), attention.key->first.end(), 0);
  const int64_t padded = attention.query.n_groups * kHashLanes;
  attention.code.assign(static_cast<size_t>(code.n_distances * padded), 0);
  for (int64_t d = 0; d < code.n_distances; ++d) {
    for (int64_t q = 0; q < view.n_tables; ++q) {
      const int64_t i = attention.tables.order[static_cast<size_t>(q)];
      int32_t bits = first[static_cast<size_t>(q)];
      for (int64_t r = 0; r < code.n_code; ++r) {
        bits |= static_cast<int32_t>(code.code[(i * code.n_distances + d) * code.n_code + r] > 0.0f) << r;
      }
      attention.code[static_cast<size_t>(d * padded + q)] = bits;
    }
  }
  push({std::nullopt, std::move(attention)});
}

void Model::set_readout(const TablesView& view, const AnchorsView& anchors) {
  require(!readout_, "a model has one readout");
  require(anchors.n_comparisons >= 1 && anchors.n_comparisons <= 30, "a table must have 1 to 30 comparisons");
  Lookup lookup;
  lookup.tables = lay_out(view, int64_t{1} << anchors.n_comparisons, false, 1);
  require(view.n_outputs == n_tokens_, "the readout must have as many outputs as there are tokens, " +
                                           std::to_string(n_tokens_) + "; got " + std::to_string(view.n_outputs));
  lookup.hash = plan_hash(anchors, lookup.tables);
  if (stages_.empty()) precompute(lookup);
  logits_stride_ = round_up(view.n_outputs, kOutputPad);
  readout_ = std::move(lookup);
}

void Model::set_bytes(const uint8_t* byte) {
  require(readout_.has_value(), "contexts add to the logits of a readout");
  require(byte_.empty(), "a model has one set of contexts");
  require(n_tokens_ <= kMaxContextSymbols, "counted contexts know at most 256 tokens");
  byte_.assign(byte, byte + n_tokens_);
}

void Model::add_contexts(const ContextsView& view, int64_t most_copied) {
  require(!byte_.empty() && contexts_.size() < kContextLists, "a model has three kinds of contexts, of bytes");
  const auto list = static_cast<int>(contexts_.size());
  require(view.depth >= 1 && view.depth <= kMaxContext, "contexts must have depth 1 to 7");
  require(view.n_contexts >= 1 && view.n_contexts < kMaxContexts && view.n_entries < kMaxContexts,
          "there must be 1 to 2^31 - 2 contexts");
  if (integer()) {
    const int64_t rows = readout_->tables.n_tables * (int64_t{128} << readout_->tables.groups.back().shift);
    require(rows + (kContextLists * (kMaxContext + 1) + 2 * kRecentTables) * (int64_t{1} << 15) < int64_t{1} << 31,
            "shifts are too large for a readout beside contexts: sums could leave 32 bits");
  }
  // Numbers below 0 become such as flaw_of refuses.
  contexts_.emplace_back(ContextTrie{n_tokens_, std::min(view.depth, kListLength[list]), view.n_contexts, view.symbol,
                                     reinterpret_cast<const uint32_t*>(view.first_child),
                                     reinterpret_cast<const uint32_t*>(view.first_entry), view.entry_symbol},
                         view.value, view.n_entries, integer(), logits_stride_, most_copied);
}

void Model::set_recent(const void* cells) {
  require(contexts_.size() == kContextLists, "recent tables go with contexts of all kinds");
  recent_.resize(kRecentCells);
  if (integer()) {
    std::copy_n(static_cast<const int16_t*>(cells), kRecentCells, recent_.begin());
  } else {
    std::memcpy(recent_.data(), cells, kRecentCells * sizeof(float));
  }
}

}  // namespace polychron::runtime
