#pragma once
#include <cstdint>

#include "lane/attention/attention.h"

// What the CPU backends have in common: where things lie, and how new keys and values get into the cache.
namespace lane {

// One sequence of a batch.
struct SequenceView {
  int64_t first_token, num_tokens;  // new tokens, among the packed ones
  int64_t first_position;           // of the first new token
  const int32_t* blocks;
};
SequenceView sequence_of(const AttentionBatch& batch, int64_t index);

// First position that the query at `position` sees.
inline int64_t first_visible(int64_t position, int window) {
  return window > 0 && position >= window ? position - window + 1 : 0;
}

// Where one kv head of the cache lies.
struct HeadPages {
  const char* base;     // of block 0
  int64_t block_bytes;  // from one block to the next, all heads
  int64_t row_bytes;    // one token
  int64_t block_tokens, num_blocks;

  const char* row(const int32_t* blocks, int64_t position) const {
    const int64_t block = blocks[position / block_tokens];
    ensure(block >= 0 && block < num_blocks, "a block table holds blocks of the cache");
    return base + block * block_bytes + position % block_tokens * row_bytes;
  }
};
HeadPages pages_of(TensorView keys_or_values, int kv_head);

// Everything that run() demands of its arguments.
void check_arguments(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, KvView cache,
                     TensorView out);

// Rounds `count` floats to `dtype`, to nearest even.
using NarrowRow = void (*)(const float* from, int64_t count, DType dtype, void* to);
void narrow_plainly(const float* from, int64_t count, DType dtype, void* to);

// Puts the keys and values of the new tokens into their pages.
void write_kv(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, KvView cache, NarrowRow narrow,
              ThreadPool& threads);

// Empty, or why no CPU backend computes this.
std::string why_not_on_cpu(const AttentionShape& shape, DType kv_dtype, Device device);

}  // namespace lane
