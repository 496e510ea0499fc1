#include "lane/attention/cuda/decode.cuh"
#include "lane/attention/cuda/start.cuh"

namespace lane::cuda::attention {

void decode_attention(const AttentionArgs& args, DType type, const KernelLaunch& launch) {
  with_half(type, [&](auto element) {
    with_head_dim(args.head_dim, [&](auto dim) {
      using T = decltype(element);
      using Shape = DecodeShape<T, decltype(dim)::value>;
      start(decode_kernel<T, decltype(dim)::value>,
            {args.grid_chunks, int64_t{args.num_kv_heads} * args.row_tiles, args.num_seqs}, Shape::kWarps * 32,
            Shape::kSharedBytes, args, launch, "launching attention of a decode step");
    });
  });
}

}  // namespace lane::cuda::attention
