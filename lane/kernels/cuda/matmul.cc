#include "lane/kernels/cuda/blas.cuh"
#include "lane/kernels/cuda/matmul_table.cuh"

namespace lane::kernels::impl {

using namespace lane::cuda;

void cuda_matmul(TensorView x, const DeviceMatrix& weight, TensorView bias, TensorView out, Stream& stream) {
  if (out.count() == 0) return;
  const MatmulWay way = choose_way(x.rows(), weight.n, weight.k, false);
  if (way.is_own && is_skinny(x, weight, bias, out))
    skinny_matmul(x, weight, bias, out, false, stream);
  else
    blas_matmul(x, weight, bias, out, stream, way.candidate);
}

void cuda_matmul_silu_mul(TensorView x, const DeviceMatrix& gate_up, TensorView bias, TensorView scratch,
                          TensorView out, Stream& stream) {
  if (out.count() == 0) return;
  const MatmulWay way = choose_way(x.rows(), gate_up.n, gate_up.k, true);
  if (way.is_own && is_skinny(x, gate_up, bias, out)) return skinny_matmul(x, gate_up, bias, out, true, stream);
  blas_matmul(x, gate_up, bias, scratch, stream, way.candidate);
  cuda_silu_mul(scratch, out, stream);
}

}  // namespace lane::kernels::impl
