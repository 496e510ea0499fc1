// How large the memory is that FlashInfer's plans divide up: bounds of what flashinfer/attention/scheduler.cuh allots,
// which refuses what does not fit.
#pragma once
#include <algorithm>
#include <cstdint>

#include "lane/attention/attention.h"

namespace lane::cuda::attention {

struct FlashinferBytes {
  int64_t floats, lists;
};

// A plan has W work items (query tile or sequence, chunk of the past), W at most what fills the GPU, unless there are
// more tiles than that: then nothing is split. Each item has four int32 and a flag in the lists, each sequence an entry
// more, each token one; split items have partial results of all heads. In a captured plan tiles count as split.
inline FlashinferBytes flashinfer_bytes(const AttentionShape& shape, const AttentionLimits& limits,
                                        int num_multiprocessors) {
  constexpr int64_t kMostTileRows = 128, kLeastTileRows = 16, kBlocksOfMultiprocessor = 32, kAlignment = 16 * 16;
  const int64_t group = shape.num_heads / shape.num_kv_heads, rows = limits.max_tokens * group;
  const int64_t decode_items = kBlocksOfMultiprocessor * num_multiprocessors / shape.num_kv_heads + 1;
  const int64_t prefill_items = 2 * num_multiprocessors / shape.num_kv_heads + 1;  // two blocks a multiprocessor
  const int64_t tiles = (rows + kLeastTileRows - 1) / kLeastTileRows + limits.max_seqs;

  int64_t split_rows = prefill_items * kMostTileRows;
  if (limits.is_captured) split_rows += rows + limits.max_seqs * kMostTileRows;
  const int64_t partial_rows = std::max(decode_items, split_rows / group + 1);
  const int64_t items = std::max(decode_items, prefill_items) + tiles;
  return {.floats = partial_rows * shape.num_heads * (shape.head_dim + 1) * 4 + kAlignment,
          .lists = items * (4 * 4 + 1) + (limits.max_seqs + limits.max_tokens + 4) * 4 + kAlignment};
}

}  // namespace lane::cuda::attention
