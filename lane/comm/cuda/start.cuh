// How kernels are launched, and the choice of a template's instance at run time.
#pragma once
#include <utility>

#include "lane/comm/cuda/launch.cuh"
#include "lane/comm/cuda/region.cuh"
#include "lane/device/cuda/native.cuh"

namespace lane::cuda {

template <class... Params, class... Args>
void start(void (*kernel)(Params...), const Launch& launch, Args&&... args) {
  cudaLaunchAttribute attributes[2];
  int count = 0;
  if (launch.is_chained) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (launch.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = static_cast<unsigned>(launch.cluster);
    attributes[count].val.clusterDim.y = attributes[count].val.clusterDim.z = 1;
    ++count;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(launch.blocks));
  config.blockDim = dim3(static_cast<unsigned>(launch.threads));
  config.stream = launch.stream;
  config.attrs = attributes;
  config.numAttrs = static_cast<unsigned>(count);
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...), "launching a collective");
}

// Calls f(T{}) with the element type.
template <class F>
void with_type(DType type, F&& f) {
  switch (type) {
    case DType::kF32:
      return f(float{});
    case DType::kBF16:
      return f(__nv_bfloat16{});
    case DType::kF16:
      return f(__half{});
    default:
      throw Error(ErrorCode::kUnsupported,
                  "sums on a GPU are of float32, bfloat16 or float16, not of " + std::string(name_of(type)));
  }
}
template <auto kValue>
struct Constant {
  static constexpr auto value = kValue;
};
template <class F>
void with_op(ReduceOp op, F&& f) {
  switch (op) {
    case ReduceOp::kSum:
      return f(Constant<ReduceOp::kSum>{});
    case ReduceOp::kMax:
      return f(Constant<ReduceOp::kMax>{});
    case ReduceOp::kMin:
      return f(Constant<ReduceOp::kMin>{});
    case ReduceOp::kProd:
      return f(Constant<ReduceOp::kProd>{});
    case ReduceOp::kAvg:
      return f(Constant<ReduceOp::kAvg>{});
  }
}

inline bool is_whole(const void* in, const void* out, int64_t bytes) {
  return (reinterpret_cast<uintptr_t>(in) | reinterpret_cast<uintptr_t>(out) | static_cast<uintptr_t>(bytes)) %
             kLineBytes ==
         0;
}
inline int64_t lines_of(int64_t bytes) { return (bytes + kLineBytes - 1) / kLineBytes; }

// Loads a kernel onto the current device.
void remember(const void* kernel);

}  // namespace lane::cuda
