#include <algorithm>

#include "lane/kernels/cuda/skinny.cuh"

namespace lane::cuda {

// A rule until there is a table of measurements: as many blocks as keep an H200's 132 SMs busy twice over, made first
// by splitting k; more rows of W to a block the more rows x has, since every block reads all of x.
SkinnyCut choose_cut(int64_t m, int64_t n, int64_t k, bool gated) {
  constexpr int64_t kWantedBlocks = 2 * 132, kLeastSteps = 4, kWarps = 8, kStep = 32;
  SkinnyCut cut{.row_tiles = m <= 8 ? 1 : 2, .split = 1};
  if (gated) cut.row_tiles = std::max(cut.row_tiles, 2);
  const int64_t blocks = (n + 16 * cut.row_tiles - 1) / (16 * cut.row_tiles);
  while (cut.split < 8 && blocks * cut.split < kWantedBlocks && k >= 2 * cut.split * kWarps * kStep * kLeastSteps)
    cut.split *= 2;
  return cut;
}

}  // namespace lane::cuda
