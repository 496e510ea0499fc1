#pragma once
#include <cstring>

#include "lane/attention/cpu/flash_tile.h"

// The arithmetic of a tile for vectors of any width. Each flash_<isa>.cc includes this file and is compiled with flags
// of its own, so nothing here may have external linkage: the linker would keep one copy for all machines.
//
// An instruction set is a struct with
//   F, I             a vector of float and of int32 as GCC spells them (operators work element by element)
//   kCols[R]         columns of accumulators that fit the register file beside R rows, 1 to 4
//   kRows            of these the best R where there are many rows, 3 or 4
//   fma(a, b, c)     a * b + c, in every element alike
//   pack_keys(tile, begin, end)     converts these dimensions of all keys, transposed
//   pack_values(tile)               converts the values
//   with_values(tile, body)         body(values), where values.at(key, d) converts a vector of them
//                                   and values.fetch<n>(key, d) prefetches n of the tile that comes after
//
// Every result is a chain of fma in a fixed order (dimensions in a score, keys in an output), and a chain that is cut
// and continued through memory gives the same bits. So blocks may be formed as it suits the registers.
namespace {

using lane::flash::kBlockDims;
using lane::flash::kTileKeys;
using lane::flash::Tile;

template <class Isa>
struct TileLoops {
  using F = typename Isa::F;
  using I = typename Isa::I;
  static constexpr int kWidth = sizeof(F) / sizeof(float);

