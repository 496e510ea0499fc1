#include <sys/mman.h>

#include <cstring>

#include "lane/base/units.h"
#include "lane/device/impl/backend.h"
#include "lane/device/tensor.h"

namespace lane {
namespace {

// mmap gives zeroed pages that take memory only once touched; huge pages spare the TLB on weights.
void* cpu_allocate(int64_t bytes) {
  void* memory = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw_system_error("allocating " + format_bytes(static_cast<double>(bytes)));
  ::madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return memory;
}

int64_t checked_bytes(DType dtype, const std::array<int64_t, 4>& shape) {
  int64_t bytes = size_of(dtype);
  for (const int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes))
      throw Error(ErrorCode::kInvalidArgument, "a tensor of " + std::to_string(shape[0]) + " x " +
                                                   std::to_string(shape[1]) + " x " + std::to_string(shape[2]) + " x " +
                                                   std::to_string(shape[3]) + " elements cannot be allocated");
  }
  return bytes;
}

}  // namespace

Buffer::Buffer(Device device, int64_t bytes) : Buffer(DType::kU8, {1, 1, 1, bytes}, device) {}

Buffer::Buffer(DType dtype, std::array<int64_t, 4> shape, Device device) : bytes_(checked_bytes(dtype, shape)) {
  void* memory = nullptr;
  if (bytes_ > 0)
    memory = device.kind == DeviceKind::kCpu ? cpu_allocate(bytes_) : impl::cuda_allocate(device.index, bytes_);
  memory_ = {memory, Free{device, bytes_}};
  view_ = {memory, dtype, shape, device};
}

Buffer Buffer::sparse(Device device, int64_t bytes) {
  Buffer buffer(device, bytes);
  if (device.kind == DeviceKind::kCpu && bytes > 0)
    ::madvise(buffer.data(), static_cast<size_t>(bytes), MADV_NOHUGEPAGE);
  return buffer;
}

TensorView Buffer::view(DType dtype, std::array<int64_t, 4> shape) const {
  ensure(checked_bytes(dtype, shape) <= bytes_, "a view fits into its buffer");
  return {memory_.get(), dtype, shape, view_.device};
}

void Buffer::Free::operator()(void* memory) const noexcept {
  if (device.kind == DeviceKind::kCpu)
    ::munmap(memory, static_cast<size_t>(bytes));
  else
    impl::cuda_free(device.index, memory);
}

void copy_to_device(const void* host, TensorView to, Stream& stream) {
  if (to.device.kind == DeviceKind::kCpu)
    std::memcpy(to.data, host, static_cast<size_t>(to.bytes()));
  else
    impl::cuda_copy_to_device(host, to.data, to.bytes(), stream.native());
}

void copy_to_host(TensorView from, void* host, Stream& stream) {
  if (from.device.kind == DeviceKind::kCpu)
    std::memcpy(host, from.data, static_cast<size_t>(from.bytes()));
  else
    impl::cuda_copy_to_host(from.data, host, from.bytes(), stream.native());
}

void copy_on_device(TensorView from, TensorView to, Stream& stream) {
  ensure(from.bytes() == to.bytes(), "a copy has as many bytes");
  if (from.data == to.data || from.bytes() == 0) return;
  if (from.device.kind == DeviceKind::kCpu)
    std::memcpy(to.data, from.data, static_cast<size_t>(from.bytes()));
  else
    impl::cuda_copy_on_device(from.data, to.data, from.bytes(), stream.native());
}

}  // namespace lane
