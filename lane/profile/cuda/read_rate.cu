#include <cuda_runtime.h>

#include <algorithm>
#include <optional>

#include "lane/base/error.h"
#include "lane/device/cuda/native.cuh"
#include "lane/device/device_info.h"
#include "lane/device/tensor.h"
#include "lane/profile/roofline.h"

namespace lane::profile {
namespace {

// A block reads so many consecutive loads of 16 bytes a turn, all on their way at once: 2 blocks of a multiprocessor
// have 128 KiB under way, several times what latency x rate asks for (about 1 us x 4.8 TB/s / 132 = 36 KB on H200).
constexpr int kThreads = 512, kLoads = 8, kBlocksOfOne = 2;
constexpr int64_t kTileBytes = int64_t{kThreads} * kLoads * sizeof(uint4);

__device__ __forceinline__ uint4 load_once(const uint4* from) {
  uint4 word;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
               : "l"(from));
  return word;
}

__global__ void __launch_bounds__(kThreads) fill_kernel(uint4* to, int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    const auto word = static_cast<uint32_t>(i * 2654435761u);  // Knuth: bits that look like weights', not zeros
    to[i] = {word, word ^ 0x9e3779b9u, ~word, word * 3};
  }
}

// The sum keeps the compiler from leaving the loads out; it is not written in the end.
__global__ void __launch_bounds__(kThreads, kBlocksOfOne)
    read_kernel(const uint4* from, int64_t tiles, uint32_t never, uint32_t* out) {
  uint32_t sum = 0;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const uint4* at = from + tile * (kThreads * kLoads) + threadIdx.x;
    uint4 words[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) words[i] = load_once(at + i * kThreads);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) sum |= words[i].x | words[i].y | words[i].z | words[i].w;
  }
  if (sum == never) *out = sum;
}

struct Timer {
  Timer() {
    cuda::check(cudaEventCreate(&begin), "creating an event");
    cuda::check(cudaEventCreate(&end), "creating an event");
  }
  ~Timer() {
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
  }
  Timer(const Timer&) = delete;
  cudaEvent_t begin = nullptr, end = nullptr;
};

}  // namespace

double measure_read_bandwidth(Device gpu) {
  const DeviceInfo info = device_info(gpu);
  int l2_bytes = 0;
  cuda::check(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, gpu.index), "asking for a GPU's cache");
  // What is left of L2 from one sweep to the next is no more than 1/8 of it then; usually 1/100.
  const int64_t least = int64_t{8} * l2_bytes, most = std::min(int64_t{8} << 30, info.free_memory_bytes / 4 * 3);
  std::optional<Buffer> memory;
  int64_t tiles = most / kTileBytes;
  for (; !memory && tiles * kTileBytes >= least; tiles /= 2) {
    try {
      memory.emplace(gpu, tiles * kTileBytes);
      break;
    } catch (const Error&) {
      cudaGetLastError();  // free memory may be in pieces
    }
  }
  if (!memory) return 0;
  const Buffer never_written(gpu, sizeof(uint32_t));
  Stream stream(gpu);
  const auto blocks = static_cast<unsigned>(info.num_multiprocessors * kBlocksOfOne);
  auto* words = static_cast<uint4*>(memory->data());
  fill_kernel<<<blocks, kThreads, 0, cuda::raw(stream)>>>(words, tiles * kThreads * kLoads);
  cuda::check(cudaGetLastError(), "filling memory to read");
  const Timer timer;
  double best = 0;
  for (int sweep = 0; sweep < 20; ++sweep) {
    cuda::check(cudaEventRecord(timer.begin, cuda::raw(stream)), "timing a read");
    read_kernel<<<blocks, kThreads, 0, cuda::raw(stream)>>>(words, tiles, 0,
                                                            static_cast<uint32_t*>(never_written.data()));
    cuda::check(cudaGetLastError(), "reading memory");
    cuda::check(cudaEventRecord(timer.end, cuda::raw(stream)), "timing a read");
    stream.synchronize();
    float ms = 0;
    cuda::check(cudaEventElapsedTime(&ms, timer.begin, timer.end), "timing a read");
    best = std::max(best, static_cast<double>(tiles * kTileBytes) * 1e3 / static_cast<double>(ms));
  }
  return best;
}

}  // namespace lane::profile
