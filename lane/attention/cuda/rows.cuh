// One sequence and the queries of one kv head, as a block of a kernel sees them.
#pragma once
#include "lane/attention/cuda/args.h"
#include "lane/attention/cuda/ptx.cuh"

namespace lane::cuda::attention {

struct Sequence {
  int first_token, num_tokens;  // new ones, among the packed tokens; none in an empty place of the batch
  int length;                   // tokens in the cache, the new ones included
  const int32_t* blocks;

  __device__ int first_position() const { return length - num_tokens; }
};
__device__ inline Sequence sequence_of(const AttentionArgs& a, int index) {
  const int first = a.query_start[index], last = a.query_start[index + 1];
  return {first, last - first, a.kv_length[index], a.block_tables + int64_t{index} * a.max_blocks};
}

__device__ inline int first_visible(int position, int window) {
  return window > 0 && position >= window ? position - window + 1 : 0;
}

// Element [block, kv_head, position % block_tokens, 0] of the keys or the values.
__device__ inline int64_t place_in_cache(const AttentionArgs& a, int block, int kv_head, int position) {
  return ((int64_t{block} * a.num_kv_heads + kv_head) * a.block_tokens + position % a.block_tokens) * a.head_dim;
}

// Where the new token's query, key and value of a head begin in qkv, and its result in out.
__device__ inline int64_t query_place(const AttentionArgs& a, int token, int head) {
  return (int64_t{token} * (a.num_heads + 2 * a.num_kv_heads) + head) * a.head_dim;
}
__device__ inline int64_t key_place(const AttentionArgs& a, int token, int kv_head) {
  return query_place(a, token, a.num_heads + kv_head);
}
__device__ inline int64_t value_place(const AttentionArgs& a, int token, int kv_head) {
  return query_place(a, token, a.num_heads + a.num_kv_heads + kv_head);
}
__device__ inline int64_t out_place(const AttentionArgs& a, int token, int head) {
  return (int64_t{token} * a.num_heads + head) * a.head_dim;
}

// Row r of a kv head's queries: new token r / group, its head r % group.
struct Row {
  int token, head;
};
__device__ inline Row row_at(const AttentionArgs& a, const Sequence& sequence, int kv_head, int row) {
  const int group = a.num_heads / a.num_kv_heads;
  return {sequence.first_token + row / group, kv_head * group + row % group};
}

// Scores come out of q k as they are and go into the softmax as powers of 2: times scale * log2(e), or
// cap log2(e) tanh(score scale / cap).
struct ScoreScale {
  float before, cap;

  __device__ explicit ScoreScale(const AttentionArgs& a)
      : before(a.soft_cap > 0 ? quotient(a.scale, a.soft_cap) : a.scale * 1.44269504089f),
        cap(a.soft_cap * 1.44269504089f) {}
  __device__ float operator()(float score) const {
    score *= before;
    return cap > 0 ? cap * hyperbolic_tangent(score) : score;
  }
};

}  // namespace lane::cuda::attention
