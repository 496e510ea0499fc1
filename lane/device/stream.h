#pragma once
#include <cstdint>
#include <memory>

#include "lane/base/thread_pool.h"

namespace lane {

enum class DeviceKind : uint8_t { kCpu, kCuda };
struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

// A queue of work on one device; work enters and leaves in order. On the CPU it runs at once, on the threads that
// the stream owns.
class Stream {
 public:
  explicit Stream(Device device = {}, int num_threads = 1);  // num_threads: for the CPU
  // A stream of somebody else's, such as a framework's: `native` is a vendor's handle on `device`, a GPU, outlives this
  // and is not destroyed with it. Null is the device's default stream.
  static Stream borrow(Device device, void* native);
  ~Stream();
  Stream(Stream&&) noexcept;

  Device device() const;
  void synchronize();
  // Whether everything that was enqueued is done; throws what went wrong with it. Does not wait.
  bool is_done();

  // The team that CPU kernels spread their loops over.
  ThreadPool& threads();

  // The vendor's handle (a cudaStream_t on CUDA, null on the CPU). Only code under */cuda/ reads it.
  void* native() const;

 private:
  struct Impl;
  explicit Stream(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lane
