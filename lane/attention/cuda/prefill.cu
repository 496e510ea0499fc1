#include <algorithm>

#include "lane/attention/cuda/decode.cuh"
#include "lane/attention/cuda/prefill.cuh"
#include "lane/attention/cuda/start.cuh"

namespace lane::cuda::attention {

void prefill_attention(const AttentionArgs& args, DType type, const KernelLaunch& launch) {
  with_half(type, [&](auto element) {
    with_head_dim(args.head_dim, [&](auto dim) {
      using T = decltype(element);
      using Shape = PrefillShape<T, decltype(dim)::value>;
      const int64_t rows = int64_t{args.max_query} * (args.num_heads / args.num_kv_heads);
      start(prefill_kernel<T, decltype(dim)::value>,
            {(rows + Shape::kRows - 1) / Shape::kRows, args.num_kv_heads, args.num_seqs}, Shape::kWarps * 32,
            Shape::kSharedBytes, args, launch, "launching attention of a prompt");
    });
  });
}

bool has_head_dim(int head_dim) { return head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256; }

int shared_bytes(int head_dim) {
  int bytes = 0;
  with_head_dim(head_dim, [&](auto dim) {
    bytes = std::max(DecodeShape<BF16, decltype(dim)::value>::kSharedBytes,
                     PrefillShape<BF16, decltype(dim)::value>::kSharedBytes);
  });
  return bytes;
}

}  // namespace lane::cuda::attention
