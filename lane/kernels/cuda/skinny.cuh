// Products of a few rows with a large matrix, as decoding has them: bound by reading the matrix once.
#pragma once
#include "lane/kernels/impl/backend.h"

namespace lane::cuda {

// How the work is cut. A row of the result is added up in an order that depends on W's shape, the GPU and the cut
// alone: it has the same bits whatever the other rows of x are, and however many.
struct SkinnyCut {
  int blocks_per_sm = 2;
  bool operator==(const SkinnyCut&) const = default;
};

inline constexpr int64_t kSkinnyRows = 16;  // of x, at most

// Whether the kernel takes it: bfloat16 or float16, k a multiple of 8, at most kSkinnyRows rows, 16-byte pointers,
// a GPU of sm_90 or newer (it needs the tensor memory accelerator); others take cuBLASLt.
bool is_skinny(const TensorView& x, const kernels::impl::DeviceMatrix& weight, const TensorView& bias,
               const TensorView& out);

// out[m, n] = x[m, k] W[n, k]^T + bias; gated: W holds gate rows, then as many up rows, and out[m, n / 2] is
// silu(gate) * up.
void skinny_matmul(TensorView x, const kernels::impl::DeviceMatrix& weight, TensorView bias, TensorView out, bool gated,
                   const SkinnyCut& cut, Stream& stream);

}  // namespace lane::cuda
