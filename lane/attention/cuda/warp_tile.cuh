// What one warp computes: 16 rows of queries against tiles of 16 keys that lie in shared memory.
//
// S = Q K^T and O += P V, each of mma.m16n8k16 with sums in float32. The softmax runs along the way (Dao et al.,
// FlashAttention, 2022): S leaves the first product as elements of C, and pairs of those are registers of A for the
// second, so P never leaves the registers. fragments.h says which lane has what; a lane has two rows, g and g + 8.
#pragma once
#include "lane/attention/cuda/fragments.h"
#include "lane/attention/cuda/rows.cuh"

namespace lane::cuda::attention {

inline constexpr float kNothing = -__builtin_huge_valf();  // highest score of a row that has seen no key

// The running softmax of a lane's two rows. `sum` is of this lane's columns alone until finish().
template <int kDim>
struct WarpState {
  float highest[2] = {kNothing, kNothing};
  float sum[2] = {0, 0};
  float out[kDim / 8][4] = {};  // C of 8 dimensions each

  __device__ void finish() {
    for (float& part : sum) {
      part += shuffle_xor(part, 1);
      part += shuffle_xor(part, 2);
    }
  }
};

// The queries of 16 rows as A, 16 dimensions a step. Rows from num_rows on are zeros.
template <class T, int kDim>
__device__ inline void load_queries(const AttentionArgs& a, const Sequence& sequence, int kv_head, int first_row,
                                    int num_rows, uint32_t (&queries)[kDim / 16][4]) {
  const int lane = lane_index();
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + lane / 4 + 8 * half;
    const bool exists = row < num_rows;
    const Row where = row_at(a, sequence, kv_head, exists ? row : first_row);
    const T* from = static_cast<const T*>(a.qkv) + query_place(a, where.token, where.head);
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step)
#pragma unroll
      for (int right = 0; right < 2; ++right) {
        const int column = 16 * step + place_in_a(lane, 2 * right, 0).column;
        queries[step][half + 2 * right] = exists ? *reinterpret_cast<const uint32_t*>(from + column) : 0;
      }
  }
}

// scores[2 i + j] = C of keys 16 i + 8 j on, for kTiles tiles of 16 keys that lie one after the other.
template <class T, int kDim, int kTiles>
__device__ inline void multiply_keys(const uint32_t (&queries)[kDim / 16][4], const char* keys,
                                     float (&scores)[2 * kTiles][4]) {
  constexpr int kRowBytes = shared_row_bytes(kDim);
  const Place named = key_named_by(lane_index());
  const char* row = keys + named.row * kRowBytes + named.column * 2;
#pragma unroll
  for (int i = 0; i < 2 * kTiles; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) scores[i][e] = 0;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step)
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      uint32_t b[4];
      load_matrices(b, row + tile * 16 * kRowBytes + step * 32);
      multiply_add<T>(scores[2 * tile], queries[step], b[0], b[1]);
      multiply_add<T>(scores[2 * tile + 1], queries[step], b[2], b[3]);
    }
}

// Where every row sees every key.
template <int kTiles>
__device__ inline void scale_all(const ScoreScale& scale, float (&scores)[2 * kTiles][4]) {
#pragma unroll
  for (int i = 0; i < 2 * kTiles; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) scores[i][e] = scale(scores[i][e]);
}

// Scales the scores, and hides those that the row at positions[half] does not see. `position`: of the first key.
template <int kTiles>
__device__ inline void scale_and_mask(const ScoreScale& scale, int position, const int (&positions)[2], int window,
                                      float (&scores)[2 * kTiles][4]) {
#pragma unroll
  for (int i = 0; i < 2 * kTiles; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int at = position + 8 * i + place_in_c(lane_index(), e).column, seen_from = positions[e / 2];
      const bool sees = at <= seen_from && (window <= 0 || at > seen_from - window);
      scores[i][e] = sees ? scale(scores[i][e]) : kNothing;
    }
}

// Turns scores into weights relative to the highest so far, and what was summed before as well.
template <int kDim, int kTiles>
__device__ inline void soften(float (&scores)[2 * kTiles][4], WarpState<kDim>& state) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float highest = state.highest[half];
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i)
      highest = greater(highest, greater(scores[i][2 * half], scores[i][2 * half + 1]));
    highest = greater(highest, shuffle_xor(highest, 1));
    highest = greater(highest, shuffle_xor(highest, 2));
    const float base = highest == kNothing ? 0 : highest;  // no key seen yet: -infinity minus itself is no number
    const float shrink = power_of_2(state.highest[half] - base);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) sum += scores[i][e] = power_of_2(scores[i][e] - base);
    state.sum[half] = state.sum[half] * shrink + sum;
    state.highest[half] = highest;
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      state.out[i][2 * half] *= shrink;
      state.out[i][2 * half + 1] *= shrink;
    }
  }
}

// out += weights V, the weights rounded to T.
template <class T, int kDim, int kTiles>
__device__ inline void multiply_values(const float (&weights)[2 * kTiles][4], const char* values,
                                       WarpState<kDim>& state) {
  constexpr int kRowBytes = shared_row_bytes(kDim);
  const Place named = value_named_by(lane_index());
  const char* row = values + named.row * kRowBytes + named.column * 2;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const auto& left = weights[2 * tile];
    const auto& right = weights[2 * tile + 1];
    const uint32_t a[4] = {pack<T>(left[0], left[1]), pack<T>(left[2], left[3]), pack<T>(right[0], right[1]),
                           pack<T>(right[2], right[3])};
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      uint32_t b[4];
      load_matrices_transposed(b, row + tile * 16 * kRowBytes + i * 32);
      multiply_add<T>(state.out[2 * i], a, b[0], b[1]);
      multiply_add<T>(state.out[2 * i + 1], a, b[2], b[3]);
    }
  }
}

}  // namespace lane::cuda::attention
