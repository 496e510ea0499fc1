#pragma once
#include <cstdint>

namespace lane::cuda::attention {

// What the kernels of attention work on: AttentionBackend::run()'s arguments, all pointers on the device.
struct AttentionArgs {
  const void* qkv;  // [tokens, (num_heads + 2 num_kv_heads) * head_dim]
  void* out;        // [tokens, num_heads * head_dim]
  void *keys, *values;
  const int32_t *query_start, *kv_length, *block_tables;
  int num_seqs, num_tokens, max_query, max_blocks;
  int num_heads, num_kv_heads, head_dim, block_tokens;
  int window;
  float scale, soft_cap;
  bool is_settled;

  // Of the decode kernel. Partial results [num_seqs, num_kv_heads * row_tiles, grid_chunks] of partial_rows *
  // (head_dim + 2) floats: highest score, sum and unfinished output of each row; and counters, zero between launches.
  float* partials;
  uint32_t* counters;  // [num_seqs, num_kv_heads * row_tiles]
  int row_tiles, partial_rows, grid_chunks;
};

// What direct.cuh works on: one new token a sequence, whose queries and key are the product's and nothing else yet.
struct DirectArgs {
  AttentionArgs a;
  const float* cos_sin;               // [tokens, 2 pairs], of kernels::rope_table(); null: nothing is rotated
  int pairs;                          // element j of a head is rotated with element j + pairs
  const void *query_gain, *key_gain;  // [head_dim] of kernels::head_rms_norm(), which comes first; null: none
  float eps;
};

}  // namespace lane::cuda::attention
