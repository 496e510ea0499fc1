// Products through cuBLASLt.
#pragma once
#include "lane/kernels/impl/backend.h"

namespace lane::cuda {

// out[m, n] = x[m, k] W[n, k]^T + bias, all of one type (float32 without TF32, bfloat16, float16), accumulated in
// float32. The algorithm for a shape is asked for once and kept, so that a captured graph and an eager call agree.
void blas_matmul(TensorView x, const kernels::impl::DeviceMatrix& weight, TensorView bias, TensorView out,
                 Stream& stream);

}  // namespace lane::cuda
