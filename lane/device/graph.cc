#include "lane/device/graph.h"

#include "lane/device/impl/backend.h"

namespace lane {

struct Graph::Impl {
  std::unique_ptr<impl::GraphBackend> cuda;
};

Graph::Graph(Stream& stream, const std::function<void()>& work)
    : impl_(new Impl{impl::record_cuda_graph(stream.device().index, stream.native(), work)}) {}
Graph::Graph() = default;
Graph::~Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;

void Graph::launch(Stream& stream) { impl_->cuda->launch(stream.native()); }

}  // namespace lane
