#include "lane/attention/cuda/backends.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "lane/attention/cuda/device.h"
#include "lane/attention/cuda/flashinfer/flashinfer.h"

namespace lane {
namespace cuda::attention {
namespace {

bool is_float(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16; }

// 0 where the device or the driver is missing.
int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, which, device) == cudaSuccess) return value;
  cudaGetLastError();
  return 0;
}

}  // namespace

std::string why_not_on_gpu(const AttentionShape& shape, DType kv_dtype, Device device) {
  if (device.kind != DeviceKind::kCuda) return "it runs on GPUs";
  int major = 0;
  const cudaError_t status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return fmt::format("GPU {}: {}", device.index, cudaGetErrorString(status));
  }
  if (major < 8)
    return fmt::format("GPU {} has compute capability {}.{}; 8.0 or newer is needed", device.index, major,
                       attribute(cudaDevAttrComputeCapabilityMinor, device.index));
  if (!is_float(shape.dtype) || !is_float(kv_dtype))
    return fmt::format("activations of {} over a cache of {}: it takes float32, bfloat16 and float16",
                       name_of(shape.dtype), name_of(kv_dtype));
  if (shape.num_heads < 1 || shape.num_kv_heads < 1 || shape.num_heads % shape.num_kv_heads != 0)
    return fmt::format("{} heads cannot share {} kv heads evenly", shape.num_heads, shape.num_kv_heads);
  if (shape.head_dim < 1 || shape.block_tokens < 1)
    return fmt::format("head_dim {} and block_tokens {} must be positive", shape.head_dim, shape.block_tokens);
  return {};
}

int max_shared_bytes(Device device) { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device.index); }
bool has_dependent_launch(Device device) { return attribute(cudaDevAttrComputeCapabilityMajor, device.index) >= 9; }

}  // namespace cuda::attention

std::vector<const AttentionBackend*> cuda_attention_backends() {
  return {&flashinfer_attention(), &cuda_flash_attention(), &cuda_reference_attention()};
}

}  // namespace lane
