// Linked instead of lane/device/cuda/activity.cc where the toolkit's cupti.h was not found, or CUDA is off.
#include "lane/base/error.h"
#include "lane/device/activity.h"

namespace lane {

struct ActivityRecorder::Impl {};

ActivityRecorder::ActivityRecorder(Device) {
  throw Error(
      ErrorCode::kUnsupported,
      "what a GPU does is shown by CUPTI, which this build has not; configure where the CUDA toolkit's cupti.h is");
}
ActivityRecorder::~ActivityRecorder() = default;
void ActivityRecorder::start(int64_t) {}
GpuActivities ActivityRecorder::stop() { return {}; }

}  // namespace lane
