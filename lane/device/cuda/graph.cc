#include "lane/device/cuda/native.cuh"
#include "lane/device/impl/backend.h"

namespace lane::impl {
namespace {

class CudaGraph final : public GraphBackend {
 public:
  explicit CudaGraph(cudaGraphExec_t ready) : ready_(ready) {}
  ~CudaGraph() override { cudaGraphExecDestroy(ready_); }
  void launch(void* native_stream) override {
    cuda::check(cudaGraphLaunch(ready_, static_cast<cudaStream_t>(native_stream)), "launching a graph");
  }

 private:
  cudaGraphExec_t ready_;
};

}  // namespace

std::unique_ptr<GraphBackend> record_cuda_graph(int device_index, void* native_stream,
                                                const std::function<void()>& work) {
  const auto stream = static_cast<cudaStream_t>(native_stream);
  cuda::check(cudaSetDevice(device_index), "choosing the device of a graph");
  cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "beginning to record a graph");
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);  // the stream is of use again
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  cuda::check(cudaStreamEndCapture(stream, &graph), "recording a graph");
  cudaGraphExec_t ready = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&ready, graph, 0);
  cudaGraphDestroy(graph);
  cuda::check(status, "making a graph ready (with little device memory left, lower --gpu-memory-utilization)");
  return std::make_unique<CudaGraph>(ready);
}

}  // namespace lane::impl
