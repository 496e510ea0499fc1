// Sums a vector over GPUs, one process for each, within a CUDA graph: as a server of language models does in decoding.
//     mpirun -n 4 ./all_reduce_cuda        torchrun, srun and PMI do as well; started alone it is rank 0 of 1
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "lane/comm/communicator.h"
#include "lane/comm/launch.h"

namespace {

constexpr int kCount = 32 * 1024, kCalls = 100;  // bfloat16 numbers, so 64 KiB; all-reduces in the graph

void check(cudaError_t status, const char* doing) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(doing) + ": " + cudaGetErrorString(status));
}

float value_of(int rank, int i) { return static_cast<float>((rank + 1) * (i % 4)); }

int run(lane::Communicator& group, int gpu) {
  const lane::Device device{lane::DeviceKind::kCuda, gpu};
  check(cudaSetDevice(gpu), "choosing the GPU");
  lane::Stream stream(device);
  const auto native = static_cast<cudaStream_t>(stream.native());
  const lane::Buffer in(lane::DType::kBF16, {1, 1, 1, kCount}, device);
  const lane::Buffer out(lane::DType::kBF16, {1, 1, 1, kCount}, device);
  std::vector<uint16_t> values(kCount);
  for (int i = 0; i < kCount; ++i) values[i] = lane::bf16_from_float(value_of(group.rank(), i));
  lane::copy_to_device(values.data(), in.view(), stream);
  group.open_device(device);  // ahead of the capture, on all ranks

  cudaGraph_t graph = nullptr;
  cudaGraphExec_t calls = nullptr;
  check(cudaStreamBeginCapture(native, cudaStreamCaptureModeThreadLocal), "starting to record");
  for (int i = 0; i < kCalls; ++i) group.all_reduce(in.view(), out.view(), lane::ReduceOp::kSum, stream);
  check(cudaStreamEndCapture(native, &graph), "ending the record");
  check(cudaGraphInstantiate(&calls, graph, 0), "making the graph");

  cudaEvent_t start = nullptr, end = nullptr;
  for (cudaEvent_t* event : {&start, &end}) check(cudaEventCreate(event), "creating an event");
  float milliseconds = 0;
  for (int replay = 0; replay < 10; ++replay) {  // the last one is what is printed
    check(cudaEventRecord(start, native), "recording an event");
    check(cudaGraphLaunch(calls, native), "starting the graph");
    check(cudaEventRecord(end, native), "recording an event");
    group.wait(stream);  // throws what went wrong on the GPUs, such as a rank that died
    check(cudaEventElapsedTime(&milliseconds, start, end), "reading the time");
  }
  lane::copy_to_host(out.view(), values.data(), stream);
  int num_wrong = 0;
  for (int i = 0; i < kCount; ++i) {
    float sum = 0;
    for (int rank = 0; rank < group.size(); ++rank) sum += value_of(rank, i);
    num_wrong += std::abs(lane::float_from_bf16(values[i]) - sum) > sum / 256;  // one rounding
  }
  std::printf("rank %d of %d: %.2f µs a call, %d of %d sums are wrong\n", group.rank(), group.size(),
              1e3 * milliseconds / kCalls, num_wrong, kCount);
  return num_wrong == 0 ? 0 : 1;
}

}  // namespace

int main() {
  lane::Communicator group;  // of one, until it joins others
  try {
    const auto me = lane::launched_rank();
    if (me) group = lane::Communicator::join(lane::join_options(*me));
    return run(group, me ? me->local_rank : 0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", group.rank(), error.what());
    group.abort(error.what());  // the others need not wait for this one
    return 1;
  }
}