  [[gnu::always_inline]] static inline F load(const float* from) {
    F value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  [[gnu::always_inline]] static inline void store(float* to, F value) { std::memcpy(to, &value, sizeof value); }
  [[gnu::always_inline]] static inline F splat(float value) { return value - F{}; }  // x - 0 is x, also for -0
  [[gnu::always_inline]] static inline F choose(I mask, F yes, F no) {
    return reinterpret_cast<F>((mask & reinterpret_cast<I>(yes)) | (~mask & reinterpret_cast<I>(no)));
  }

  static int max(int a, int b) { return a > b ? a : b; }
  static int min(int a, int b) { return a < b ? a : b; }

  // body(row, Count<R>) for groups of R rows that make up all of them, without a single row at the end if possible.
  template <int R>
  struct Count {};
  template <class Body>
  [[gnu::always_inline]] static inline void for_row_groups(int num_rows, Body body) {
    int row = 0;
    for (; num_rows - row >= Isa::kRows + 2; row += Isa::kRows) body(row, Count<Isa::kRows>{});
    if (num_rows - row == 5) body(row, Count<3>{}), row += 3;
    switch (num_rows - row) {
      case 4:
        body(row, Count<4>{});
        break;
      case 3:
        body(row, Count<3>{});
        break;
      case 2:
        body(row, Count<2>{});
        break;
      case 1:
        body(row, Count<1>{});
    }
  }

  // 2^x for x <= 0, within 1 ulp; 0 below 2^-125, exactly 1 for 0; NaN stays NaN.
  // x = n + r with n whole and |r| <= 1/2, both exact; 2^r = 1 + r p(r), p the interpolant at Chebyshev's nodes.
  [[gnu::always_inline]] static inline F exp2(F x) {
    // Added to 1.5 * 2^23 + 127, x leaves n + 127 in the lowest bits: the exponent of 2^n.
    const F magic = splat(12582912.f + 127);
    const F shifted = x + magic, r = x - (shifted - magic);
    F p = splat(0x1.44138ap-13f);
    p = Isa::fma(p, r, splat(0x1.5f0890p-10f));
    p = Isa::fma(p, r, splat(0x1.3b2a54p-7f));
    p = Isa::fma(p, r, splat(0x1.c6af6cp-5f));
    p = Isa::fma(p, r, splat(0x1.ebfbe0p-3f));
    p = Isa::fma(p, r, splat(0x1.62e430p-1f));
    p = Isa::fma(p, r, splat(1.f));
    const I power = reinterpret_cast<I>(shifted) << 23;
    return choose(x < splat(-125.f), F{}, p * reinterpret_cast<F>(power));
  }

  // tanh x = (1 - e) / (1 + e), e = exp(-2 |x|); near 0, where that cancels, its Taylor polynomial.
  [[gnu::always_inline]] static inline F tanh(F x) {
    const I sign = reinterpret_cast<I>(x) & static_cast<int>(0x80000000u);
    const F magnitude = reinterpret_cast<F>(reinterpret_cast<I>(x) ^ sign), square = x * x;
    const F e = exp2(magnitude * splat(-2.885390081777927f));
    const F far = (splat(1.f) - e) / (splat(1.f) + e);
    F p = splat(62.f / 2835);
    p = Isa::fma(p, square, splat(-17.f / 315));
    p = Isa::fma(p, square, splat(2.f / 15));
    p = Isa::fma(p, square, splat(-1.f / 3));
    const F near = Isa::fma(p * square, x, x);
    return choose(magnitude < splat(0.25f), near, reinterpret_cast<F>(reinterpret_cast<I>(far) | sign));
  }

  // scores[R, C vectors] (+)= queries[R, dims begin .. end) · keys
  template <int R, int C>
  static void score_block(const Tile& tile, int row, int key, int begin, int end) {
    const int head_dim = tile.head_dim;
    const float* queries = tile.queries + row * head_dim;
    const float* keys = tile.keys + key;
    float* scores = tile.scores + row * kTileKeys + key;
    F sum[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = begin == 0 ? F{} : load(scores + r * kTileKeys + c * kWidth);
    for (int d = begin; d < end; ++d, keys += kTileKeys) {
      F query[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) query[r] = splat(queries[r * head_dim + d]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        const F key_vector = load(keys + c * kWidth);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r][c] = Isa::fma(query[r], key_vector, sum[r][c]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) store(scores + r * kTileKeys + c * kWidth, sum[r][c]);
  }

  // out[R, C vectors from d on] += weights[R, keys begin .. end) · values
  template <int R, int C, class Values>
  static void weigh_block(const Tile& tile, Values values, int row, int d, int begin, int end) {
    if (begin >= end) return;
    const int stride = tile.stride;
    const float* weights = tile.scores + row * kTileKeys;
    float* out = tile.out + row * stride + d;
    F sum[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = load(out + r * stride + c * kWidth);
    for (int key = begin; key < end; ++key) {
      values.template fetch<C * kWidth>(key, d);
      F weight[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) weight[r] = splat(weights[r * kTileKeys + key]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        const F value = values.at(key, d + c * kWidth);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r][c] = Isa::fma(weight[r], value, sum[r][c]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) store(out + r * stride + c * kWidth, sum[r][c]);
  }

  template <int R, class Values>
  static void weigh_columns(const Tile& tile, Values values, int row, int first, int last, int begin, int end) {
    constexpr int C = Isa::kCols[R];
    int d = first;
    for (; d + C * kWidth <= last; d += C * kWidth) weigh_block<R, C>(tile, values, row, d, begin, end);
    for (; d < last; d += kWidth) weigh_block<R, 1>(tile, values, row, d, begin, end);
  }

  // Dimensions [first, last) for rows that need not see the same keys. Each row takes them in order: alone, then
  // together where all rows look, then alone.
  template <int R, class Values>
  static void weigh_rows(const Tile& tile, Values values, int row, int first, int last) {
    int low = 0, high = kTileKeys;  // what all rows see
    for (int r = row; r < row + R; ++r) low = max(low, tile.first[r]), high = min(high, tile.last[r]);
    if (low >= high) low = high = kTileKeys;
    for (int r = row; r < row + R; ++r)
      weigh_columns<1>(tile, values, r, first, last, tile.first[r], min(low, tile.last[r]));
    weigh_columns<R>(tile, values, row, first, last, low, high);
    for (int r = row; r < row + R; ++r) weigh_columns<1>(tile, values, r, first, last, high, tile.last[r]);
  }

  template <class Values>
  static void weigh(const Tile& tile, Values values) {
    for (int d = 0; d < tile.stride; d += kBlockDims)
      for_row_groups(tile.num_rows, [&]<int R>(int row, Count<R>) {
        weigh_rows<R>(tile, values, row, d, min(d + kBlockDims, tile.stride));
      });
  }

  struct PackedValues {
    const float* values;
    int stride;
    [[gnu::always_inline]] F at(int key, int d) const { return load(values + key * stride + d); }
    template <int kCount>
    void fetch(int, int) const {}
  };

  // Dimensions [begin, end) of the keys that somebody sees.
  template <int R>
  static void score_rows(const Tile& tile, int row, int begin, int end) {
    constexpr int C = Isa::kCols[R], kKeys = C * kWidth;
    static_assert(kTileKeys % kKeys == 0);
    for (int key = 0; key < kTileKeys; key += kKeys) {
      bool seen = false;
      for (int r = row; r < row + R; ++r) seen |= max(key, tile.first[r]) < min(key + kKeys, tile.last[r]);
      if (seen) score_block<R, C>(tile, row, key, begin, end);
    }
  }

  // Turns a row's scores into weights relative to the highest score so far; what was summed up before shrinks by the
  // factor it returns.
  static float soften(const Tile& tile, int row) {
    const int first = tile.first[row], last = tile.last[row], begin = first / kWidth * kWidth;
    float* scores = tile.scores + row * kTileKeys;
    const F cap = splat(tile.soft_cap), none = splat(-__builtin_inff());
    I index;
    for (int i = 0; i < kWidth; ++i) index[i] = begin + i;
    F best = none;
    for (int c = begin; c < last; c += kWidth, index += kWidth) {
      F score = load(scores + c);
      if (tile.soft_cap > 0) score = cap * tanh(score);
      score = choose((index >= first) & (index < last), score, none);
      store(scores + c, score);
      best = choose(score > best, score, best);
    }
    const float before = tile.highest[row];
    float highest = before;
    for (int i = 0; i < kWidth; ++i) highest = best[i] > highest ? best[i] : highest;

    F total{};
    for (int c = begin; c < last; c += kWidth) {
      const F weight = exp2(load(scores + c) - splat(highest));
      store(scores + c, weight);
      total += weight;
    }
    float sum = 0;
    for (int i = 0; i < kWidth; ++i) sum += total[i];
    const float shrink = exp2(splat(before - highest))[0];
    tile.highest[row] = highest;
    tile.sum[row] = tile.sum[row] * shrink + sum;
    return shrink;
  }

  // The blocks that are converted at a time stay in the first-level cache. With few rows what they came from stays
  // there, too, and values are converted where they are used.
  static void attend(const Tile& tile) {
    const bool few = tile.num_rows <= 8;
    const int num_dims = few ? kBlockDims / 2 : kBlockDims;
    for (int d = 0; d < tile.head_dim; d += num_dims) {
      const int end = min(tile.head_dim, d + num_dims);
      Isa::pack_keys(tile, d, end);
      for_row_groups(tile.num_rows, [&]<int R>(int row, Count<R>) { score_rows<R>(tile, row, d, end); });
    }
    for (int row = 0; row < tile.num_rows; ++row) {
      if (tile.first[row] >= tile.last[row]) continue;
      const float shrink = soften(tile, row);
      float* out = tile.out + row * tile.stride;
      if (shrink != 1)
        for (int d = 0; d < tile.stride; d += kWidth) store(out + d, load(out + d) * splat(shrink));
    }
    if (few && tile.stride == tile.head_dim) return Isa::with_values(tile, [&](auto values) { weigh(tile, values); });
    Isa::pack_values(tile);
    weigh(tile, PackedValues{tile.values, tile.stride});
  }
};

}  // namespace
