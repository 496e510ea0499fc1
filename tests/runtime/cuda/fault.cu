#include "lane/device/cuda/native.cuh"
#include "tests/runtime/cuda/fault.h"

namespace lane::test {
namespace {

__global__ void write_nowhere_kernel(int* nowhere) { *nowhere = 1; }

}  // namespace

void write_nowhere(Stream& stream) {
  write_nowhere_kernel<<<1, 1, 0, cuda::raw(stream)>>>(reinterpret_cast<int*>(uintptr_t{16}));
  cuda::check(cudaGetLastError(), "launching a faulty kernel");
}

}  // namespace lane::test
