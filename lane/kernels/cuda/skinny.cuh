// Products of a few rows with a large matrix, as decoding has them: bound by reading the matrix once.
#pragma once
#include "lane/kernels/impl/backend.h"

namespace lane::cuda {

inline constexpr int64_t kSkinnyRows = 16;  // of x, at most

// Whether the kernel takes it: bfloat16 or float16, k a multiple of 8, at most kSkinnyRows rows, 16-byte pointers,
// and a GPU with 206 KiB of shared memory for a block, which those of sm_90 and sm_100 have; others take cuBLASLt.
bool is_skinny(const TensorView& x, const kernels::impl::DeviceMatrix& weight, const TensorView& bias,
               const TensorView& out);

// out[m, n] = x[m, k] W[n, k]^T + bias; gated: W holds gate rows, then as many up rows, and out[m, n / 2] is
// silu(gate) * up. A row of the result is added up in an order that depends on W's shape and the GPU alone: it has the
// same bits whatever the other rows of x are, and however many.
void skinny_matmul(TensorView x, const kernels::impl::DeviceMatrix& weight, TensorView bias, TensorView out, bool gated,
                   Stream& stream);

}  // namespace lane::cuda
