#include "lane/attention/cuda/plain.cuh"
#include "lane/attention/cuda/start.cuh"

namespace lane::cuda::attention {

static_assert(kPlainDim == kMostPlainDim);

namespace {

int64_t token_blocks(const AttentionArgs& args) { return (args.max_query + kPlainWarps - 1) / kPlainWarps; }

}  // namespace

void write_kv(const AttentionArgs& args, DType type, DType cache, const KernelLaunch& launch) {
  with_float(type, [&](auto element) {
    with_float(cache, [&](auto cached) {
      start(write_kv_kernel<decltype(element), decltype(cached)>,
            {token_blocks(args), args.num_kv_heads, args.num_seqs}, kPlainWarps * 32, 0, args, launch,
            "launching the write of keys and values");
    });
  });
}

void plain_attention(const AttentionArgs& args, DType type, DType cache, const KernelLaunch& launch) {
  with_float(type, [&](auto element) {
    with_float(cache, [&](auto cached) {
      start(plain_kernel<decltype(element), decltype(cached)>, {token_blocks(args), args.num_heads, args.num_seqs},
            kPlainWarps * 32, 0, args, launch, "launching plain attention");
    });
  });
}

}  // namespace lane::cuda::attention
