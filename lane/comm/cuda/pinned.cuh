#pragma once
#include <cstring>

#include "lane/device/cuda/native.cuh"

namespace lane::cuda {

// Host memory that the GPU reads and writes, zeroed. One address for both.
class Pinned {
 public:
  explicit Pinned(int64_t bytes) {
    check(cudaHostAlloc(&memory_, static_cast<size_t>(bytes), cudaHostAllocPortable | cudaHostAllocMapped),
          "allocating host memory for a GPU");
    std::memset(memory_, 0, static_cast<size_t>(bytes));
  }
  ~Pinned() { cudaFreeHost(memory_); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(memory_);
  }

 private:
  void* memory_ = nullptr;
};

}  // namespace lane::cuda
