#pragma once
#include <functional>
#include <memory>

#include "lane/device/stream.h"

namespace lane {

// Work of a GPU that was recorded once and is started as a whole (a CUDA graph). What `work` enqueues on `stream` is
// recorded and does not run; it must not allocate device memory nor wait for the stream. The tensors it names outlive
// the graph.
class Graph {
 public:
  Graph();
  Graph(Stream& stream, const std::function<void()>& work);
  ~Graph();
  Graph(Graph&&) noexcept;
  Graph& operator=(Graph&&) noexcept;

  void launch(Stream& stream);
  explicit operator bool() const { return impl_ != nullptr; }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lane
