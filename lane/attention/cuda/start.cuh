// How the kernels of attention are launched.
#pragma once
#include <cuda_runtime_api.h>

#include "lane/attention/cuda/kernels.h"
#include "lane/attention/cuda/ptx.cuh"
#include "lane/device/cuda/native.cuh"

namespace lane::cuda::attention {

struct Grid {
  int64_t x, y, z;
};

template <class Args>
void start(void (*kernel)(Args), Grid grid, int threads, int shared, const Args& args, const KernelLaunch& launch,
           const char* doing) {
  if (grid.x * grid.y * grid.z == 0) return;
  ensure(grid.y <= 65535 && grid.z <= 65535, "a grid has at most 65535 heads and sequences");
  if (shared > 48 * 1024)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               shared),
          doing);
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared);
  config.stream = static_cast<cudaStream_t>(launch.stream);
  config.attrs = &attribute;
  config.numAttrs = launch.is_chained ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, args), doing);
}

// Calls f(T{}) with the type of the kernels' elements.
template <class F>
void with_half(DType type, F&& f) {
  if (type == DType::kBF16) return f(BF16{});
  if (type == DType::kF16) return f(F16{});
  throw Error(ErrorCode::kBug, "matrix instructions take bfloat16 and float16");
}
template <class F>
void with_float(DType type, F&& f) {
  if (type == DType::kF32) return f(float{});
  with_half(type, f);
}

template <int kValue>
struct HeadDim {
  static constexpr int value = kValue;
};
template <class F>
void with_head_dim(int head_dim, F&& f) {
  if (head_dim == 64) return f(HeadDim<64>{});
  if (head_dim == 96) return f(HeadDim<96>{});
  if (head_dim == 128) return f(HeadDim<128>{});
  if (head_dim == 256) return f(HeadDim<256>{});
  throw Error(ErrorCode::kBug, "there are kernels for a head_dim of 64, 96, 128 and 256");
}

}  // namespace lane::cuda::attention
