#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "lane/comm/communicator.h"
#include "lane/net/cuda/kernels.h"

namespace lane::net::cuda {

// Where the GPUs of all ranks wait until all have come, so that they begin together: a kernel that polls a word of its
// host's memory. The hosts open their gates after a barrier, that is within about a microsecond on one host.
class StartGate {
 public:
  StartGate();
  ~StartGate();
  StartGate(const StartGate&) = delete;
  StartGate& operator=(const StartGate&) = delete;

  void close() noexcept;
  void enqueue(Stream& stream) const;  // may be under capture
  void await_arrival(Stream& stream);  // Error{kDevice} if the GPU failed or did not come within 20 seconds
  void open() noexcept;

 private:
  GateWords* words_ = nullptr;      // the host's address
  GateWords* on_device_ = nullptr;  // the GPU's
};

// Puts work onto the stream, and is recorded instead of run.
using Work = std::function<void()>;

// Work recorded once and replayed: gate, `lead`, start event, `timed`, end event, all in one graph, so that neither the
// host nor the start of the graph is in the time.
class TimedGraph {
 public:
  TimedGraph(Stream& stream, const StartGate& gate, const Work& lead, const Work& timed);
  ~TimedGraph();
  TimedGraph(TimedGraph&&) noexcept;

  void launch();
  double seconds();  // between the events of the last replay; waits for its end

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Runs `work` through a graph of its own, once, and waits for it.
class PlainGraph {
 public:
  PlainGraph(Stream& stream, const Work& work);
  ~PlainGraph();
  PlainGraph(PlainGraph&&) noexcept;
  void run();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Seconds of `count` replays on this rank, of the graphs in turns; all ranks call it alike. `host`: a stream on the
// CPU, for the barriers.
std::vector<double> time_replays(Communicator& group, Stream& host, StartGate& gate, Stream& stream,
                                 const std::vector<TimedGraph*>& graphs, int count);

// Without graphs: `count` times, a barrier, then the work enqueued and run between two events. What it takes the host
// to enqueue is in the time where the GPU has to wait for it.
std::vector<double> time_eager(Communicator& group, Stream& host, Stream& stream, const Work& work, int count);

}  // namespace lane::net::cuda
