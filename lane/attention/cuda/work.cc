#include "lane/attention/cuda/work.h"

#include <algorithm>

#include "lane/attention/check.h"
#include "lane/attention/cuda/split.h"

namespace lane::cuda::attention {

AttentionArgs args_of(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, int window,
                      KvView cache, TensorView out) {
  check_shapes(shape, batch, qkv, cache, out);
  AttentionArgs args{};
  args.qkv = qkv.data;
  args.out = out.data;
  args.keys = cache.keys.data;
  args.values = cache.values.data;
  args.query_start = batch.query_start.as<const int32_t>();
  args.kv_length = batch.kv_length.as<const int32_t>();
  args.block_tables = batch.block_tables.as<const int32_t>();
  args.num_seqs = static_cast<int>(batch.num_seqs);
  args.num_tokens = static_cast<int>(batch.num_tokens);
  args.max_query = static_cast<int>(batch.max_query);
  args.max_blocks = static_cast<int>(batch.max_blocks);
  args.num_heads = shape.num_heads;
  args.num_kv_heads = shape.num_kv_heads;
  args.head_dim = shape.head_dim;
  args.block_tokens = shape.block_tokens;
  args.window = window;
  args.scale = shape.scale;
  args.soft_cap = shape.soft_cap;
  args.is_settled = batch.is_settled;
  args.row_tiles = row_tiles(shape);
  return args;
}

int row_tiles(const AttentionShape& shape) {
  return (shape.num_heads / shape.num_kv_heads + kTileRows - 1) / kTileRows;
}

Steps steps_of(const AttentionShape& shape, const AttentionBatch& batch) {
  if (batch.num_tokens == 0) return {false, false};
  const int64_t most_rows = batch.max_query * (shape.num_heads / shape.num_kv_heads);
  const bool prefills = most_rows > row_tiles(shape) * kTileRows;
  // With as many tokens as that, every sequence has max_query of them.
  const bool all_alike = batch.num_tokens == batch.num_seqs * batch.max_query;
  return {.decodes = !prefills || !all_alike, .prefills = prefills};
}

DecodeSpace decode_space(const AttentionShape& shape, int64_t num_seqs, int64_t max_query, int64_t max_kv, int window) {
  const int64_t owners = num_seqs * shape.num_kv_heads * row_tiles(shape);
  const int chunks = grid_chunks(max_kv, max_query, window, shape.num_kv_heads);
  const int64_t rows = std::min<int64_t>(kTileRows, max_query * (shape.num_heads / shape.num_kv_heads));
  return {.grid_chunks = chunks,
          .partial_rows = static_cast<int>(rows),
          .partial_floats = owners * chunks * rows * (shape.head_dim + 2),
          .num_counters = owners};
}

bool takes_direct(const AttentionShape& shape) {
  return (shape.head_dim == 64 || shape.head_dim == 128) && shape.num_heads / shape.num_kv_heads <= kDirectRows &&
         shape.block_tokens % kTileTokens == 0;
}

DecodeSpace direct_space(const AttentionShape& shape, int64_t num_seqs, int64_t max_kv, int window) {
  const int64_t owners = num_seqs * shape.num_kv_heads;
  const int chunks = direct_chunks(max_kv, window), rows = shape.num_heads / shape.num_kv_heads;
  return {.grid_chunks = chunks,
          .partial_rows = rows,
          .partial_floats = owners * chunks * rows * (shape.head_dim + kPartialHead),
          .num_counters = owners};
}

}  // namespace lane::cuda::attention
