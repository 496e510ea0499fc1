// What is said on a machine without a GPU that works, for a build with CUDA.
#include "lane/device/cuda/failure.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "lane/device/cuda/native.cuh"
#include "lane/device/memory_error.h"

namespace lane::cuda {
namespace {

TEST(WhyNoGpu, SaysWhatIsNeeded) {
  struct Case {
    cudaError_t status;
    int driver, runtime;
    std::vector<const char*> words;
  };
  const std::vector<Case> cases = {
      {cudaErrorInsufficientDriver, 0, 13000, {"no NVIDIA driver on this machine", "580 or newer", "CUDA 13.0"}},
      {cudaErrorInsufficientDriver, 12020, 13010, {"too old", "for CUDA 12.2", "made with CUDA 13.1", "driver 580"}},
      {cudaErrorInsufficientDriver, 11040, 12080, {"for CUDA 11.4", "driver 525", "a toolkit of at most 11.4"}},
      {cudaErrorInsufficientDriver, 13000, 14000, {"install a driver made for CUDA 14.0"}},
      {cudaErrorNoDevice, 13000, 13000, {"shows no GPU", "CUDA_VISIBLE_DEVICES"}},
      {cudaErrorSystemDriverMismatch, 13000, 13000, {"different versions", "reboot"}},
      {cudaErrorSystemNotReady, 13000, 13000, {"nvidia-fabricmanager"}},
      {cudaErrorDevicesUnavailable, 13000, 13000, {"another process", "compute mode"}},
      {cudaErrorUnknown, 13000, 13000, {"no GPU can be used: ", "driver for CUDA 13.0"}},
  };
  for (const Case& c : cases) {
    const std::string text = why_no_gpu(c.status, c.driver, c.runtime);
    for (const char* word : c.words) EXPECT_NE(text.find(word), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  }
}

std::string words_of(cudaError_t status, ErrorCode code) {
  try {
    check(status, "testing");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

TEST(Failure, IsWordedByWhatCanBeDoneAboutIt) {
  EXPECT_NO_THROW(check(cudaSuccess, "testing"));
  EXPECT_THROW(check(cudaErrorMemoryAllocation, "testing"), DeviceMemoryError);
  EXPECT_NE(words_of(cudaErrorMemoryAllocation, ErrorCode::kDevice).find("--tp"), std::string::npos);
  EXPECT_NE(words_of(cudaErrorIllegalAddress, ErrorCode::kDevice).find("cannot use the GPU any more"),
            std::string::npos);
  EXPECT_NE(words_of(cudaErrorNoKernelImageForDevice, ErrorCode::kUnsupported).find("compiled for"), std::string::npos);
  EXPECT_NE(words_of(cudaErrorECCUncorrectable, ErrorCode::kDevice).find("Xid"), std::string::npos);
  EXPECT_NE(words_of(cudaErrorNoDevice, ErrorCode::kUnsupported).find("nvidia-smi"), std::string::npos);
  EXPECT_NE(words_of(cudaErrorInvalidValue, ErrorCode::kDevice).find("while testing: invalid argument"),
            std::string::npos);
}

}  // namespace
}  // namespace lane::cuda
