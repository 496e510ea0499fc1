#include "lane/kernels/cpu/x86/avx512.h"

#include "lane/kernels/cpu/x86/isas.h"

namespace lane::kernels::cpu {
namespace {

struct BF16 {
  static constexpr int kPairBytes = 64;
  static __m512 even(const char* group, int) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(group), 16));
  }
  static __m512 odd(const char* group, int) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(group), _mm512_set1_epi32(-65536)));
  }
};

}  // namespace

constinit const Isa kAvx512 = {.name = "avx512",
                               .f32 = make_tile_kernels<TileSet<Vector, F32>>(),
                               .bf16 = make_tile_kernels<TileSet<Vector, BF16>>(),
                               .f16 = make_tile_kernels<TileSet<Vector, F16>>()};

}  // namespace lane::kernels::cpu
