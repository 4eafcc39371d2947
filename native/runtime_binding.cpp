// The border of the runtime: shapes and types are declared and checked here, contents in runtime_model.cpp.
//
// Legend: V token, I table, R comparison, J row, K output, n neuron, D distance.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "recent_tables.hpp"
#include "runtime_sampler.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace polychron;
using namespace polychron::runtime;

namespace {

template <class T, int N> using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <int N> using InAny = nb::ndarray<nb::ro, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class A> using Maybe = std::optional<A>;

constexpr int64_t kBytesBetweenSignals = 1 << 16;  // how long Ctrl-C may wait
constexpr int kMaxThreads = 1024;

void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}

template <class A> int64_t size(const A& array, size_t axis) { return static_cast<int64_t>(array.shape(axis)); }

Precision precision_of(const std::string& name) {
  if (name == "float32") return Precision::float32;
  if (name == "bfloat16") return Precision::bfloat16;
  if (name == "int8") return Precision::int8;
  throw std::invalid_argument("precision must be float32, bfloat16 or int8; got " + name);
}

template <class A> bool holds(const A& array, nb::dlpack::dtype_code code, int bits) {
  return array.dtype().code == static_cast<uint8_t>(code) && array.dtype().bits == bits && array.dtype().lanes == 1;
}

// A model and the arrays that it reads in place.
class BoundModel {
 public:
  BoundModel(const std::string& precision, InAny<2> embedding, float logit_unit)
      : model_(precision_of(precision), checked_embedding(embedding, precision_of(precision)), size(embedding, 0),
               size(embedding, 1), logit_unit) {}

  void add_lookup(InAny<3> rows, In<int32_t, 3> anchors, Maybe<In<int32_t, 3>> delays,
                  Maybe<In<uint8_t, 1>> shifts) {
    model_.add_lookup(tables(rows, shifts), pairs(anchors, delays, rows));
    keep(rows);
  }

  void add_recurrent(InAny<3> rows, In<int32_t, 3> anchors, Maybe<In<uint8_t, 1>> shifts) {
    model_.add_recurrent(tables(rows, shifts), pairs(anchors, std::nullopt, rows));
    keep(rows);
  }

  void set_readout(InAny<3> rows, In<int32_t, 3> anchors, Maybe<In<int32_t, 3>> delays,
                   Maybe<In<uint8_t, 1>> shifts) {
    model_.set_readout(tables(rows, shifts), pairs(anchors, delays, rows));
    keep(rows);
  }

  void add_attention(InAny<3> rows, In<int32_t, 3> anchors, Maybe<In<int32_t, 3>> key_anchors,
                     Maybe<In<float, 3>> position_code, int64_t n_distances, Maybe<In<uint8_t, 1>> shifts) {
    require(!position_code || (size(*position_code, 0) == size(rows, 0) && size(*position_code, 1) == n_distances),
            "position_code must have a code for each table and distance");
    const AnchorsView query = pairs(anchors, std::nullopt, rows);
    AnchorsView key{};
    if (key_anchors) key = pairs(*key_anchors, std::nullopt, rows);
    model_.add_attention(tables(rows, shifts), query, key_anchors ? &key : nullptr,
                         {position_code ? position_code->data() : nullptr, n_distances,
                          position_code ? size(*position_code, 2) : 0});
    keep(rows);
  }

  void set_bytes(In<uint8_t, 1> byte) {
    require(size(byte, 0) == model_.n_tokens(), "contexts.byte must have a number for each token");
    model_.set_bytes(byte.data());
  }

  void add_contexts(In<uint8_t, 1> symbol, In<int32_t, 1> first_child, In<int32_t, 1> first_entry,
                    In<uint8_t, 1> entry_symbol, InAny<1> value, int depth, int64_t most_copied) {
    using enum nb::dlpack::dtype_code;
    require(size(first_child, 0) == size(symbol, 0) + 1 && size(first_entry, 0) == size(symbol, 0) + 1,
            "contexts' first_child and first_entry must have a number more than there are contexts");
    require(size(value, 0) == size(entry_symbol, 0), "contexts' value must have a number for each entry");
    require(model_.integer() ? holds(value, Int, 16) : holds(value, Float, 32),
            "contexts' value must be float32, or int16 of an int8 model");
    model_.add_contexts({symbol.data(), first_child.data(), first_entry.data(), entry_symbol.data(), value.data(),
                         size(symbol, 0), size(value, 0), depth}, most_copied);
    kept_contexts_.emplace_back(symbol, first_child, first_entry, entry_symbol, value);
  }

