#include "lane/kernels/cuda/skinny.cuh"

namespace lane::cuda {

SkinnyCut choose_cut(int64_t, int64_t, int64_t, bool) { return {}; }

}  // namespace lane::cuda
