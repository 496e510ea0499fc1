#pragma once
#include <cstdint>

// What the matmul driver (matmul.cc) and the kernels of each instruction set share. The kernel files are compiled
// for instructions that this machine may not have, so they include nothing but this header, tile.h and intrinsics:
// an inline function of another header, compiled there, could be the copy that the linker keeps for everybody.
//
// The packed layout. Rows of W (columns of the result) come in groups of 16 and inputs in pairs; both are padded
// with zeros:
//   float32, float16:  [n / 16][k][16]            one input of 16 rows side by side
//   bfloat16:          [n / 16][k / 2][16][2]     two inputs of a row in one 32-bit word: what vdpbf16ps reads, and a
//                                                 shift or a mask away from two float32
namespace lane::kernels::cpu {

inline constexpr int kGroup = 16;

// One call of a tile kernel, for a number of rows and of groups that the kernel fixes:
//   out[r, c] = init[r, c] + sum over k, in order, of x[r, k] * W[c, k]
struct Tile {
  const float* x;  // rows of float32 or, where TileKernels::stage says so, of pairs of bfloat16
  int64_t x_stride;
  const char* w;
  int64_t w_group_bytes;  // from one group to the next
  int64_t k;
  const float* init;  // null: zeros. May be `out`.
  int64_t init_stride;
  float* out;
  int64_t out_stride;
};
using TileKernel = void (*)(const Tile&);

// Converts rows of x to what the tile kernels read; strides in 4-byte units.
using StageKernel = void (*)(const float* x, int64_t x_stride, int64_t num_rows, int64_t k, float* out,
                             int64_t out_stride);

// The kernels for one type of weights, by number of rows - 1. `wide` takes wide_groups groups at once, so that
// enough additions are in flight; `narrow` takes one.
struct TileKernels {
  static constexpr int kMostRows = 12;
  int max_rows = 0;
  int wide_groups[kMostRows] = {};
  TileKernel wide[kMostRows] = {};
  TileKernel narrow[kMostRows] = {};
  StageKernel stage = nullptr;  // null: float32, as it is
};

struct Isa {
  const char* name;
  TileKernels f32, bf16, f16;
};

}  // namespace lane::kernels::cpu
