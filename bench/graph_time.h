// The time of GPU work as a model has it: one call after the other, in a graph.
#pragma once
#include <cuda_runtime_api.h>

#include <algorithm>
#include <vector>

#include "lane/base/error.h"
#include "lane/device/stream.h"

namespace lane::bench {

inline void check(cudaError_t status) {
  if (status != cudaSuccess) throw Error(ErrorCode::kDevice, cudaGetErrorString(status));
}

// Seconds of one of `count` calls run(0), run(1), ... that follow one another in a graph: their share of the median of
// 20 launches. run(0) runs once before: what is set up at a first call is not captured.
template <class Run>
double time_in_graph(int count, Stream& stream, Run&& run) {
  const auto raw = static_cast<cudaStream_t>(stream.native());
  run(0);
  check(cudaStreamSynchronize(raw));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check(cudaStreamBeginCapture(raw, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < count; ++i) run(i);
  check(cudaStreamEndCapture(raw, &graph));
  check(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<double> seconds;
  for (int i = 0; i < 25; ++i) {
    float ms = 0;
    check(cudaEventRecord(begin, raw));
    check(cudaGraphLaunch(exec, raw));
    check(cudaEventRecord(end, raw));
    check(cudaEventSynchronize(end));
    check(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 5) seconds.push_back(ms * 1e-3 / count);
  }
  cudaEventDestroy(begin), cudaEventDestroy(end), cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
  std::nth_element(seconds.begin(), seconds.begin() + 10, seconds.end());
  return seconds[10];
}

}  // namespace lane::bench
