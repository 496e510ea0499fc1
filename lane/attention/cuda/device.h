#pragma once
#include <string>

#include "lane/attention/attention.h"

namespace lane::cuda::attention {

// Empty, or why no backend for GPUs computes this: the device, the types or the heads.
std::string why_not_on_gpu(const AttentionShape& shape, DType kv_dtype, Device device);

int max_shared_bytes(Device device);       // of a block
bool has_dependent_launch(Device device);  // programmatic: compute capability 9.0

}  // namespace lane::cuda::attention

namespace lane {

// Matrix instructions, this project's own: prompts, and decode steps whose bits depend on the sequence alone.
const AttentionBackend& cuda_flash_attention();
// A warp for each query, key after key, in float32: what the others are compared with. It takes every shape up to a
// head_dim of 256.
const AttentionBackend& cuda_reference_attention();

}  // namespace lane
