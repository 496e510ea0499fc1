#pragma once
#include <flashinfer/attention/decode.cuh>
#include <flashinfer/attention/default_decode_params.cuh>
#include <flashinfer/attention/scheduler.cuh>

#include "lane/attention/cuda/flashinfer/common.cuh"

namespace lane::cuda::attention {

template <class T>
struct FlashinferDecode {
  using Params = flashinfer::BatchDecodeParams<T, T, T, int32_t>;

  template <uint32_t kDim, uint32_t kGroup>
  static cudaError_t plan_for(const FlashinferBatch& batch, const FlashinferSpace& space, void* pinned, void* stream,
                              flashinfer::DecodePlanInfo& info) {
    const auto estimate = flashinfer::BatchDecodeWithPagedKVCacheWorkEstimationDispatched<kGroup, kDim, kNoRotation,
                                                                                          FlashinferVariant, Params>;
    return flashinfer::DecodePlan<kDim, kNoRotation, FlashinferVariant, Params>(
        space.floats, static_cast<size_t>(space.float_bytes), space.lists, pinned,
        static_cast<size_t>(space.list_bytes), info, batch.page_start, static_cast<uint32_t>(batch.num_seqs),
        static_cast<uint32_t>(batch.num_heads), static_cast<uint32_t>(batch.block_tokens), batch.is_captured,
        static_cast<cudaStream_t>(stream), estimate);
  }

  static FlashinferPlan plan(const FlashinferBatch& batch, const FlashinferSpace& space, void* pinned, void* stream) {
    flashinfer::DecodePlanInfo info;
    translated([&] {
      with_flashinfer_dim(batch.head_dim, [&](auto dim) {
        DISPATCH_GQA_GROUP_SIZE(batch.num_heads / batch.num_kv_heads, GROUP_SIZE, {
          check((plan_for<decltype(dim)::value, GROUP_SIZE>(batch, space, pinned, stream, info)),
                "planning FlashInfer's decode step");
        });
      });
    });
    return info.ToVector();
  }

  static void run(const FlashinferRun& run, const FlashinferPlan& plan, const FlashinferSpace& space) {
    flashinfer::DecodePlanInfo info;
    info.FromVector(plan);
    Params params;
    fill_params<T>(run, params);
    params.request_indices = at_offset<int32_t>(space.lists, info.request_indices_offset);
    params.kv_tile_indices = at_offset<int32_t>(space.lists, info.kv_tile_indices_offset);
    params.o_indptr = at_offset<int32_t>(space.lists, info.o_indptr_offset);
    params.kv_chunk_size_ptr = at_offset<int32_t>(space.lists, info.kv_chunk_size_ptr_offset);
    params.padded_batch_size = static_cast<uint32_t>(info.padded_batch_size);
    T* partials = nullptr;
    float* sums = nullptr;
    if (info.split_kv) {
      partials = at_offset<T>(space.floats, info.v_offset);
      sums = at_offset<float>(space.floats, info.s_offset);
      if (info.enable_cuda_graph) params.block_valid_mask = at_offset<bool>(space.lists, info.block_valid_mask_offset);
    }
    translated([&] {
      with_flashinfer_dim(run.args.head_dim, [&](auto dim) {
        check((flashinfer::BatchDecodeWithPagedKVCacheDispatched<decltype(dim)::value, kNoRotation, FlashinferVariant>(
                  params, partials, sums, run.is_chained, static_cast<cudaStream_t>(run.stream))),
              "launching FlashInfer's decode step");
      });
    });
  }

  static constexpr FlashinferPhase kPhase = {plan, run};
};

}  // namespace lane::cuda::attention
