#include "lane/kernels/cpu/elementwise.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace lane::kernels::cpu {
namespace {

// 16 partial sums over blocks of 256, blocks in double: at most 20 roundings on the way of any term, so the sum is
// good to about 1e-7 however long the row.
double sum_of_squares(const float* x, int64_t count) {
  constexpr int kLanes = 16;
  constexpr int64_t kBlock = 256;
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t size = std::min(kBlock, count - begin);
    const float* const block = x + begin;
    float sum[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes)
      for (int lane = 0; lane < kLanes; ++lane) sum[lane] += block[i + lane] * block[i + lane];
    for (int lane = 0; i + lane < size; ++lane) sum[lane] += block[i + lane] * block[i + lane];
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int lane = 0; lane < half; ++lane) sum[lane] += sum[lane + half];
    total += sum[0];
  }
  return total;
}

// exp(x) within 2 ulp for |x| <= 87; beyond, x is taken as +-87 (1e-38, 6e37), which silu cannot tell from the truth.
// x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, so that r is nearly exact; then exp(r) by its Taylor
// polynomial of degree 7, whose remainder is below 2^-27.
inline float fast_exp(float x) {
  constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits of the sum
  x = std::min(std::max(x, -87.0f), 87.0f);
  const float shifted = x * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = r * r * p + r + 1.0f;
  return p * std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u);  // times 2^n
}

}  // namespace

void rms_norm_row(const float* x, const float* gain, float eps, int64_t d, float* out) {
  const double mean_square = sum_of_squares(x, d) / static_cast<double>(d);
  const float scale = static_cast<float>(1.0 / std::sqrt(mean_square + eps));
  for (int64_t i = 0; i < d; ++i) out[i] = x[i] * scale * gain[i];
}

void rope_table_row(int32_t position, const float* inv_freq, int64_t f, float scale, float* row) {
  for (int64_t j = 0; j < f; ++j) {
    const float angle = static_cast<float>(position) * inv_freq[j];  // in float32, as Hugging Face does
    row[j] = std::cos(angle) * scale;
    row[f + j] = std::sin(angle) * scale;
  }
}

void rope_head(float* __restrict head, const float* __restrict cos_sin, int64_t f) {
  for (int64_t j = 0; j < f; ++j) {
    const float low = head[j], high = head[f + j], c = cos_sin[j], s = cos_sin[f + j];
    head[j] = low * c - high * s;
    head[f + j] = high * c + low * s;
  }
}

void silu_mul_row(const float* __restrict gate, const float* __restrict up, int64_t count, float* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = gate[i] / (1.0f + fast_exp(-gate[i])) * up[i];
}

void add_row(float* __restrict inout, const float* __restrict x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) inout[i] += x[i];
}

}  // namespace lane::kernels::cpu
