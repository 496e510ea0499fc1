#include "lane/device/device_info.h"

#include "lane/base/error.h"
#include "lane/device/impl/backend.h"

namespace lane {

DeviceInfo device_info(Device gpu) {
  ensure(gpu.kind == DeviceKind::kCuda, "a GPU is asked about");
  return impl::cuda_device_info(gpu.index);
}

int num_gpus(std::string* why_none) {
  std::string reason;
  const int count = impl::cuda_device_count(&reason);
  if (why_none != nullptr) *why_none = reason;
  return count;
}

}  // namespace lane
