// Random weights where they are wanted. A thread makes one element from its number alone; four share a random number,
// which each of them makes: some thirty instructions for two bytes, still faster than any disk by far.
#include "lane/base/random.h"
#include "lane/kernels/cuda/launch.cuh"
#include "lane/kernels/cuda/numbers.cuh"
#include "lane/kernels/impl/backend.h"

namespace lane::cuda {
namespace {

using kernels::impl::RandomPart;

constexpr unsigned kThreads = 256;
constexpr int64_t kMostRows = 65535;  // of a grid, along y

template <class T>
__global__ void fill_random_kernel(T* out, int64_t rows, int64_t cols, RandomPart part) {
  wait_for_previous();
  let_next_start();
  const int64_t col = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (col >= cols) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const int64_t number = (part.first_row + row) * part.tensor_cols + part.first_col + col;
    const uint64_t bits = mix64(part.key ^ static_cast<uint64_t>(number / 4));
    const auto quarter = static_cast<int16_t>(bits >> (number % 4 * 16));
    // Product and sum rounded apart, as on the CPU.
    const float offset = __fmul_rn(static_cast<float>(quarter) + 0.5f, part.scale);
    out[row * cols + col] = from_float<T>(__fadd_rn(part.mean, offset));
  }
}

}  // namespace
}  // namespace lane::cuda

namespace lane::kernels::impl {

void cuda_fill_random(TensorView out, const RandomPart& part, Stream& stream) {
  if (out.count() == 0) return;
  using namespace lane::cuda;
  const Grid grid{.blocks = dim3(static_cast<unsigned>((out.cols() + kThreads - 1) / kThreads),
                                 static_cast<unsigned>(std::min(out.rows(), kMostRows))),
                  .threads = kThreads};
  const auto fill = [&](auto type) {
    using T = decltype(type);
    launch(fill_random_kernel<T>, grid, stream, "filling weights", static_cast<T*>(out.data), out.rows(), out.cols(),
           part);
  };
  switch (out.dtype) {
    case DType::kBF16:
      return fill(__nv_bfloat16());
    case DType::kF16:
      return fill(__half());
    default:
      return fill(float());
  }
}

}  // namespace lane::kernels::impl
