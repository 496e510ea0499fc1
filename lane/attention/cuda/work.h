// Which kernels a batch needs and how large they are: what the host decides, as functions of numbers alone.
#pragma once
#include "lane/attention/attention.h"
#include "lane/attention/cuda/args.h"

namespace lane::cuda::attention {

// run()'s arguments as the kernels take them, without work space.
AttentionArgs args_of(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, int window,
                      KvView cache, TensorView out);

// A sequence of up to row_tiles() * 16 rows, and at least of one new token, goes to the decode kernel: a property of
// the sequence, so that its bits are the same in any company.
int row_tiles(const AttentionShape& shape);

// The kernels for a batch. A batch whose sequences may be of both kinds needs both.
struct Steps {
  bool decodes, prefills;
};
Steps steps_of(const AttentionShape& shape, const AttentionBatch& batch);

// The decode kernel's work space, for batches within the limits. `max_query` is limits' unless it is known better.
struct DecodeSpace {
  int grid_chunks, partial_rows;
  int64_t partial_floats, num_counters;
};
DecodeSpace decode_space(const AttentionShape& shape, int64_t num_seqs, int64_t max_query, int64_t max_kv, int window);

// Of direct.cuh: whether it takes a shape of bfloat16 or float16, and its work space, in which num_counters are zero
// before the first step.
bool takes_direct(const AttentionShape& shape);
DecodeSpace direct_space(const AttentionShape& shape, int64_t num_seqs, int64_t max_kv, int window);

}  // namespace lane::cuda::attention
