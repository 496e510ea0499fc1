// The only door between our handles and CUDA's.
#pragma once
#include <cuda_runtime_api.h>

#include <string>

#include "lane/base/error.h"
#include "lane/device/stream.h"

namespace lane::cuda {

inline cudaStream_t raw(const Stream& stream) { return static_cast<cudaStream_t>(stream.native()); }

inline void check(cudaError_t status, const char* doing) {
  if (status != cudaSuccess)
    throw Error(ErrorCode::kDevice, std::string("CUDA failed while ") + doing + ": " + cudaGetErrorString(status));
}

}  // namespace lane::cuda
