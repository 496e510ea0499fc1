#include "lane/device/cuda/failure.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "lane/base/units.h"
#include "lane/device/cuda/native.cuh"
#include "lane/device/impl/backend.h"
#include "lane/device/memory_error.h"

namespace lane::cuda {
namespace {

std::string text_of_version(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

// The oldest driver that runs programs of a toolkit, up to its last minor version (CUDA compatibility guide, "minor
// version compatibility").
std::string oldest_driver(int runtime_version) {
  if (runtime_version / 1000 == 12) return "driver 525 or newer";
  if (runtime_version / 1000 == 13) return "driver 580 or newer";
  return "a driver made for CUDA " + text_of_version(runtime_version) + " or newer";
}

// The GPU that this thread uses. Asks as little as can be: it is called when things are broken.
std::string current_gpu() {
  int index = -1;
  cudaDeviceProp properties{};
  if (cudaGetDevice(&index) != cudaSuccess || index < 0) return "the GPU";
  const bool is_known = cudaGetDeviceProperties(&properties, index) == cudaSuccess;
  return is_known ? fmt::format("GPU {} ({})", index, properties.name) : fmt::format("GPU {}", index);
}

// After these a process cannot use its GPU any more: every later call returns the same.
bool ends_the_context(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
      return true;
    default:
      return false;
  }
}
bool is_hardware(cudaError_t status) {
  return status == cudaErrorECCUncorrectable || status == cudaErrorNvlinkUncorrectable;
}

}  // namespace

std::string why_no_gpu(int status, int driver_version, int runtime_version) {
  const auto error = static_cast<cudaError_t>(status);
  const std::string made_with = text_of_version(runtime_version), driver = text_of_version(driver_version);
  switch (error) {
    case cudaErrorInsufficientDriver:
      if (driver_version == 0)
        return fmt::format(
            "there is no NVIDIA driver on this machine (or it was not passed into this container: docker "
            "run --gpus all); this build, made with CUDA {}, needs {}",
            made_with, oldest_driver(runtime_version));
      return fmt::format(
          "the NVIDIA driver is too old: it is for CUDA {}, and this build was made with CUDA {}; install "
          "{}, or build with a toolkit of at most {}",
          driver, made_with, oldest_driver(runtime_version), driver);
    case cudaErrorNoDevice:
      return "the NVIDIA driver shows no GPU to this process; look at nvidia-smi and CUDA_VISIBLE_DEVICES";
    case cudaErrorInvalidDevice:
      return "there is no such GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES";
    case cudaErrorSystemDriverMismatch:
      return "the NVIDIA driver's library and its kernel module are of different versions, as after an update; reboot "
             "this machine";
    case cudaErrorSystemNotReady:
      return "the NVIDIA driver is not ready; on a machine with NVSwitches, start nvidia-fabricmanager";
    case cudaErrorCompatNotSupportedOnDevice:
      return fmt::format(
          "CUDA's compatibility library does not support this GPU; take it out of LD_LIBRARY_PATH and "
          "install {}",
          oldest_driver(runtime_version));
    case cudaErrorDevicesUnavailable:
      return "another process has the GPU for itself, or nobody may compute on it; look at its compute mode in "
             "nvidia-smi -q";
    default:
      return fmt::format("no GPU can be used: {} (driver for CUDA {}, this build made with {})",
                         cudaGetErrorString(error), driver, made_with);
  }
}

void fail(cudaError_t status, const char* doing) {
  cudaGetLastError();  // else it would be taken for a later call's
  const char* const words = cudaGetErrorString(status);
  switch (status) {
    case cudaErrorMemoryAllocation: {
      size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      throw DeviceMemoryError(fmt::format("out of memory on {} while {}: {} of {} are free. {}", current_gpu(), doing,
                                          format_bytes(static_cast<double>(free)),
                                          format_bytes(static_cast<double>(total)), kMemoryRemedy));
    }
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorDevicesUnavailable: {
      int driver = 0, runtime = 0;
      cudaDriverGetVersion(&driver);
      cudaRuntimeGetVersion(&runtime);
      throw Error(ErrorCode::kUnsupported, why_no_gpu(status, driver, runtime));
    }
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{} cannot run this build's kernels ({}): they were compiled for {}; configure with its "
                              "architecture in -DCMAKE_CUDA_ARCHITECTURES",
                              current_gpu(), words, impl::cuda_architectures()));
    default:
      break;
  }
  if (ends_the_context(status))
    throw Error(ErrorCode::kDevice,
                fmt::format("a kernel failed on {}: {} (noticed while {}). This process cannot use the GPU any more. "
                            "compute-sanitizer names the kernel, with --enforce-eager; please report it",
                            current_gpu(), words, doing));
  if (is_hardware(status))
    throw Error(ErrorCode::kDevice, fmt::format("{} reports a fault: {} (noticed while {}); look at nvidia-smi -q and "
                                                "for Xid in the kernel's log, and reset the GPU",
                                                current_gpu(), words, doing));
  throw Error(ErrorCode::kDevice, fmt::format("CUDA failed on {} while {}: {}", current_gpu(), doing, words));
}

}  // namespace lane::cuda
