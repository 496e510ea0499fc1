#include "lane/comm/cuda/start.cuh"

namespace lane::cuda {

void load_all_reduce();
void load_add_rms_norm();
void load_hierarchical();
void load_gather();
void load_compressed();

namespace {

// A buffer before its first use, and the turns before the first operation.
__global__ void fill(std::byte* region, int64_t lines, uint32_t first_number) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < lines; i += stride)
    reinterpret_cast<Line*>(region + kHeaderBytes)[i] = empty_line();
  if (blockIdx.x != 0) return;
  Header& header = *reinterpret_cast<Header*>(region);
  if (threadIdx.x == 0) header.failed = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kMostBlocks; i += static_cast<int>(blockDim.x))
    header.turns[i] = {first_number, 0, 0, 0};
}

}  // namespace

void fill_empty(std::byte* region, int64_t bytes, uint32_t first_number, cudaStream_t stream) {
  start(fill, {.blocks = 128, .threads = 256, .is_chained = false, .stream = stream}, region,
        (bytes - kHeaderBytes) / kLineBytes, first_number);
}

void remember(const void* kernel) {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel),
        "loading a kernel of the collectives (is the GPU older than sm_80?)");
}

void load_kernels() {
  load_all_reduce();
  load_add_rms_norm();
  load_hierarchical();
  load_gather();
  load_compressed();
}

}  // namespace lane::cuda
