#include "lane/device/impl/backend.h"

#include <fmt/format.h>

#include "lane/base/units.h"
#include "lane/device/cuda/failure.h"
#include "lane/device/cuda/native.cuh"

namespace lane::impl {
namespace {

class BorrowedStream : public StreamBackend {
 public:
  explicit BorrowedStream(cudaStream_t stream) : stream_(stream) {}
  void synchronize() override { cuda::check(cudaStreamSynchronize(stream_), "waiting for a stream"); }
  bool is_done() override {
    const cudaError_t status = cudaStreamQuery(stream_);
    if (status != cudaErrorNotReady) cuda::check(status, "looking at a stream");
    return status == cudaSuccess;
  }
  void* native() const override { return stream_; }

 private:
  cudaStream_t stream_;
};

class CudaStream final : public BorrowedStream {
 public:
  explicit CudaStream(int device_index) : BorrowedStream(create(device_index)) {}
  ~CudaStream() override { cudaStreamDestroy(static_cast<cudaStream_t>(native())); }

 private:
  static cudaStream_t create(int device_index) {
    cudaStream_t stream = nullptr;
    cuda::check(cudaSetDevice(device_index), "choosing the device of a stream");
    cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
    return stream;
  }
};

}  // namespace

std::unique_ptr<StreamBackend> make_cuda_stream(int device_index) { return std::make_unique<CudaStream>(device_index); }
std::unique_ptr<StreamBackend> borrow_cuda_stream(void* native) {
  return std::make_unique<BorrowedStream>(static_cast<cudaStream_t>(native));
}

PinnedMemory cuda_pin(int device_index, int64_t bytes) {
  PinnedMemory memory{};
  cuda::check(cudaSetDevice(device_index), "choosing the device of shared memory");
  const cudaError_t status =
      cudaHostAlloc(&memory.host, static_cast<size_t>(bytes), cudaHostAllocMapped | cudaHostAllocPortable);
  if (status == cudaErrorMemoryAllocation) {  // the host's, not the GPU's
    cudaGetLastError();
    throw Error(ErrorCode::kSystem, fmt::format("the system gave no {} of page-locked memory; end other programs, or "
                                                "look at the limits of this container",
                                                format_bytes(static_cast<double>(bytes))));
  }
  cuda::check(status, "allocating host memory for a GPU");
  cuda::check(cudaHostGetDevicePointer(&memory.on_device, memory.host, 0), "showing host memory to a GPU");
  return memory;
}
void cuda_unpin(void* host) noexcept { cudaFreeHost(host); }

DeviceInfo cuda_device_info(int device_index) {
  cudaDeviceProp properties{};
  cuda::check(cudaSetDevice(device_index), "choosing a device");
  cuda::check(cudaGetDeviceProperties(&properties, device_index), "asking what a GPU is");
  size_t free = 0, total = 0;
  cuda::check(cudaMemGetInfo(&free, &total), "asking for free device memory");
  std::string uuid;
  for (const char byte : properties.uuid.bytes)
    for (const int digit : {(byte >> 4) & 15, byte & 15}) uuid += "0123456789abcdef"[digit];
  return {.name = properties.name,
          .sm = 10 * properties.major + properties.minor,
          .num_multiprocessors = properties.multiProcessorCount,
          .memory_bytes = static_cast<int64_t>(total),
          .free_memory_bytes = static_cast<int64_t>(free),
          .uuid = uuid};
}

int cuda_device_count(std::string* why_none) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    *why_none = cuda::why_no_gpu(status, driver, runtime);
    return 0;
  }
  if (count == 0) *why_none = cuda::why_no_gpu(cudaErrorNoDevice, 0, 0);
  return count;
}
std::string cuda_architectures() { return LANE_CUDA_ARCHITECTURES; }

void* cuda_allocate(int device_index, int64_t bytes) {
  void* memory = nullptr;
  cuda::check(cudaSetDevice(device_index), "choosing the device of an allocation");
  const cudaError_t status = cudaMalloc(&memory, static_cast<size_t>(bytes));
  if (status != cudaSuccess) {
    const std::string doing = "allocating " + format_bytes(static_cast<double>(bytes));
    cuda::fail(status, doing.c_str());
  }
  return memory;
}

void cuda_free(int device_index, void* memory) noexcept {
  cudaSetDevice(device_index);
  cudaFree(memory);
}

void cuda_copy_to_device(const void* host, void* device, int64_t bytes, void* native_stream) {
  cuda::check(cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice,
                              static_cast<cudaStream_t>(native_stream)),
              "copying to the device");
}

void cuda_copy_on_device(const void* from, void* to, int64_t bytes, void* native_stream) {
  cuda::check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                              static_cast<cudaStream_t>(native_stream)),
              "copying on the device");
}

void cuda_copy_to_host(const void* device, void* host, int64_t bytes, void* native_stream) {
  const auto stream = static_cast<cudaStream_t>(native_stream);
  cuda::check(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream),
              "copying from the device");
  cuda::check(cudaStreamSynchronize(stream), "waiting for a copy from the device");
}

}  // namespace lane::impl
