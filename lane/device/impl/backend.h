// Private to lane/device: what a vendor's backend provides. cuda/backend.cc implements it, or no_cuda.cc says why not.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "lane/device/device_info.h"

namespace lane::impl {

class StreamBackend {
 public:
  virtual ~StreamBackend() = default;
  virtual void synchronize() = 0;
  virtual bool is_done() = 0;
  virtual void* native() const = 0;
};

class GraphBackend {
 public:
  virtual ~GraphBackend() = default;
  virtual void launch(void* native_stream) = 0;
};

struct PinnedMemory {
  void *host, *on_device;
};

std::unique_ptr<StreamBackend> make_cuda_stream(int device_index);
std::unique_ptr<StreamBackend> borrow_cuda_stream(void* native);
std::unique_ptr<GraphBackend> record_cuda_graph(int device_index, void* native_stream,
                                                const std::function<void()>& work);
PinnedMemory cuda_pin(int device_index, int64_t bytes);
void cuda_unpin(void* host) noexcept;
DeviceInfo cuda_device_info(int device_index);
int cuda_device_count(std::string* why_none);
std::string cuda_architectures();  // that kernels were compiled for, as CMake lists them; empty without CUDA
void* cuda_allocate(int device_index, int64_t bytes);
void cuda_free(int device_index, void* memory) noexcept;
void cuda_copy_to_device(const void* host, void* device, int64_t bytes, void* native_stream);
void cuda_copy_on_device(const void* from, void* to, int64_t bytes, void* native_stream);
void cuda_copy_to_host(const void* device, void* host, int64_t bytes, void* native_stream);

}  // namespace lane::impl
