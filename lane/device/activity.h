#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lane/device/stream.h"

namespace lane {

// Something a GPU did, or that the host waited for it, by the clock of base/trace.h.
struct GpuActivity {
  enum class Kind : uint8_t { kKernel, kCopy, kFill, kHostWait };
  Kind kind = Kind::kKernel;
  int32_t name = -1;  // of a kernel, in GpuActivities::names
  int64_t start_ns = 0, end_ns = 0;
  int64_t bytes = 0;  // of a copy or a fill
};

struct GpuActivities {
  std::vector<GpuActivity> list;   // in no order
  std::vector<std::string> names;  // as the compiler mangled them
  int64_t num_dropped = 0;         // there was no room for: the last ones
  int64_t num_lost = 0;            // by the library, or without times: any
};

// Writes down all that this process's GPU does, also each kernel of a graph. That slows the GPU a little between
// start() and stop(), and nothing otherwise. One of them a process, made before the first graph is recorded: what was
// made ready without the profiling library need not show its kernels.
class ActivityRecorder {
 public:
  explicit ActivityRecorder(Device gpu);  // Error{kUnsupported} where the profiling library is missing
  ~ActivityRecorder();
  ActivityRecorder(const ActivityRecorder&) = delete;
  ActivityRecorder& operator=(const ActivityRecorder&) = delete;

  void start(int64_t max_activities);  // forgets what is there
  // Waits for the GPU, which is not among the waits of the result. Empty without a start().
  GpuActivities stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lane
