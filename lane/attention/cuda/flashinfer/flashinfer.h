#pragma once
#include "lane/attention/attention.h"

namespace lane {

// FlashInfer's kernels (Ye et al., FlashInfer: Efficient and Customizable Attention Engine for LLM Inference Serving,
// 2025), compiled from its headers: paged decode, and paged prefill after FlashAttention 2. In a build without them it
// only says how to get them.
const AttentionBackend& flashinfer_attention();

}  // namespace lane
