#pragma once
#include <cstdint>

namespace lane::cuda::attention {

// The blocks of a batch in the form that FlashInfer wants: without gaps, one sequence after the other.
struct PageLists {
  const int32_t *kv_length, *block_tables;  // as in AttentionBatch
  int num_seqs, max_blocks, block_tokens;
  int32_t* starts;       // [num_seqs + 1] first page of each sequence
  int32_t* pages;        // [starts[num_seqs]]
  int32_t* last_tokens;  // [num_seqs] tokens in a sequence's last page
};
void list_pages(const PageLists& lists, void* stream);

}  // namespace lane::cuda::attention
