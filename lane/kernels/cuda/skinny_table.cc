#include "lane/kernels/cuda/skinny.cuh"

namespace lane::cuda {

SkinnyCut choose_cut(int64_t, int64_t, int64_t, bool) { return {.blocks_per_sm = 1, .ring_kib = 100, .ahead = 0}; }

}  // namespace lane::cuda
