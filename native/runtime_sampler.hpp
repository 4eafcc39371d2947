// From logits to the next token: weights of 22 bits, integer sums, a generator of shifts, additions and exclusive ors.
// docs/runtime.md defines it; polychron.runtime.sampling says the same in Python.
//
// Legend: K output.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "runtime_stream.hpp"

namespace polychron::runtime {

// xoshiro128++ (Blackman and Vigna).
class Random {
 public:
  explicit Random(uint64_t seed);
  uint32_t next();
  uint32_t below(uint32_t limit);     // uniform in [0, limit), limit >= 1

 private:
  std::array<uint32_t, 4> state_;
};

// weight[d] = round(2^22 exp(-(d << shift) * unit / temperature)): the weights of an int8 model's tokens, by how many
// units a logit lies below the highest. The last is 0, and so are those behind it.
struct WeightTable {
  std::vector<uint32_t> weight;
  int shift = 0;

  WeightTable(double unit, double temperature);
};

struct SamplerSettings {
  double temperature;                 // 0: always the likeliest
  uint32_t left_out;                  // by top-p, 65,536ths of all weights, below 65536
  uint64_t seed;
};

class Sampler {
 public:
  Sampler(const Model&, const SamplerSettings&);

  // A token of [0, n_tokens - 1): the last, which stands for unseen bytes, is never drawn. -1: the logits are not
  // finite.
  int64_t draw(const Stream&);

  const Model* model() const { return model_; }

 private:
  int64_t draw_weighted();
  int64_t find(uint32_t number) const;
  bool weigh_floats(const float* logits);
  void weigh_units(const int32_t* units);

  const Model* model_;
  const Kernels& set_;
  SamplerSettings settings_;
  bool integer_;
  int64_t n_drawn_, n_padded_;        // tokens that may be drawn
  float coldness_ = 0.0f;             // 1 / temperature
  WeightTable table_;
  Random random_;
  std::vector<uint32_t> weight_, block_sums_;
};

}  // namespace polychron::runtime