  void set_recent(InAny<3> cells) {
    using enum nb::dlpack::dtype_code;
    require(size(cells, 0) == kRecentTables && size(cells, 1) == 2 && size(cells, 2) == kRunClasses,
            "contexts.recent must have shape (5, 2, 8)");
    require(model_.integer() ? holds(cells, Int, 16) : holds(cells, Float, 32),
            "contexts.recent must be float32, or int16 of an int8 model");
    model_.set_recent(cells.data());
  }

  int64_t stream_bytes() const { return polychron::runtime::stream_bytes(get()); }

  const Model& get() const {
    require(model_.ready(), "the model has no readout yet");
    return model_;
  }

 private:
  static const void* checked_embedding(const InAny<2>& embedding, Precision precision) {
    const bool fits = precision == Precision::int8 ? holds(embedding, nb::dlpack::dtype_code::Int, 16)
                                                   : holds(embedding, nb::dlpack::dtype_code::Float, 32);
    require(fits, "the embedding must be float32, or int16 for an int8 model");
    return embedding.data();
  }

  TablesView tables(const InAny<3>& rows, const Maybe<In<uint8_t, 1>>& shifts) const {
    using enum nb::dlpack::dtype_code;
    const Precision precision = model_.precision();
    const bool fits = precision == Precision::float32    ? holds(rows, Float, 32)
                      : precision == Precision::bfloat16 ? holds(rows, UInt, 16)
                                                         : holds(rows, Int, 8);
    require(fits, "synaptic_vectors must have the model's precision");
    require(!shifts || size(*shifts, 0) == size(rows, 0), "shifts must be one for each table");
    return {rows.data(), size(rows, 0), size(rows, 1), size(rows, 2), shifts ? shifts->data() : nullptr};
  }

  static AnchorsView pairs(const In<int32_t, 3>& anchors, const Maybe<In<int32_t, 3>>& delays, const InAny<3>& rows) {
    require(size(anchors, 0) == size(rows, 0) && size(anchors, 2) == 2,
            "anchors must be pairs for each table of synaptic_vectors");
    require(!delays || (size(*delays, 0) == size(anchors, 0) && size(*delays, 1) == size(anchors, 1) &&
                        size(*delays, 2) == 2),
            "delays must have the shape of anchors");
    return {anchors.data(), delays ? delays->data() : nullptr, size(anchors, 1)};
  }

  void keep(const InAny<3>& rows) { kept_.push_back(rows); }

  Model model_;
  std::vector<InAny<3>> kept_;
  std::vector<std::tuple<In<uint8_t, 1>, In<int32_t, 1>, In<int32_t, 1>, In<uint8_t, 1>, InAny<1>>> kept_contexts_;
};

// One call at a time. While it waits for another, Python's lock is free: that one may need it to end.
std::unique_lock<std::mutex> alone(std::mutex& mutex) {
  std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
  if (!lock.owns_lock()) {
    nb::gil_scoped_release release;
    lock.lock();
  }
  return lock;
}

struct BoundSampler {
  BoundSampler(const BoundModel& model, double temperature, uint32_t left_out, uint64_t seed)
      : sampler(model.get(), checked(temperature, left_out, seed)) {}

  Sampler sampler;
  std::mutex mutex;  // taken after a stream's

 private:
  static SamplerSettings checked(double temperature, uint32_t left_out, uint64_t seed) {
    require(temperature >= 0.0 && left_out < 65536, "temperature or left_out is out of range");
    return {temperature, left_out, seed};
  }
};

class BoundStream {
 public:
  BoundStream(const BoundModel& model, bool counting)
      : model_(model.get()), counters_(counting ? std::make_unique<Counters>(model_) : nullptr),
        stream_(model_, counters_.get()) {}

  // Throws unless the sampler was made for this stream's model and there are logits to draw from.
  void check(const BoundSampler& by) const {
    require_same_model(by);
    const auto lock = alone(mutex_);
    require_started();
  }

  int64_t draw(BoundSampler& by) {
    require_same_model(by);
    const auto lock = alone(mutex_), its_lock = alone(by.mutex);
    require_started();
    return by.sampler.draw(stream_);
  }

