#include "lane/net/cuda/graph_timer.h"

#include <atomic>
#include <utility>

#include "lane/base/trace.h"
#include "lane/device/cuda/native.cuh"

namespace lane::net::cuda {
namespace {

using lane::cuda::check;
using lane::cuda::raw;

struct Event {
  cudaEvent_t handle = nullptr;
  Event() { check(cudaEventCreate(&handle), "creating an event"); }
  ~Event() { cudaEventDestroy(handle); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  // Under capture it becomes a part of the graph.
  void record_in_graph(cudaStream_t stream) const {
    check(cudaEventRecordWithFlags(handle, stream, cudaEventRecordExternal), "recording an event in a graph");
  }
};

double seconds_between(const Event& start, const Event& end) {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, start.handle, end.handle), "reading the time between two events");
  return ms * 1e-3;
}

struct GraphExec {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaStream_t stream = nullptr;

  GraphExec() = default;
  GraphExec(const GraphExec&) = delete;
  GraphExec& operator=(const GraphExec&) = delete;
  ~GraphExec() {
    if (exec != nullptr) cudaGraphExecDestroy(exec);
    if (graph != nullptr) cudaGraphDestroy(graph);
  }

  // Relaxed: other libraries may allocate or query while they are being recorded.
  void record(Stream& on, const Work& work) {
    stream = raw(on);
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "starting to record a graph");
    try {
      work();
    } catch (...) {
      cudaGraph_t broken = nullptr;
      cudaStreamEndCapture(stream, &broken);
      if (broken != nullptr) cudaGraphDestroy(broken);
      cudaGetLastError();  // a capture that failed leaves an error that is not the next call's
      throw;
    }
    check(cudaStreamEndCapture(stream, &graph), "ending the record of a graph");
  }
  // Apart from recording: libraries come between that finish what was recorded.
  void launch() {
    if (exec == nullptr) {
      check(cudaGraphInstantiate(&exec, graph, 0), "making a graph executable");
      check(cudaGraphUpload(exec, stream), "bringing a graph to the GPU");
    }
    check(cudaGraphLaunch(exec, stream), "starting a graph");
  }
};

uint32_t load(const uint32_t& word) { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }
void store(uint32_t& word, uint32_t value) { __atomic_store_n(&word, value, __ATOMIC_RELEASE); }

}  // namespace

StartGate::StartGate() {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, sizeof(GateWords), cudaHostAllocMapped | cudaHostAllocPortable), "allocating a gate");
  words_ = new (memory) GateWords{};
  check(cudaHostGetDevicePointer(&memory, words_, 0), "mapping a gate");
  on_device_ = static_cast<GateWords*>(memory);
}

StartGate::~StartGate() {
  open();
  cudaDeviceSynchronize();  // nobody polls memory that is gone
  cudaFreeHost(words_);
}

void StartGate::close() noexcept {
  store(words_->open, 0);
  store(words_->arrived, 0);
}
void StartGate::open() noexcept { store(words_->open, 1); }
void StartGate::enqueue(Stream& stream) const { enqueue_gate(on_device_, stream); }

void StartGate::await_arrival(Stream& stream) {
  constexpr int64_t kPatience_ns = 20'000'000'000;
  const int64_t start_ns = now_ns();
  for (int i = 1; load(words_->arrived) == 0; ++i) {
    if (i % 1024 != 0) continue;
    const cudaError_t status = cudaStreamQuery(raw(stream));
    if (status != cudaErrorNotReady) check(status, "running what is measured");
    if (now_ns() - start_ns > kPatience_ns)
      throw Error(ErrorCode::kDevice, "the GPU did not start a graph within 20 s; is something else keeping it?");
  }
}

struct TimedGraph::Impl : GraphExec {
  Event start, end;
};

TimedGraph::TimedGraph(Stream& stream, const StartGate& gate, const Work& lead, const Work& timed)
    : impl_(std::make_unique<Impl>()) {
  impl_->record(stream, [&] {
    gate.enqueue(stream);
    if (lead) lead();
    impl_->start.record_in_graph(raw(stream));
    if (timed) timed();
    impl_->end.record_in_graph(raw(stream));
  });
}
TimedGraph::~TimedGraph() = default;
TimedGraph::TimedGraph(TimedGraph&&) noexcept = default;

void TimedGraph::launch() { impl_->launch(); }

double TimedGraph::seconds() {
  check(cudaStreamSynchronize(impl_->stream), "waiting for what is measured");
  return seconds_between(impl_->start, impl_->end);
}

struct PlainGraph::Impl : GraphExec {};

PlainGraph::PlainGraph(Stream& stream, const Work& work) : impl_(std::make_unique<Impl>()) {
  impl_->record(stream, work);
}
PlainGraph::~PlainGraph() = default;
PlainGraph::PlainGraph(PlainGraph&&) noexcept = default;

void PlainGraph::run() {
  impl_->launch();
  check(cudaStreamSynchronize(impl_->stream), "waiting for a graph");
}

std::vector<double> time_replays(Communicator& group, Stream& host, StartGate& gate, Stream& stream,
                                 const std::vector<TimedGraph*>& graphs, int count) {
  std::vector<double> seconds;
  for (int i = 0; i < count; ++i) {
    TimedGraph& graph = *graphs[static_cast<size_t>(i) % graphs.size()];
    gate.close();
    graph.launch();
    gate.await_arrival(stream);
    group.barrier(host);
    gate.open();
    seconds.push_back(graph.seconds());
  }
  return seconds;
}

std::vector<double> time_eager(Communicator& group, Stream& host, Stream& stream, const Work& work, int count) {
  const Event start, end;
  std::vector<double> seconds;
  for (int i = 0; i < count; ++i) {
    group.barrier(host);
    check(cudaEventRecord(start.handle, raw(stream)), "recording an event");
    work();
    check(cudaEventRecord(end.handle, raw(stream)), "recording an event");
    check(cudaEventSynchronize(end.handle), "waiting for what is measured");
    seconds.push_back(seconds_between(start, end));
  }
  return seconds;
}

}  // namespace lane::net::cuda
