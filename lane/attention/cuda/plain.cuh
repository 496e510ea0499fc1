// The kernels that take every shape: new keys and values into the cache, and attention as it is defined.
#pragma once
#include "lane/attention/cuda/rows.cuh"

namespace lane::cuda::attention {

inline constexpr int kPlainWarps = 4;
inline constexpr int kPlainDim = 256;  // largest head_dim of the plain kernel

// Puts the key and the value of a new token's kv head into the cache, element by element over a warp. A kernel that
// computes them (rotary embedding, a norm of each head) can end with this.
template <class T, class Cache>
__device__ inline void put_into_cache(const AttentionArgs& a, const Sequence& sequence, int new_token, int kv_head,
                                      const T* key, const T* value) {
  const int position = sequence.first_position() + new_token;
  const int64_t to = place_in_cache(a, sequence.blocks[position / a.block_tokens], kv_head, position);
  for (int i = lane_index(); i < a.head_dim; i += 32) {
    static_cast<Cache*>(a.keys)[to + i] = narrow<Cache>(widen(key[i]));
    static_cast<Cache*>(a.values)[to + i] = narrow<Cache>(widen(value[i]));
  }
}

// Grid [new tokens of the longest / kPlainWarps, kv heads, sequences]: a warp a token and head.
template <class T, class Cache>
__global__ void __launch_bounds__(kPlainWarps * 32) write_kv_kernel(const __grid_constant__ AttentionArgs a) {
  wait_for_previous_kernel();
  const BlockIndex index = block_index();
  const Sequence sequence = sequence_of(a, index.z);
  const int new_token = index.x * kPlainWarps + warp_index();
  if (new_token >= sequence.num_tokens || sequence.length == 0) return;
  const T* qkv = static_cast<const T*>(a.qkv);
  const int token = sequence.first_token + new_token;
  put_into_cache<T, Cache>(a, sequence, new_token, index.y, qkv + key_place(a, token, index.y),
                           qkv + value_place(a, token, index.y));
}

// Grid [new tokens of the longest / kPlainWarps, heads, sequences]: a warp a token and head, a lane every 32nd
// dimension, key after key; in float32 whatever the types.
template <class T, class Cache>
__global__ void __launch_bounds__(kPlainWarps * 32) plain_kernel(const __grid_constant__ AttentionArgs a) {
  constexpr int kOfLane = kPlainDim / 32;
  wait_for_previous_kernel();
  const BlockIndex index = block_index();
  const Sequence sequence = sequence_of(a, index.z);
  const int new_token = index.x * kPlainWarps + warp_index(), lane = lane_index();
  if (new_token >= sequence.num_tokens) return;
  const int token = sequence.first_token + new_token, kv_head = index.y / (a.num_heads / a.num_kv_heads);
  const int position = sequence.length == 0 ? -1 : sequence.first_position() + new_token;

  const ScoreScale scale(a);
  float query[kOfLane], out[kOfLane] = {}, highest = -__builtin_huge_valf(), sum = 0;
  const T* from = static_cast<const T*>(a.qkv) + query_place(a, token, index.y);
  for (int i = 0; i < kOfLane; ++i) query[i] = i * 32 + lane < a.head_dim ? widen(from[i * 32 + lane]) : 0;
  for (int at = first_visible(position, a.window); at <= position; ++at) {
    const int64_t place = place_in_cache(a, sequence.blocks[at / a.block_tokens], kv_head, at);
    const Cache* key = static_cast<const Cache*>(a.keys) + place;
    const Cache* value = static_cast<const Cache*>(a.values) + place;
    float score = 0;
    for (int i = 0; i < kOfLane; ++i)
      if (i * 32 + lane < a.head_dim) score += query[i] * widen(key[i * 32 + lane]);
    for (int mask = 16; mask > 0; mask /= 2) score += shuffle_xor(score, mask);
    score = scale(score);
    const float higher = greater(highest, score), shrink = power_of_2(highest - higher);
    const float weight = power_of_2(score - higher);
    highest = higher;
    sum = sum * shrink + weight;
    for (int i = 0; i < kOfLane; ++i)
      if (i * 32 + lane < a.head_dim) out[i] = out[i] * shrink + weight * widen(value[i * 32 + lane]);
  }
  T* to = static_cast<T*>(a.out) + out_place(a, token, index.y);
  for (int i = 0; i < kOfLane; ++i)
    if (i * 32 + lane < a.head_dim) to[i * 32 + lane] = narrow<T>(position < 0 ? 0.f : out[i] / sum);
}

}  // namespace lane::cuda::attention