  // Draws and reads n tokens, for a caller without Python's lock. False: the logits are not finite.
  bool write(BoundSampler& by, int64_t n, uint8_t* out) {
    const std::lock_guard<std::mutex> lock(mutex_), its_lock(by.mutex);
    require_started();
    for (int64_t t = 0; t < n; ++t) {
      const int64_t token = by.sampler.draw(stream_);
      if (token < 0) return false;
      out[t] = static_cast<uint8_t>(token);
      stream_.read(token);
    }
    return true;
  }

  void reset() {
    const auto lock = alone(mutex_);
    stream_.reset();
  }

  void read(const nb::bytes& ids) {
    const auto [data, n] = checked(ids);
    if (n == 0) return;
    const auto lock = alone(mutex_);
    nb::gil_scoped_release release;
    for (int64_t t = 0; t < n - 1; ++t) stream_.pass(data[t]);
    stream_.read(data[n - 1]);
  }

  // Nats of each of the ids that has one before it, summed in float64; written to `nats` where given.
  double score(const nb::bytes& ids, Maybe<nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>> nats) {
    const auto [data, n] = checked(ids);
    require(!nats || size(*nats, 0) == n, "nats must have a place for every id");
    float* out = nats ? nats->data() : nullptr;
    double sum = 0.0;
    const auto lock = alone(mutex_);
    nb::gil_scoped_release release;
    for (int64_t t = 0; t < n; ++t) {
      const float cost = stream_.started() ? stream_.nats(data[t]) : 0.0f;
      if (out) out[t] = cost;
      sum += static_cast<double>(cost);
      stream_.read(data[t]);
    }
    return sum;
  }

  void logits(nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu> out) const {
    const auto lock = alone(mutex_);
    require_started();
    require(size(out, 0) == model_.n_tokens(), "logits must have a place for every token");
    stream_.copy_logits(out.data());
  }

  void forget_counts() {
    require(counters_ != nullptr, "this stream does not count");
    const auto lock = alone(mutex_);
    counters_->forget();
  }

  // A dictionary a layer, then the readout's and, where there are contexts, one for each kind.
  nb::list counts() const {
    require(counters_ != nullptr, "this stream does not count");
    const auto lock = alone(mutex_);
    nb::list stages;
    for (const Counts& counts : counters_->stages()) {
      nb::dict of_stage;
      of_stage["comparisons"] = counts.comparisons;
      of_stage["filler"] = counts.filler;
      of_stage["latency_bytes"] = counts.latency_bytes;
      of_stage["joined"] = counts.joined;
      of_stage["keys"] = counts.keys;
      of_stage["rows"] = counts.rows;
      of_stage["additions"] = counts.additions;
      of_stage["row_bytes"] = counts.row_bytes;
      of_stage["row_lines"] = counts.row_lines;
      of_stage["distinct_rows"] = counts.distinct_rows;
      of_stage["place_bytes"] = counts.place_bytes;
      stages.append(of_stage);
    }
    return stages;
  }

  // An int8 model's logits in the model's unit, before they become float32.
  void units(nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> out) const {
    const auto lock = alone(mutex_);
    require_started();
    require(model_.integer(), "a float model has no integer logits");
    require(size(out, 0) == model_.n_tokens(), "units must have a place for every token");
    std::copy_n(stream_.units(), model_.n_tokens(), out.data());
  }

 private:
  void require_started() const { require(stream_.started(), "nothing has been read yet"); }
  void require_same_model(const BoundSampler& by) const {
    require(by.sampler.model() == &model_, "the sampler is another model's");
  }

  std::pair<const uint8_t*, int64_t> checked(const nb::bytes& ids) const {
    const auto* data = static_cast<const uint8_t*>(ids.data());
    const auto n = static_cast<int64_t>(ids.size());
    const int64_t n_tokens = model_.n_tokens();
    for (int64_t t = 0; t < n; ++t) {
      if (data[t] >= n_tokens) throw std::invalid_argument("ids must lie below " + std::to_string(n_tokens));
    }
    return {data, n};
  }

  const Model& model_;
  std::unique_ptr<Counters> counters_;
  Stream stream_;
  mutable std::mutex mutex_;  // of the stream and its counters
};

