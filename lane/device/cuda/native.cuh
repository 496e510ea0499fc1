// The only door between our handles and CUDA's.
#pragma once
#include <cuda_runtime_api.h>

#include "lane/base/error.h"
#include "lane/device/stream.h"

namespace lane::cuda {

inline cudaStream_t raw(const Stream& stream) { return static_cast<cudaStream_t>(stream.native()); }

// Throws what `status` means, on which GPU and what to do about it: DeviceMemoryError for a lack of memory, else
// Error{kDevice} or Error{kUnsupported}.
[[noreturn]] void fail(cudaError_t status, const char* doing);

inline void check(cudaError_t status, const char* doing) {
  if (status != cudaSuccess) fail(status, doing);
}

inline constexpr const char* kMemoryRemedy =
    "Use more ranks (--tp), a shorter --max-model-len, a smaller --max-num-batched-tokens or --gpu-memory-utilization, "
    "or end other programs on the GPU";

}  // namespace lane::cuda
