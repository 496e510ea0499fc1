#pragma once
#include <functional>

#include "lane/device/cuda/native.cuh"

namespace lane::forked {

// Work of a stream that was captured, to be replayed.
class Graph {
 public:
  Graph(Stream& stream, const std::function<void()>& record) : stream_(cuda::raw(stream)) {
    cuda::check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "beginning a capture");
    record();
    cuda::check(cudaStreamEndCapture(stream_, &graph_), "ending a capture");
    cuda::check(cudaGraphInstantiate(&ready_, graph_, 0), "instantiating a graph");
  }
  ~Graph() {
    cudaGraphExecDestroy(ready_);
    cudaGraphDestroy(graph_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch() { cuda::check(cudaGraphLaunch(ready_, stream_), "launching a graph"); }

 private:
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t ready_ = nullptr;
};

}  // namespace lane::forked
