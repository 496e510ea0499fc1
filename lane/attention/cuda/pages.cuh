#pragma once
#include "lane/attention/cuda/pages.h"
#include "lane/attention/cuda/ptx.cuh"

namespace lane::cuda::attention {

__device__ inline int pages_of(const PageLists& lists, int index) {
  return (lists.kv_length[index] + lists.block_tokens - 1) / lists.block_tokens;
}

// A warp a sequence, each adding up the pages of all before it.
// A template, as all kernels here, so that the emulated ones may be linked beside them.
template <int kUnused = 0>
__global__ void list_pages_kernel(const __grid_constant__ PageLists lists) {
  const int index = block_index().x, lane = lane_index();
  int start = 0;
  for (int before = lane; before < index; before += 32) start += pages_of(lists, before);
  for (int mask = 16; mask > 0; mask /= 2) start += shuffle(start, lane ^ mask);
  const int count = pages_of(lists, index), length = lists.kv_length[index];
  for (int i = lane; i < count; i += 32)
    lists.pages[start + i] = lists.block_tables[int64_t{index} * lists.max_blocks + i];
  if (lane != 0) return;
  lists.starts[index] = start;
  lists.last_tokens[index] = length - (count - 1) * lists.block_tokens;
  if (index == lists.num_seqs - 1) lists.starts[lists.num_seqs] = start + count;
}

}  // namespace lane::cuda::attention
