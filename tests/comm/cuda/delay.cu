#include "lane/device/cuda/native.cuh"
#include "tests/comm/cuda/delay.h"

namespace lane::forked {
namespace {

__global__ void spin(long long nanoseconds) {
  const auto now = [] {
    long long time;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
    return time;
  };
  const long long since = now();
  while (now() - since < nanoseconds) __nanosleep(500);
}

}  // namespace

void delay(Stream& stream, std::chrono::microseconds time) {
  spin<<<1, 1, 0, cuda::raw(stream)>>>(time.count() * 1000);
  cuda::check(cudaGetLastError(), "launching a kernel that waits");
}

}  // namespace lane::forked
