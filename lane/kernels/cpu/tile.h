#pragma once
#include <cstdint>
#include <utility>

#include "lane/kernels/cpu/matmul.h"

// The tile kernel, for any vector type and any weights. Its parameters are types of an unnamed namespace of the file
// that instantiates it, hence so are its instances: every instruction set has its own.
//
//   Vector:  Register, kLanes, kNumRegisters, zero(), load(), store(), broadcast(), multiply_add(a, b, c) = a * b + c,
//            and kept(x) = x, in a register from here on, which holds the compiler to the order of the source (left
//            alone, g++ 12 moves the loads of all rows ahead and has to spill sums)
//   Weight:  kPairBytes, even(group, v) and odd(group, v): the first and second input of a pair as float32
namespace lane::kernels::cpu {

// How many pairs ahead of use weights are asked for, where a tile computes long enough on each line that the hardware's
// own prefetching stops short of memory's latency. One row alone reads faster without.
inline constexpr int kPrefetchPairs = 64;

// One accumulator per result and inputs in order: the bits of a result depend on neither kRows nor kGroups.
template <class Vector, class Weight, int kRows, int kGroups>
void tile(const Tile& t) {
  using Register = typename Vector::Register;
  constexpr int kVectors = kGroup / Vector::kLanes;  // per group
  // Whether the inputs of all rows have no room beside the sums and must be loaded again for the next group.
  constexpr bool kLoadsTwice = kGroups > 1 && kRows * kGroups * kVectors + kVectors + kRows + 1 > Vector::kNumRegisters;
  Register sum[kRows][kGroups][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (int g = 0; g < kGroups; ++g)
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v)
        sum[r][g][v] =
            t.init ? Vector::load(t.init + r * t.init_stride + g * kGroup + v * Vector::kLanes) : Vector::zero();

  const float* x = t.x;
  const char* w = t.w;
  const int64_t x_stride = t.x_stride, group_bytes = t.w_group_bytes;
  const auto step = [&](auto weight_of, const float* input) {
#pragma GCC unroll 16
    for (int g = 0; g < kGroups; ++g) {
      Register weight[kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        weight[v] = weight_of(w + g * group_bytes, v);
        if constexpr (kRows > 1) weight[v] = Vector::kept(weight[v]);  // loaded once, not once per row
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const float* row = input + r * x_stride;
        if constexpr (kLoadsTwice) asm volatile("" : "+r"(row));
        const Register value = Vector::broadcast(row);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v)
          sum[r][g][v] = Vector::kept(Vector::multiply_add(value, weight[v], sum[r][g][v]));
      }
    }
  };
  const auto even = [](const char* group, int v) { return Weight::even(group, v); };
  const auto odd = [](const char* group, int v) { return Weight::odd(group, v); };
  for (int64_t pair = t.k / 2; pair > 0; --pair, x += 2, w += Weight::kPairBytes) {
    if constexpr (kRows > 1) {
#pragma GCC unroll 16
      for (int g = 0; g < kGroups; ++g)
#pragma GCC unroll 2
        for (int line = 0; line < Weight::kPairBytes; line += 64)
          __builtin_prefetch(w + g * group_bytes + kPrefetchPairs * Weight::kPairBytes + line);
    }
    step(even, x);
    step(odd, x + 1);
  }
  if (t.k % 2 != 0) step(even, x);

#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (int g = 0; g < kGroups; ++g)
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v)
        Vector::store(t.out + r * t.out_stride + g * kGroup + v * Vector::kLanes, sum[r][g][v]);
}

// `Set` has kMaxRows, wide_groups(rows) and kernel<rows, groups>().
template <class Set, int... kRowIndex>
constexpr TileKernels make_tile_kernels(std::integer_sequence<int, kRowIndex...>) {
  return {.max_rows = Set::kMaxRows,
          .wide_groups = {Set::wide_groups(kRowIndex + 1)...},
          .wide = {Set::template kernel<kRowIndex + 1, Set::wide_groups(kRowIndex + 1)>()...},
          .narrow = {Set::template kernel<kRowIndex + 1, 1>()...},
          .stage = Set::kStage};
}
template <class Set>
constexpr TileKernels make_tile_kernels() {
  return make_tile_kernels<Set>(std::make_integer_sequence<int, Set::kMaxRows>());
}

// The usual set: tile() over float32 inputs.
template <class Vector, class Weight>
struct TileSet {
  static constexpr int kMaxRows = Vector::kMaxRows;
  static constexpr StageKernel kStage = nullptr;
  static constexpr int wide_groups(int rows) { return Vector::wide_groups(rows); }
  template <int kRows, int kGroups>
  static constexpr TileKernel kernel() {
    return &tile<Vector, Weight, kRows, kGroups>;
  }
};

}  // namespace lane::kernels::cpu