nb::object generate(const std::vector<BoundStream*>& streams, const std::vector<BoundSampler*>& samplers, int64_t n,
                    int n_threads) {
  require(streams.size() == samplers.size(), "there must be one sampler for every stream");
  require(n >= 0 && n <= (int64_t{1} << 40), "n must lie in [0, 2^40]");
  require(n_threads >= 1, "n_threads must be at least 1");
  for (size_t s = 0; s < streams.size(); ++s) {
    streams[s]->check(*samplers[s]);
    for (size_t other = 0; other < s; ++other) {
      require(streams[s] != streams[other] && samplers[s] != samplers[other], "streams and samplers must differ");
    }
  }
  std::vector<std::vector<uint8_t>> ids(streams.size(), std::vector<uint8_t>(static_cast<size_t>(n)));
  std::vector<char> finite(streams.size(), 1);
  for (int64_t done = 0; done < n; done += kBytesBetweenSignals) {
    {
      nb::gil_scoped_release release;
      const int64_t piece = std::min(kBytesBetweenSignals, n - done);
      parallel_for(std::min(n_threads, kMaxThreads), static_cast<int64_t>(streams.size()), [&](int64_t s, int) {
        const auto at = static_cast<size_t>(s);
        finite[at] = streams[at]->write(*samplers[at], piece, ids[at].data() + done);
      });
    }
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    for (const char ok : finite) {
      if (!ok) return nb::none();
    }
  }
  nb::list texts;
  for (const auto& text : ids) texts.append(nb::bytes(text.data(), text.size()));
  return texts;
}

}  // namespace

void bind_runtime(nb::module_& m) {
  nb::class_<BoundModel>(m, "RuntimeModel")
      .def(nb::init<const std::string&, InAny<2>, float>(), nb::arg("precision"), nb::arg("embedding").noconvert(),
           nb::arg("logit_unit"))
      .def("add_lookup", &BoundModel::add_lookup, nb::arg("rows").noconvert(), nb::arg("anchors").noconvert(),
           nb::arg("delays").noconvert().none(), nb::arg("shifts").noconvert().none())
      .def("add_recurrent", &BoundModel::add_recurrent, nb::arg("rows").noconvert(), nb::arg("anchors").noconvert(),
           nb::arg("shifts").noconvert().none())
      .def("add_attention", &BoundModel::add_attention, nb::arg("rows").noconvert(), nb::arg("anchors").noconvert(),
           nb::arg("key_anchors").noconvert().none(), nb::arg("position_code").noconvert().none(),
           nb::arg("n_distances"), nb::arg("shifts").noconvert().none())
      .def("set_readout", &BoundModel::set_readout, nb::arg("rows").noconvert(), nb::arg("anchors").noconvert(),
           nb::arg("delays").noconvert().none(), nb::arg("shifts").noconvert().none())
      .def("set_bytes", &BoundModel::set_bytes, nb::arg("byte").noconvert())
      .def("add_contexts", &BoundModel::add_contexts, nb::arg("symbol").noconvert(),
           nb::arg("first_child").noconvert(), nb::arg("first_entry").noconvert(), nb::arg("entry_symbol").noconvert(),
           nb::arg("value").noconvert(), nb::arg("depth"), nb::arg("most_copied"))
      .def("set_recent", &BoundModel::set_recent, nb::arg("cells").noconvert())
      .def_prop_ro("stream_bytes", &BoundModel::stream_bytes);
  nb::class_<BoundStream>(m, "RuntimeStream")
      .def(nb::init<const BoundModel&, bool>(), nb::arg("model"), nb::arg("counting") = false, nb::keep_alive<1, 2>())
      .def("reset", &BoundStream::reset)
      .def("read", &BoundStream::read, nb::arg("ids"))
      .def("score", &BoundStream::score, nb::arg("ids"), nb::arg("nats").noconvert().none() = nb::none())
      .def("logits", &BoundStream::logits, nb::arg("out").noconvert())
      .def("units", &BoundStream::units, nb::arg("out").noconvert())
      .def("forget_counts", &BoundStream::forget_counts)
      .def("counts", &BoundStream::counts);
  nb::class_<BoundSampler>(m, "RuntimeSampler")
      .def(nb::init<const BoundModel&, double, uint32_t, uint64_t>(), nb::arg("model"), nb::arg("temperature"),
           nb::arg("left_out"), nb::arg("seed"), nb::keep_alive<1, 2>())
      .def("draw", [](BoundSampler& self, BoundStream& stream) { return stream.draw(self); }, nb::arg("stream"));
  m.def("runtime_generate", &generate, nb::arg("streams"), nb::arg("samplers"), nb::arg("n"), nb::arg("n_threads"));
  m.def("runtime_weight_table", [](double unit, double temperature) {
    const WeightTable table(unit, temperature);
    return nb::make_tuple(std::vector<uint32_t>(table.weight.begin(), table.weight.end() - 1), table.shift);
  }, nb::arg("unit"), nb::arg("temperature"));
}
