// Linked instead of lane/profile/cuda/ when CUDA is off.
#include "lane/base/error.h"
#include "lane/profile/roofline.h"

namespace lane::profile {

double measure_read_bandwidth(Device) {
  throw Error(ErrorCode::kUnsupported, "this build has no CUDA; configure with -DLANE_CUDA=ON (preset cuda)");
}

}  // namespace lane::profile
