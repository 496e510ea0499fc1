#include "lane/device/shared_memory.h"

#include <cstring>

#include "lane/device/impl/backend.h"

namespace lane {

SharedMemory::SharedMemory(Device device, int64_t bytes) {
  ensure(device.kind == DeviceKind::kCuda && bytes > 0, "memory is shared with a GPU");
  const impl::PinnedMemory pinned = impl::cuda_pin(device.index, bytes);
  memory_.reset(pinned.host);
  std::memset(pinned.host, 0, static_cast<size_t>(bytes));
  on_device_ = {pinned.on_device, DType::kU8, {1, 1, 1, bytes}, device};
}

void SharedMemory::Free::operator()(void* memory) const noexcept { impl::cuda_unpin(memory); }

}  // namespace lane
