// FlashInfer's plan and run of one phase and type, without its headers: each pair is a source file of its own, since
// each takes a compiler half a minute.
#pragma once
#include <cstdint>
#include <vector>

#include "lane/attention/cuda/args.h"

namespace lane::cuda::attention {

// Memory that a plan divides up: partial results, and lists with their image in pinned memory of the host.
struct FlashinferSpace {
  void* floats;
  int64_t float_bytes;
  void* lists;
  int64_t list_bytes;
};

struct FlashinferBatch {
  int32_t *query_start, *page_start;  // of the host, [num_seqs + 1]
  int num_seqs, num_tokens, max_query;
  int num_heads, num_kv_heads, head_dim, block_tokens;
  bool is_captured;
};

// What FlashInfer calls plan_info: offsets into the space and the size of the grid.
using FlashinferPlan = std::vector<int64_t>;

struct FlashinferRun {
  AttentionArgs args;
  int32_t *page_start, *pages, *last_page_tokens;  // on the device
  bool is_chained;
  void* stream;
};

struct FlashinferPhase {
  // `pinned` [space.list_bytes] is copied to space.lists on the stream.
  FlashinferPlan (*plan)(const FlashinferBatch& batch, const FlashinferSpace& space, void* pinned, void* stream);
  void (*run)(const FlashinferRun& run, const FlashinferPlan& plan, const FlashinferSpace& space);
};
extern const FlashinferPhase kFlashinferDecodeBF16, kFlashinferDecodeF16;    // one new token each
extern const FlashinferPhase kFlashinferPrefillBF16, kFlashinferPrefillF16;  // any number

}  // namespace lane::cuda::attention
