#include "lane/runtime/logit_scan.h"

#include <cstring>
#include <functional>

namespace lane {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Vectors that every 64-bit machine has; compilers do not find them by themselves in loops like those below.
using Floats = float __attribute__((vector_size(16)));
using Masks = int32_t __attribute__((vector_size(16)));
using FloatPair = float __attribute__((vector_size(8)));
using Doubles = double __attribute__((vector_size(16)));
using Words = uint64_t __attribute__((vector_size(16)));

template <class Vector>
Vector load(const float* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

// exp(x) for x <= 0, to about 1e-15: exp(x) = 2^n exp(r) with |r| <= log(2) / 2 and the Taylor series of exp(r). Below
// -700, where only 1e-304 is left, it stays at that.
inline Doubles exp_below_zero(Doubles x) {
  constexpr double kRound = 0x1.8p52;  // adding it leaves the integer part in the low bits
  x = x < -700.0 ? Doubles{-700, -700} : x;
  const Doubles shifted = x * std::numbers::log2e + kRound, n = shifted - kRound;
  const Doubles r = (x - n * 0x1.62e42fefap-1) - n * 0x1.cf79abc9e3b39p-40;
  Doubles p = r * (1.0 / 479001600) + 1.0 / 39916800;
  for (const double inverse_factorial : {1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                                         1.0 / 24, 1.0 / 6, 1.0 / 2, 1.0, 1.0})
    p = p * r + inverse_factorial;
  return std::bit_cast<Doubles>(std::bit_cast<Words>(p) + (std::bit_cast<Words>(shifted) << 52));
}

}  // namespace

float block_maximum(const float* logits, int64_t n) {
  float padded[kLogitBlock];
  if (n < kLogitBlock) {
    std::fill(std::copy(logits, logits + n, padded), padded + kLogitBlock, -kInfinity);
    logits = padded;
  }
  Floats most[4];
  Masks fine[4];
  for (int j = 0; j < 4; ++j) {
    most[j] = load<Floats>(logits + 4 * j);
    fine[j] = most[j] < kInfinity;
  }
  for (int64_t i = 16; i < kLogitBlock; i += 16)
    for (int j = 0; j < 4; ++j) {
      const Floats x = load<Floats>(logits + i + 4 * j);
      most[j] = x > most[j] ? x : most[j];
      fine[j] &= x < kInfinity;
    }
  const Masks all_fine = (fine[0] & fine[1]) & (fine[2] & fine[3]);
  float all = -kInfinity;
  for (int j = 0; j < 4; ++j) {
    if (!all_fine[j]) return std::numeric_limits<float>::quiet_NaN();
    for (int lane = 0; lane < 4; ++lane) all = std::max(all, most[j][lane]);
  }
  return all;
}

double sum_exp(const float* logits, int64_t n, double max, double scale) {
  constexpr int64_t kStep = 8;
  Doubles sum[kStep / 2] = {};
  const auto add = [&](const float* from) {
    for (int64_t j = 0; j < kStep / 2; ++j)
      sum[j] += exp_below_zero((__builtin_convertvector(load<FloatPair>(from + 2 * j), Doubles) - max) * scale);
  };
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) add(logits + i);
  if (i < n) {
    float padded[kStep];
    std::fill(std::copy(logits + i, logits + n, padded), padded + kStep, -kInfinity);
    add(padded);
  }
  const Doubles all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  return all[0] + all[1];
}

// The capacity-th largest of the block maxima bounds the result from below, so few blocks are looked into.
bool select_first(std::span<const float> logits, std::span<const float> maxima, int32_t first_token, int64_t capacity,
                  float least, std::vector<Candidate>& out) {
  bool exhausted = true;
  if (capacity < static_cast<int64_t>(maxima.size())) {
    std::vector<float> sorted(maxima.begin(), maxima.end());
    std::nth_element(sorted.begin(), sorted.begin() + capacity - 1, sorted.end(), std::greater<>());
    const float bound = sorted[static_cast<size_t>(capacity - 1)];
    if (bound > least) least = bound, exhausted = false;
  }
  out.clear();
  for (size_t block = 0; block < maxima.size(); ++block) {
    if (maxima[block] < least || maxima[block] == -kInfinity) continue;
    const size_t begin = block * kLogitBlock, end = std::min(begin + kLogitBlock, logits.size());
    for (size_t i = begin; i < end; ++i)
      if (logits[i] >= least && logits[i] > -kInfinity)
        out.push_back({first_token + static_cast<int32_t>(i), logits[i], logits[i]});
  }
  if (static_cast<int64_t>(out.size()) > capacity) {
    std::nth_element(out.begin(), out.begin() + capacity, out.end(), comes_before);
    out.resize(static_cast<size_t>(capacity));
    exhausted = false;
  }
  std::sort(out.begin(), out.end(), comes_before);
  return exhausted;
}

Draw best_draw(const float* logits, int64_t n, int32_t first_token, double scale, const Noise& noise, Draw best) {
  for (int64_t i = 0; i < n; ++i) {
    const int32_t token = first_token + static_cast<int32_t>(i);
    const double z = static_cast<double>(logits[i]) * scale;
    if (z + noise.at_most(token) < best.value - 1e-9) continue;
    const Draw draw{z + noise(token), token, logits[i]};
    if (beats(draw, best)) best = draw;
  }
  return best;
}

}  // namespace lane
