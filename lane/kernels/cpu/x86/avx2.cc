#include <immintrin.h>

#include "lane/kernels/cpu/tile.h"
#include "lane/kernels/cpu/x86/isas.h"

namespace lane::kernels::cpu {
namespace {

// An addition takes 4 cycles and two start in each, so at least 8 must be in flight; 16 registers hold 12 sums, the
// weights of one group, an input and a mask.
struct Vector {
  using Register = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kNumRegisters = 16;
  static constexpr int kMaxRows = 6;
  static constexpr int wide_groups(int rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }

  static Register zero() { return _mm256_setzero_ps(); }
  static Register load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Register value) { _mm256_storeu_ps(p, value); }
  static Register broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static Register multiply_add(Register a, Register b, Register c) { return _mm256_fmadd_ps(a, b, c); }
  static Register kept(Register sum) {
    asm volatile("" : "+x"(sum));
    return sum;
  }
};

struct F32 {
  static constexpr int kPairBytes = 128;
  static __m256 even(const char* group, int v) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(group) + 8 * v);
  }
  static __m256 odd(const char* group, int v) { return even(group + 64, v); }
};

struct BF16 {
  static constexpr int kPairBytes = 64;
  static __m256i words(const char* group, int v) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group) + v);
  }
  static __m256 even(const char* group, int v) { return _mm256_castsi256_ps(_mm256_slli_epi32(words(group, v), 16)); }
  static __m256 odd(const char* group, int v) {
    return _mm256_castsi256_ps(_mm256_and_si256(words(group, v), _mm256_set1_epi32(-65536)));
  }
};

struct F16 {
  static constexpr int kPairBytes = 64;
  static __m256 even(const char* group, int v) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(group) + v));
  }
  static __m256 odd(const char* group, int v) { return even(group + 32, v); }
};

}  // namespace

constinit const Isa kAvx2 = {.name = "avx2",
                             .f32 = make_tile_kernels<TileSet<Vector, F32>>(),
                             .bf16 = make_tile_kernels<TileSet<Vector, BF16>>(),
                             .f16 = make_tile_kernels<TileSet<Vector, F16>>()};

}  // namespace lane::kernels::cpu
