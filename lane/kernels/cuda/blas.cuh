// Products through cuBLASLt.
#pragma once
#include "lane/kernels/impl/backend.h"

namespace lane::cuda {

// out[m, n] = x[m, k] W[n, k]^T + bias, all of one type (float32 without TF32, bfloat16, float16), accumulated in
// float32. `candidate` is a place in the list of algorithms that the library's heuristics give for a shape, best first;
// beyond its end the last is taken. The list is asked for once and kept, so that a captured graph and an eager call
// agree.
void blas_matmul(TensorView x, const kernels::impl::DeviceMatrix& weight, TensorView bias, TensorView out,
                 Stream& stream, int candidate = 0);

}  // namespace lane::cuda
