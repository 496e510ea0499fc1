// Linked instead of lane/comm/cuda/ when CUDA is off.
#include "lane/comm/device_group.h"

namespace lane {

std::unique_ptr<DeviceGroup> make_device_group(HostSide, int) {
  throw Error(ErrorCode::kUnsupported, "this build has no CUDA; configure with -DLANE_CUDA=ON (preset cuda)");
}

}  // namespace lane
