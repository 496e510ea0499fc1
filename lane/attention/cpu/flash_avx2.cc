// Compiled for AVX2, FMA and F16C: 16 registers of eight floats.
#include "lane/attention/cpu/flash_loops.h"
#include "lane/attention/cpu/flash_x86.h"

namespace {

struct Avx2 : Packing<Avx2> {
  using F = float __attribute__((vector_size(32)));
  using I = int32_t __attribute__((vector_size(32)));
  static constexpr int kRows = 3;  // 12 accumulators, 3 broadcasts and what is being multiplied
  static constexpr int kCols[] = {0, 8, 4, 4, 2};

  template <DType kType>
  [[gnu::always_inline]] static inline F widen(const void* row, int i) {
    return widen8<kType>(row, i);
  }
  [[gnu::always_inline]] static inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
};

}  // namespace

namespace lane::flash {
extern const Loops kAvx2Loops;
const Loops kAvx2Loops{"avx2", TileLoops<Avx2>::attend, narrow8};
}  // namespace lane::flash
