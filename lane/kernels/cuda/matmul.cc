#include "lane/kernels/cuda/blas.cuh"
#include "lane/kernels/cuda/skinny.cuh"

namespace lane::kernels::impl {

void cuda_matmul(TensorView x, const DeviceMatrix& weight, TensorView bias, TensorView out, Stream& stream) {
  if (out.count() == 0) return;
  if (lane::cuda::is_skinny(x, weight, bias, out)) {
    const auto cut = lane::cuda::choose_cut(x.rows(), weight.n, weight.k, false);
    lane::cuda::skinny_matmul(x, weight, bias, out, false, cut, stream);
  } else {
    lane::cuda::blas_matmul(x, weight, bias, out, stream);
  }
}

void cuda_matmul_silu_mul(TensorView x, const DeviceMatrix& gate_up, TensorView bias, TensorView scratch,
                          TensorView out, Stream& stream) {
  if (out.count() == 0) return;
  if (lane::cuda::is_skinny(x, gate_up, bias, out)) {
    const auto cut = lane::cuda::choose_cut(x.rows(), gate_up.n, gate_up.k, true);
    lane::cuda::skinny_matmul(x, gate_up, bias, out, true, cut, stream);
  } else {
    lane::cuda::blas_matmul(x, gate_up, bias, scratch, stream);
    cuda_silu_mul(scratch, out, stream);
  }
}

}  // namespace lane::kernels::impl
