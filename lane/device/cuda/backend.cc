#include "lane/device/impl/backend.h"

#include "lane/device/cuda/native.cuh"

namespace lane::impl {
namespace {

class BorrowedStream : public StreamBackend {
 public:
  explicit BorrowedStream(cudaStream_t stream) : stream_(stream) {}
  void synchronize() override { cuda::check(cudaStreamSynchronize(stream_), "waiting for a stream"); }
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

void* cuda_allocate(int device_index, int64_t bytes) {
  void* memory = nullptr;
  cuda::check(cudaSetDevice(device_index), "choosing the device of an allocation");
  cuda::check(cudaMalloc(&memory, static_cast<size_t>(bytes)), "allocating device memory");
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
