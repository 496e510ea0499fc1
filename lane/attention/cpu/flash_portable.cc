// For any processor: vectors of four, which compilers turn into what the target has.
#include "lane/attention/cpu/batch.h"
#include "lane/attention/cpu/flash_loops.h"

namespace {

struct Portable {
  using F = float __attribute__((vector_size(16)));
  using I = int32_t __attribute__((vector_size(16)));
  static constexpr int kRows = 3;
  static constexpr int kCols[] = {0, 8, 4, 4, 2};

  [[gnu::always_inline]] static inline F fma(F a, F b, F c) { return a * b + c; }

  static float widen(const void* row, int i, lane::DType dtype) {
    if (dtype == lane::DType::kF32) return static_cast<const float*>(row)[i];
    const uint16_t half = static_cast<const uint16_t*>(row)[i];
    return dtype == lane::DType::kBF16 ? lane::float_from_bf16(half) : lane::float_from_f16(half);
  }
  static void pack_keys(const Tile& tile, int begin, int end) {
    for (int key = 0; key < kTileKeys; ++key)
      for (int d = begin; d < end; ++d)
        tile.keys[(d - begin) * kTileKeys + key] = widen(tile.key_rows[key], d, tile.dtype);
  }
  static void pack_values(const Tile& tile) {
    for (int key = 0; key < kTileKeys; ++key)
      for (int d = 0; d < tile.head_dim; ++d)
        tile.values[key * tile.stride + d] = widen(tile.value_rows[key], d, tile.dtype);
  }

  struct CachedValues {
    const void* const* rows;
    lane::DType dtype;
    F at(int key, int d) const {
      F values;
      for (int i = 0; i < 4; ++i) values[i] = widen(rows[key], d + i, dtype);
      return values;
    }
    template <int kCount>
    void fetch(int, int) const {}
  };
  template <class Body>
  static void with_values(const Tile& tile, Body body) {
    body(CachedValues{tile.value_rows, tile.dtype});
  }
};

}  // namespace

const lane::flash::Loops lane::flash::kPortableLoops{"baseline", TileLoops<Portable>::attend, narrow_plainly};
