#include <algorithm>

#include "lane/attention/cuda/direct.cuh"
#include "lane/attention/cuda/start.cuh"
#include "lane/attention/cuda/work.h"

namespace lane::cuda::attention {

// Two blocks on each multiprocessor of an H200.
constexpr int64_t kDirectBlocks = 264;

void direct_attention(const DirectArgs& args, DType type, const KernelLaunch& launch) {
  ensure(args.a.head_dim == 64 || args.a.head_dim == 128, "direct attention takes a head_dim of 64 or 128");
  const int64_t items = int64_t{args.a.num_seqs} * args.a.num_kv_heads * args.a.grid_chunks;
  const Grid grid{std::min(items, kDirectBlocks), 1, 1};
  with_half(type, [&](auto element) {
    using T = decltype(element);
    const auto run = [&](auto dim) {
      using Shape = DirectShape<T, decltype(dim)::value>;
      start(direct_kernel<T, decltype(dim)::value>, grid, Shape::kWarps * 32, Shape::kSharedBytes, args, launch,
            "launching direct attention of a decode step");
    };
    args.a.head_dim == 64 ? run(HeadDim<64>{}) : run(HeadDim<128>{});
  });
}

}  // namespace lane::cuda::attention
