#pragma once
#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/scheduler.cuh>

#include "lane/attention/cuda/flashinfer/common.cuh"

namespace lane::cuda::attention {

template <class T>
struct FlashinferPrefill {
  using Params = flashinfer::BatchPrefillPagedParams<T, T, T, int32_t>;

  static FlashinferPlan plan(const FlashinferBatch& batch, const FlashinferSpace& space, void* pinned, void* stream) {
    flashinfer::PrefillPlanInfo info;
    const auto dim = static_cast<uint32_t>(batch.head_dim);
    const bool is_uniform = batch.num_tokens == batch.num_seqs * batch.max_query;
    translated([&] {
      check(flashinfer::PrefillPlan<int32_t>(
                space.floats, static_cast<size_t>(space.float_bytes), space.lists, pinned,
                static_cast<size_t>(space.list_bytes), info, batch.query_start, batch.page_start,
                static_cast<uint32_t>(batch.num_tokens), static_cast<uint32_t>(batch.num_seqs),
                static_cast<uint32_t>(batch.num_heads), static_cast<uint32_t>(batch.num_kv_heads), dim, dim,
                static_cast<uint32_t>(batch.block_tokens), batch.is_captured, sizeof(T), /*window_left=*/-1,
                /*fixed_split_size=*/-1, /*disable_split_kv=*/false, /*num_colocated_ctas=*/0,
                /*uniform_q_len=*/is_uniform ? batch.max_query : 0, static_cast<cudaStream_t>(stream), sizeof(T)),
            "planning FlashInfer's prefill");
    });
    return info.ToVector();
  }

  static void run(const FlashinferRun& run, const FlashinferPlan& plan, const FlashinferSpace& space) {
    flashinfer::PrefillPlanInfo info;
    info.FromVector(plan);
    Params params;
    fill_params<T>(run, params);
    params.q_indptr = const_cast<int32_t*>(run.args.query_start);
    params.group_size = flashinfer::uint_fastdiv(static_cast<uint32_t>(run.args.num_heads / run.args.num_kv_heads));
    params.request_indices = at_offset<int32_t>(space.lists, info.request_indices_offset);
    params.qo_tile_indices = at_offset<int32_t>(space.lists, info.qo_tile_indices_offset);
    params.kv_tile_indices = at_offset<int32_t>(space.lists, info.kv_tile_indices_offset);
    params.o_indptr = at_offset<int32_t>(space.lists, info.o_indptr_offset);
    params.kv_chunk_size_ptr = at_offset<int32_t>(space.lists, info.kv_chunk_size_ptr_offset);
    params.padded_batch_size = static_cast<uint32_t>(info.padded_batch_size);
    params.max_total_num_rows = static_cast<uint32_t>(info.total_num_rows);
    T* partials = nullptr;
    float* sums = nullptr;
    if (info.split_kv) {
      params.merge_indptr = at_offset<int32_t>(space.lists, info.merge_indptr_offset);
      partials = at_offset<T>(space.floats, info.v_offset);
      sums = at_offset<float>(space.floats, info.s_offset);
    }
    if (info.enable_cuda_graph) {
      params.block_valid_mask = at_offset<bool>(space.lists, info.block_valid_mask_offset);
      params.total_num_rows = at_offset<uint32_t>(space.lists, info.total_num_rows_offset);
    }
    translated([&] {
      with_flashinfer_dim(run.args.head_dim, [&](auto dim) {
        launch<decltype(dim)::value>(params, static_cast<uint32_t>(info.cta_tile_q), partials, sums, run);
      });
    });
  }

  template <uint32_t kDim>
  static void launch(const Params& params, uint32_t tile_rows, T* partials, float* sums, const FlashinferRun& run) {
    const auto with_rows = [&](auto rows) {
      return flashinfer::BatchPrefillWithPagedKVCacheDispatched<
          /*SAME_KV_STRIDES=*/true, decltype(rows)::value, kDim, kDim, kNoRotation, /*USE_FP16_QK_REDUCTION=*/false,
          flashinfer::MaskMode::kCausal, FlashinferVariant>(params, partials, sums, run.is_chained,
                                                            static_cast<cudaStream_t>(run.stream));
    };
    cudaError_t status = cudaErrorInvalidValue;
    if (tile_rows == 16) status = with_rows(std::integral_constant<uint32_t, 16>{});
    if (tile_rows == 64) status = with_rows(std::integral_constant<uint32_t, 64>{});
    if constexpr (kDim < 256)  // it asks for 128 rows up to a head_dim of 128 alone
      if (tile_rows == 128) status = with_rows(std::integral_constant<uint32_t, 128>{});
    check(status, "launching FlashInfer's prefill");
  }

  static constexpr FlashinferPhase kPhase = {plan, run};
};

}  // namespace lane::cuda::attention
