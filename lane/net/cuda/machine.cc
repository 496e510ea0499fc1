#include <fmt/format.h>

#include <array>
#include <fstream>

#include "lane/base/settings.h"
#include "lane/device/cuda/native.cuh"
#include "lane/net/cuda/fillers.h"
#include "lane/net/timing.h"

namespace lane::net {

void require_cuda_build() {}

namespace cuda {
namespace {

using lane::cuda::check;

// From "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep ...": the first word made of digits and two
// dots or one; empty where the driver shows no such file.
std::string kernel_driver() {
  std::ifstream file("/proc/driver/nvidia/version");
  for (std::string word; file >> word;)
    if (word.find('.') != std::string::npos && word.find_first_not_of("0123456789.") == std::string::npos) return word;
  return "";
}

}  // namespace

std::string describe_gpu(int device_index) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device_index), "asking for the properties of the device");
  std::array<char, 32> address{};
  check(cudaDeviceGetPCIBusId(address.data(), static_cast<int>(address.size()), device_index),
        "asking for the address of the device");
  int khz = 0;
  check(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, device_index), "asking for the clock of the device");
  return fmt::format("{} at {}, up to {} MHz", properties.name, address.data(), khz / 1000);
}

std::string describe_driver() {
  int version = 0, runtime = 0;
  check(cudaDriverGetVersion(&version), "asking for the driver's version");
  check(cudaRuntimeGetVersion(&runtime), "asking for the runtime's version");
  const std::string kernel = kernel_driver();
  return fmt::format("driver {}{}CUDA {}.{}, runtime {}.{}", kernel, kernel.empty() ? "" : ", ", version / 1000,
                     version % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
}

int local_device(const Communicator& group) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("--device cuda: this host has no GPU that CUDA can use ({})",
                            status != cudaSuccess ? cudaGetErrorString(status) : "none found"));
  const bool emulated = !setting("LANE_HOST").empty();
  return (emulated ? group.rank() : host_place(group).local_rank) % count;
}

}  // namespace cuda
}  // namespace lane::net
