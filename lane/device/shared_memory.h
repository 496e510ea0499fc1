#pragma once
#include <cstdint>
#include <memory>

#include "lane/device/tensor.h"

namespace lane {

// Host memory that a GPU reads and writes in place, over its bus: for words that must reach the other side without a
// copy being asked for. Zeroed. Who writes last a word that says so (released on the host, fenced for the system on the
// GPU) makes what was written before it visible.
class SharedMemory {
 public:
  SharedMemory(Device device, int64_t bytes);

  void* host() const { return memory_.get(); }
  TensorView on_device() const { return on_device_; }  // [bytes] of kU8
  int64_t bytes() const { return on_device_.bytes(); }

 private:
  struct Free {
    void operator()(void* memory) const noexcept;
  };
  std::unique_ptr<void, Free> memory_;
  TensorView on_device_;
};

}  // namespace lane
