// Rows of random logits with random parameters.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "lane/base/random.h"
#include "lane/runtime/sampler.h"

namespace lane {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A stream of numbers for the cases of these tests.
class Random {
 public:
  explicit Random(uint64_t key) : key_(key) {}
  double uniform() { return random_uniform(key_, counter_++); }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  int64_t below(int64_t end) { return static_cast<int64_t>(uniform() * static_cast<double>(end)); }
  bool chance(double share) { return uniform() < share; }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    return radius * std::cos(2 * M_PI * uniform());
  }

 private:
  uint64_t key_, counter_ = 0;
};

// One row with what belongs to it.
struct Case {
  std::vector<float> logits;  // [vocab]
  SamplingParams params;
  std::vector<int32_t> tokens, banned;
  int64_t num_prompt = 0;
  SamplingRow row() const { return {&params, tokens, num_prompt, banned}; }
};

inline Case random_case(Random& random, int64_t vocab_size) {
  Case c;
  const double spread = random.chance(0.3) ? 0.1 : random.uniform(0.5, 6);
  const bool coarse = random.chance(0.3);  // many equal logits
  for (int64_t i = 0; i < vocab_size; ++i) {
    double x = random.normal() * spread;
    if (coarse) x = std::round(x * 2) / 2;
    c.logits.push_back(static_cast<float>(x));
  }
  if (random.chance(0.2))  // impossible tokens, never all
    for (int64_t i = 0; i < vocab_size; ++i)
      if (i != vocab_size / 2 && random.chance(0.5)) c.logits[static_cast<size_t>(i)] = -kInfinity;
  const int64_t num_tokens = 1 + random.below(40);
  for (int64_t i = 0; i < num_tokens; ++i) c.tokens.push_back(static_cast<int32_t>(random.below(vocab_size)));
  c.num_prompt = 1 + random.below(num_tokens);

  SamplingParams& p = c.params;
  p.seed = static_cast<uint64_t>(random.below(1 << 30));
  p.temperature = random.chance(0.2) ? 0 : random.uniform(0.05, 3);
  if (random.chance(0.4)) p.top_k = 1 + random.below(random.chance(0.3) ? 2 * vocab_size : 20);
  if (random.chance(0.4)) p.top_p = random.chance(0.3) ? random.uniform(0.9, 1) : random.uniform();
  if (random.chance(0.3)) p.min_p = random.uniform(0, random.chance(0.5) ? 0.1 : 1);
  if (random.chance(0.3)) p.repetition_penalty = random.uniform(0.5, 2);
  if (random.chance(0.3)) p.presence_penalty = random.uniform(-2, 2);
  if (random.chance(0.3)) p.frequency_penalty = random.uniform(-2, 2);
  if (random.chance(0.2))
    for (int i = 0; i < 3; ++i) {
      const auto token = static_cast<int32_t>(random.below(vocab_size));
      if (token != vocab_size / 2) c.banned.push_back(token);
    }
  return c;
}

}  // namespace lane
