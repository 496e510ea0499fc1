#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <flashinfer/attention/variants.cuh>
#include <flashinfer/page.cuh>

#include "lane/attention/cuda/flashinfer/phase.h"
#include "lane/device/cuda/native.cuh"

namespace lane::cuda::attention {

// No custom mask, window, cap or slopes: scale and softmax.
using FlashinferVariant = flashinfer::DefaultAttention<false, false, false, false>;
inline constexpr auto kNoRotation = flashinfer::PosEncodingMode::kNone;  // queries and keys come rotated

// FlashInfer throws an exception of its own.
template <class F>
auto translated(F&& f) {
  try {
    return f();
  } catch (const flashinfer::Error& error) {
    throw Error(ErrorCode::kDevice, std::string("FlashInfer: ") + error.what());
  }
}

template <class F>
void with_flashinfer_dim(int head_dim, F&& f) {
  if (head_dim == 64) return f(std::integral_constant<uint32_t, 64>{});
  if (head_dim == 128) return f(std::integral_constant<uint32_t, 128>{});
  if (head_dim == 256) return f(std::integral_constant<uint32_t, 256>{});
  throw Error(ErrorCode::kBug, "FlashInfer is compiled for a head_dim of 64, 128 and 256");
}

template <class T>
flashinfer::paged_kv_t<T, int32_t> paged_cache(const FlashinferRun& run) {
  const AttentionArgs& a = run.args;
  return {static_cast<uint32_t>(a.num_kv_heads),
          static_cast<uint32_t>(a.block_tokens),
          static_cast<uint32_t>(a.head_dim),
          static_cast<uint32_t>(a.num_seqs),
          flashinfer::QKVLayout::kHND,
          static_cast<T*>(a.keys),
          static_cast<T*>(a.values),
          run.pages,
          run.page_start,
          run.last_page_tokens};
}

// Fields that the parameters of both phases have.
template <class T, class Params>
void fill_params(const FlashinferRun& run, Params& params) {
  const AttentionArgs& a = run.args;
  params.q = static_cast<T*>(const_cast<void*>(a.qkv));
  params.paged_kv = paged_cache<T>(run);
  params.o = static_cast<T*>(a.out);
  params.num_qo_heads = static_cast<uint32_t>(a.num_heads);
  params.q_stride_n = (a.num_heads + 2 * a.num_kv_heads) * a.head_dim;
  params.q_stride_h = a.head_dim;
  params.window_left = -1;
  params.sm_scale = a.scale;
}

template <class T>
T* at_offset(void* base, int64_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(base) + offset);
}

}  // namespace lane::cuda::attention
