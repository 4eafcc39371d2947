#include "runtime_sampler.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace polychron::runtime {
namespace {

constexpr double kOne = 4194304.0;           // 2^22: the weight of the likeliest token
constexpr size_t kTableSize = 8192;
constexpr double kColdest = 1e-30;           // its reciprocal is a float
constexpr int64_t kBlock = 16;

}  // namespace

// The constants are digits of pi and of the golden ratio; sixteen numbers are thrown away, so that seeds that differ in
// one bit have parted.
Random::Random(uint64_t seed)
    : state_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), 0x9E3779B9u, 0x243F6A88u} {
  for (int n = 0; n < 16; ++n) next();
}

uint32_t Random::next() {
  auto& s = state_;
  const uint32_t result = std::rotl(s[0] + s[3], 7) + s[0];
  const uint32_t shifted = s[1] << 9;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= shifted;
  s[3] = std::rotl(s[3], 11);
  return result;
}

uint32_t Random::below(uint32_t limit) {
  const uint32_t mask = limit > 1 ? ~uint32_t{0} >> std::countl_zero(limit - 1) : 0;
  uint32_t number;
  do {
    number = next() & mask;
  } while (number >= limit);
  return number;
}

WeightTable::WeightTable(double unit, double temperature) {
  const double scale = unit / std::max(temperature, kColdest);
  // A weight below 1/2 is 0; hot weights that fall too slowly for the table share its entries.
  const double n_units = std::log(2.0 * kOne) / scale;
  while (n_units > static_cast<double>(kTableSize << shift) && shift < 31) ++shift;
  for (size_t d = 0; d < kTableSize; ++d) {
    const double exact = kOne * std::exp(-static_cast<double>(static_cast<uint64_t>(d) << shift) * scale);
    const auto rounded = static_cast<uint32_t>(std::nearbyint(exact));
    if (rounded == 0) break;
    weight.push_back(rounded);
  }
  weight.push_back(0);
}

Sampler::Sampler(const Model& model, const SamplerSettings& settings)
    : model_(&model), set_(runtime::kernels()), settings_(settings), integer_(model.integer()), n_drawn_(model.n_tokens() - 1),
      n_padded_((n_drawn_ + kBlock - 1) / kBlock * kBlock), table_(model.logit_unit(), settings.temperature),
      random_(settings.seed), weight_(static_cast<size_t>(n_padded_), 0),
      block_sums_(static_cast<size_t>(n_padded_ / kBlock), 0) {
  coldness_ = static_cast<float>(1.0 / std::max(settings.temperature, kColdest));
}

bool Sampler::weigh_floats(const float* logits) {
  const float highest = set_.highest_f32(logits, n_drawn_);
  if (!std::isfinite(highest)) return false;
  set_.weigh(logits, n_padded_, highest, coldness_, weight_.data());
  return true;
}

void Sampler::weigh_units(const int32_t* units) {
  set_.weigh_units(units, n_padded_, set_.highest_i32(units, n_drawn_), table_.weight.data(),
                   static_cast<uint32_t>(table_.weight.size()), table_.shift, weight_.data());
}

// The first token whose cumulative weight exceeds a number below the sum of all. Where that is, is chance: no branch.
int64_t Sampler::find(uint32_t number) const {
  uint32_t before = 0, cumulative = 0;
  int64_t block = 0;
  for (const uint32_t sum : block_sums_) {
    cumulative += sum;
    before = cumulative <= number ? cumulative : before;
    block += cumulative <= number ? 1 : 0;
  }
  const uint32_t* weight = weight_.data() + block * kBlock;
  int64_t token = block * kBlock;
  for (int64_t k = 0; k < kBlock; ++k) {
    before += weight[k];
    token += before <= number ? 1 : 0;
  }
  return token;
}

int64_t Sampler::draw_weighted() {
  std::fill(weight_.begin() + n_drawn_, weight_.end(), 0);
  const uint32_t total = set_.sum_blocks(weight_.data(), n_padded_, block_sums_.data());
  const auto left_out = static_cast<uint32_t>(uint64_t{total} * settings_.left_out >> 16);
  for (;;) {
    const int64_t token = find(random_.below(total));
    if (settings_.left_out == 0 || total - set_.sum_before(weight_.data(), n_padded_, token) > left_out) return token;
  }
}

int64_t Sampler::draw(const Stream& stream) {
  if (integer_) {
    if (settings_.temperature == 0.0) {
      return std::max_element(stream.units(), stream.units() + n_drawn_) - stream.units();
    }
    weigh_units(stream.units());
  } else {
    if (!weigh_floats(stream.logits())) return -1;
    if (settings_.temperature == 0.0) {
      return std::max_element(stream.logits(), stream.logits() + n_drawn_) - stream.logits();
    }
  }
  return draw_weighted();
}

}  // namespace polychron::runtime
