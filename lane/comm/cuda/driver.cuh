// The driver's functions for virtual memory. They are asked for at run time: Lane links no libcuda, so that one binary
// runs on machines without a driver too.
#pragma once
#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <optional>
#include <string>

#include "lane/base/error.h"
#include "lane/device/cuda/native.cuh"

namespace lane::cuda {

struct Driver {
  PFN_cuGetErrorString_v6000 get_error_string;
  PFN_cuDeviceGet_v2000 device_get;
  PFN_cuDeviceGetAttribute_v2000 device_get_attribute;
  PFN_cuMemGetAllocationGranularity_v10020 get_granularity;
  PFN_cuMemCreate_v10020 create;
  PFN_cuMemRelease_v10020 release;
  PFN_cuMemAddressReserve_v10020 reserve;
  PFN_cuMemAddressFree_v10020 free_address;
  PFN_cuMemMap_v10020 map;
  PFN_cuMemUnmap_v10020 unmap;
  PFN_cuMemSetAccess_v10020 set_access;
  PFN_cuMemExportToShareableHandle_v10020 export_handle;
  PFN_cuMemImportFromShareableHandle_v10020 import_handle;

  std::string words(CUresult status) const {
    const char* text = nullptr;
    const bool is_known = get_error_string(status, &text) == CUDA_SUCCESS && text;
    return is_known ? std::string(text) : "error " + std::to_string(static_cast<int>(status));
  }
  void check(CUresult status, const std::string& doing) const {
    if (status == CUDA_ERROR_OUT_OF_MEMORY) fail(cudaErrorMemoryAllocation, doing.c_str());
    if (status != CUDA_SUCCESS)
      throw Error(ErrorCode::kDevice, "CUDA's driver failed while " + doing + ": " + words(status));
  }
};

// False if this machine's driver, or one that behaves as version `since` did, has no such function.
template <class Function>
bool find_in_driver(const char* name, unsigned since, Function& function) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult result;
  const cudaError_t status = cudaGetDriverEntryPointByVersion(name, &entry, since, cudaEnableDefault, &result);
  if (status != cudaSuccess) cudaGetLastError();  // so that nobody takes it for an error of his own
  if (status != cudaSuccess || result != cudaDriverEntryPointSuccess) return false;
  function = reinterpret_cast<Function>(entry);
  return function != nullptr;
}

// Null if this machine's driver has not all of them.
inline const Driver* find_driver() {
  static const std::optional<Driver> found = []() -> std::optional<Driver> {
    Driver driver;
    const auto find = [](const char* name, unsigned since, auto& function) {
      return find_in_driver(name, since, function);
    };
    const bool has_all = find("cuGetErrorString", 6000, driver.get_error_string) &&
                         find("cuDeviceGet", 2000, driver.device_get) &&
                         find("cuDeviceGetAttribute", 2000, driver.device_get_attribute) &&
                         find("cuMemGetAllocationGranularity", 10020, driver.get_granularity) &&
                         find("cuMemCreate", 10020, driver.create) && find("cuMemRelease", 10020, driver.release) &&
                         find("cuMemAddressReserve", 10020, driver.reserve) &&
                         find("cuMemAddressFree", 10020, driver.free_address) && find("cuMemMap", 10020, driver.map) &&
                         find("cuMemUnmap", 10020, driver.unmap) && find("cuMemSetAccess", 10020, driver.set_access) &&
                         find("cuMemExportToShareableHandle", 10020, driver.export_handle) &&
                         find("cuMemImportFromShareableHandle", 10020, driver.import_handle);
    return has_all ? std::optional(driver) : std::nullopt;
  }();
  return found ? &*found : nullptr;
}

}  // namespace lane::cuda
