#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>
#include <vector>

#include "lane/base/random.h"

// The loops of the sampler over one rank's slice of a row of logits.
namespace lane {

inline constexpr int64_t kLogitBlock = 64;  // logits whose maximum is kept: the largest ones are found among few blocks

struct Candidate {
  int32_t token;
  float logit;  // after penalties
  float raw;    // as the model gave it
};
// The order in which candidates are taken.
inline bool comes_before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// The largest of a block's n <= kLogitBlock logits; NaN if one of them is NaN or +inf.
float block_maximum(const float* logits, int64_t n);

// Sum of exp((logit - max) * scale) over n logits, in double.
double sum_exp(const float* logits, int64_t n, double max, double scale);

// Fills `out` with the first `capacity` logits of at least `least` in the order of candidates, -inf never; true if
// there are no others. `maxima` are those of the blocks; the first logit has the id first_token.
bool select_first(std::span<const float> logits, std::span<const float> maxima, int32_t first_token, int64_t capacity,
                  float least, std::vector<Candidate>& out);

// Gumbel noise of each token at one position of one request: -log(-log u).
struct Noise {
  uint64_t key = 0, position = 0;

  uint64_t counter(int32_t token) const { return (position << 32) | static_cast<uint32_t>(token); }
  double operator()(int32_t token) const {
    const double u = std::min(random_uniform(key, counter(token)), 1 - 0x1p-53);
    return -std::log(-std::log(u));
  }
  // A bound from above that needs no logarithm: -log u >= 1 - u >= 2^e, so the noise is at most -e log 2.
  double at_most(int32_t token) const {
    const uint64_t from_one = (uint64_t{1} << 53) - 1 - (random_bits(key, counter(token)) >> 11);
    const auto bits = std::bit_cast<uint64_t>(static_cast<double>(static_cast<int64_t>(from_one)) + 0.5);
    return static_cast<double>(1023 + 53 - static_cast<int64_t>(bits >> 52)) * std::numbers::ln2;
  }
};

// A token with its z + noise.
struct Draw {
  double value = -std::numeric_limits<double>::infinity();
  int32_t token = -1;
  float logit = 0;
};
inline bool beats(const Draw& a, const Draw& b) {
  return a.value != b.value ? a.value > b.value : a.token < b.token && a.token >= 0;
}

// The best draw of n logits, whose first has the id first_token, or `best` if none beats it. The logarithms of the
// noise are taken only for the few tokens that can win.
Draw best_draw(const float* logits, int64_t n, int32_t first_token, double scale, const Noise& noise, Draw best);

}  // namespace lane
