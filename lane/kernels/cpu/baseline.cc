#include <cstring>

#include "lane/base/dtype.h"
#include "lane/kernels/cpu/isa.h"
#include "lane/kernels/cpu/tile.h"

// Vectors of four float32 by the compiler's own means: SSE2 on x86-64, NEON on aarch64.
namespace lane::kernels::cpu {
namespace {

struct Vector {
  using Register = float __attribute__((vector_size(16)));
  using Words = uint32_t __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr int kNumRegisters = 16;
  static constexpr int kMaxRows = 4;
  static constexpr int wide_groups(int rows) { return rows == 1 ? 2 : 1; }

  template <class T = Register>
  static T read(const void* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }
  static Register zero() { return Register{}; }
  static Register load(const float* p) { return read(p); }
  static void store(float* p, Register value) { std::memcpy(p, &value, sizeof value); }
  static Register broadcast(const float* p) { return Register{*p, *p, *p, *p}; }
  static Register multiply_add(Register a, Register b, Register c) { return a * b + c; }
  static Register kept(Register sum) { return sum; }
};

struct F32 {
  static constexpr int kPairBytes = 128;
  static Vector::Register even(const char* group, int v) { return Vector::read(group + 16 * v); }
  static Vector::Register odd(const char* group, int v) { return Vector::read(group + 64 + 16 * v); }
};

struct BF16 {
  static constexpr int kPairBytes = 64;
  static Vector::Register even(const char* group, int v) {
    return (Vector::Register)(Vector::read<Vector::Words>(group + 16 * v) << 16);
  }
  static Vector::Register odd(const char* group, int v) {
    return (Vector::Register)(Vector::read<Vector::Words>(group + 16 * v) & 0xffff0000u);
  }
};

struct F16 {
  static constexpr int kPairBytes = 64;
  static Vector::Register four(const char* halves) {
    uint16_t h[4];
    std::memcpy(h, halves, sizeof h);
    return Vector::Register{float_from_f16(h[0]), float_from_f16(h[1]), float_from_f16(h[2]), float_from_f16(h[3])};
  }
  static Vector::Register even(const char* group, int v) { return four(group + 8 * v); }
  static Vector::Register odd(const char* group, int v) { return four(group + 32 + 8 * v); }
};

}  // namespace

constinit const Isa kBaseline = {.name = "baseline",
                                 .f32 = make_tile_kernels<TileSet<Vector, F32>>(),
                                 .bf16 = make_tile_kernels<TileSet<Vector, BF16>>(),
                                 .f16 = make_tile_kernels<TileSet<Vector, F16>>()};

}  // namespace lane::kernels::cpu
