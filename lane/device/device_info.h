#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "lane/device/stream.h"

namespace lane {

// A GPU as its driver describes it, at this moment.
struct DeviceInfo {
  std::string name;  // "NVIDIA H200"
  int sm = 0;        // compute capability x 10: 90
  int num_multiprocessors = 0;
  int64_t memory_bytes = 0, free_memory_bytes = 0;
  std::string uuid;  // the same in every process
};
DeviceInfo device_info(Device gpu);

// Empty, or why this build's kernels do not run on `gpu`, and what would.
std::string why_not_usable(const DeviceInfo& gpu);
// `architectures`: what they were compiled for, as CMake lists it: "80-real 90-real 100".
std::string why_not_usable(const DeviceInfo& gpu, std::string_view architectures);

// The GPUs that this process may use: 0 where there is no driver, none is visible, or this build has no CUDA, and then
// `why_none` says which.
int num_gpus(std::string* why_none = nullptr);

}  // namespace lane
