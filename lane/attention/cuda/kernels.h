// The kernels of attention as functions: enqueued on a CUDA stream, capture-safe. A launch that fails throws.
#pragma once
#include "lane/attention/attention.h"
#include "lane/attention/cuda/args.h"

namespace lane::cuda::attention {

struct KernelLaunch {
  bool is_chained = true;  // programmatic dependent launch
  void* stream = nullptr;  // a cudaStream_t
};

// `type` of qkv and out, `cache` of keys and values: each float32, bfloat16 or float16.
void write_kv(const AttentionArgs& args, DType type, DType cache, const KernelLaunch& launch);
// Of tokens whose keys and values have been written. head_dim up to kMostPlainDim.
inline constexpr int kMostPlainDim = 256;
void plain_attention(const AttentionArgs& args, DType type, DType cache, const KernelLaunch& launch);

// Matrix instructions: `type`, bfloat16 or float16, is that of everything; head_dim 64, 96, 128, 256; blocks of a
// multiple of 16 tokens. The first takes sequences of up to row_tiles * 16 rows (group * new tokens) and writes their
// keys and values itself, the second those of more, whose keys and values have been written.
void decode_attention(const AttentionArgs& args, DType type, const KernelLaunch& launch);
void prefill_attention(const AttentionArgs& args, DType type, const KernelLaunch& launch);
// direct.cuh on its own: a kernel for what takes_direct() (work.h) says.
void direct_attention(const DirectArgs& args, DType type, const KernelLaunch& launch);
bool has_head_dim(int head_dim);
int shared_bytes(int head_dim);  // of the block of either that needs more

}  // namespace lane::cuda::attention
