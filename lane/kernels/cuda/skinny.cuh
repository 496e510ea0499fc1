// Products of a few rows with a large matrix, as decoding has them: bound by reading the matrix once.
#pragma once
#include "lane/kernels/impl/backend.h"

namespace lane::cuda {

// How the work is cut. A block takes 16 * row_tiles rows of W; its 8 warps share the inputs k among them, 32 at a time
// in turns, and `split` blocks of a cluster share them too. So every row of the result is added up in an order that
// depends on this alone, not on the other rows of x.
struct SkinnyCut {
  int row_tiles = 1;  // 1, 2 or 4
  int split = 1;      // 1, 2, 4 or 8
  bool operator==(const SkinnyCut&) const = default;
};

inline constexpr int64_t kSkinnyRows = 32;  // of x, at most

// Whether the kernel takes it: bfloat16 or float16, k a multiple of 8, at most kSkinnyRows rows, 16-byte pointers, a
// GPU of sm_80 or newer (sm_90 for split > 1).
bool is_skinny(const TensorView& x, const kernels::impl::DeviceMatrix& weight, const TensorView& bias,
               const TensorView& out);

// The cut that is taken for a shape, by a measured table (skinny_table.cc).
SkinnyCut choose_cut(int64_t m, int64_t n, int64_t k, bool gated);

// out[m, n] = x[m, k] W[n, k]^T + bias; gated: W holds gate rows, then as many up rows, and out[m, n / 2] is
// silu(gate) * up.
void skinny_matmul(TensorView x, const kernels::impl::DeviceMatrix& weight, TensorView bias, TensorView out, bool gated,
                   const SkinnyCut& cut, Stream& stream);

}  // namespace lane::cuda
