// Compiled for AVX-512 F, VL, BW and DQ: 32 registers of sixteen floats.
#include "lane/attention/cpu/flash_loops.h"
#include "lane/attention/cpu/flash_x86.h"

namespace {

struct Avx512 : Packing<Avx512> {
  using F = float __attribute__((vector_size(64)));
  using I = int32_t __attribute__((vector_size(64)));
  static constexpr int kRows = 4;
  static constexpr int kCols[] = {0, 4, 4, 4, 4};

  template <DType kType>
  [[gnu::always_inline]] static inline F widen(const void* row, int i) {
    if constexpr (kType == DType::kF32) {
      return _mm512_loadu_ps(static_cast<const float*>(row) + i);
    } else {
      const __m256i halves =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(row) + i));
      if constexpr (kType == DType::kF16) return _mm512_cvtph_ps(halves);
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    }
  }
  [[gnu::always_inline]] static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
};

}  // namespace

namespace lane::flash {
extern const Loops kAvx512Loops;
const Loops kAvx512Loops{"avx512", TileLoops<Avx512>::attend, narrow8};
}  // namespace lane::flash
