#include "lane/kernels/cpu/x86/avx512.h"
#include "lane/kernels/cpu/x86/isas.h"

// bfloat16 weights through vdpbf16ps, two inputs per instruction. Inputs are rounded to bfloat16 first (each product
// is then off by up to 2^-8 of itself, which a model in bfloat16 expects), and the instruction rounds to nearest even
// and flushes subnormals whatever the thread's mode is. Pairs are added in order into one accumulator: results depend
// neither on the batch nor on the threads, but their bits differ from those of the other instruction sets.
namespace lane::kernels::cpu {
namespace {

// Rounds to nearest, ties to even; NaN stays NaN. (vcvtneps2bf16 would flush subnormal inputs.)
uint32_t to_bf16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return (bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded;
}

void stage(const float* x, int64_t x_stride, int64_t num_rows, int64_t k, float* out, int64_t out_stride) {
  for (int64_t r = 0; r < num_rows; ++r) {
    const float* in = x + r * x_stride;
    float* row = out + r * out_stride;
    const auto put = [&](int64_t pair, uint32_t word) { __builtin_memcpy(row + pair, &word, sizeof word); };
    for (int64_t pair = 0; pair < k / 2; ++pair) put(pair, to_bf16(in[2 * pair]) | to_bf16(in[2 * pair + 1]) << 16);
    if (k % 2 != 0) put(k / 2, to_bf16(in[k - 1]));
  }
}

template <int kRows, int kGroups>
void dot_tile(const Tile& t) {
  __m512 sum[kRows][kGroups];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (int g = 0; g < kGroups; ++g)
      sum[r][g] = t.init ? _mm512_loadu_ps(t.init + r * t.init_stride + g * kGroup) : _mm512_setzero_ps();

  const float* x = t.x;
  const char* w = t.w;
  const int64_t x_stride = t.x_stride, group_bytes = t.w_group_bytes;
  for (int64_t pair = (t.k + 1) / 2; pair > 0; --pair, ++x, w += 64) {
    __m512bh weight[kGroups];
#pragma GCC unroll 16
    for (int g = 0; g < kGroups; ++g) weight[g] = (__m512bh)_mm512_loadu_si512(w + g * group_bytes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      int32_t word;
      __builtin_memcpy(&word, x + r * x_stride, sizeof word);
      const __m512bh value = (__m512bh)_mm512_set1_epi32(word);
#pragma GCC unroll 16
      for (int g = 0; g < kGroups; ++g) sum[r][g] = Vector::kept(_mm512_dpbf16_ps(sum[r][g], value, weight[g]));
    }
  }

#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (int g = 0; g < kGroups; ++g) _mm512_storeu_ps(t.out + r * t.out_stride + g * kGroup, sum[r][g]);
}

struct DotSet {
  static constexpr int kMaxRows = Vector::kMaxRows;
  static constexpr StageKernel kStage = &stage;
  static constexpr int wide_groups(int rows) { return Vector::wide_groups(rows); }
  template <int kRows, int kGroups>
  static constexpr TileKernel kernel() {
    return &dot_tile<kRows, kGroups>;
  }
};

}  // namespace

constinit const Isa kAvx512Bf16 = {.name = "avx512_bf16",
                                   .f32 = make_tile_kernels<TileSet<Vector, F32>>(),
                                   .bf16 = make_tile_kernels<DotSet>(),
                                   .f16 = make_tile_kernels<TileSet<Vector, F16>>()};

}  // namespace lane::kernels::cpu
