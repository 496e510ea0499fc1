#include <exception>

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
  std::exception_ptr why;
  try {
    work();
  } catch (...) {
    why = std::current_exception();
  }
  // Whatever happened, the stream is of use again.
  cudaGraph_t graph = nullptr;
  const cudaError_t recorded = cudaStreamEndCapture(stream, &graph);
  cudaGraphExec_t ready = nullptr;
  cudaError_t made = recorded;
  if (!why && recorded == cudaSuccess) made = cudaGraphInstantiate(&ready, graph, 0);
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (why) {
    cudaGetLastError();
    std::rethrow_exception(why);
  }
  cuda::check(recorded, "recording a graph");
  cuda::check(made, "making a graph ready");
  auto result = std::make_unique<CudaGraph>(ready);
  // Takes the device memory that the first launch would take, when it is too late to do without.
  cuda::check(cudaGraphUpload(ready, stream), "bringing a graph to the GPU");
  return result;
}

}  // namespace lane::impl
