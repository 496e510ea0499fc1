// Gloo beside each rank, over TCP; see coprocess.h.
//   lane_peer_gloo RANK SIZE DIRECTORY [interface:NAME | host:NAME]
// The ranks meet in DIRECTORY, empty at first and seen by all of them.
#include <fmt/format.h>
#include <gloo/allreduce.h>
#include <gloo/barrier.h>
#include <gloo/config.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>

#include <chrono>
#include <string>

#include "bench/peers/coprocess.h"
#include "lane/base/error.h"

namespace {

using namespace lane;

class Gloo final : public peers::Library {
 public:
  Gloo(int rank, int size, const std::string& directory, const std::string& where) {
    gloo::transport::tcp::attr attributes;
    if (where.starts_with("interface:"))
      attributes.iface = where.substr(10);
    else
      attributes.hostname = where.starts_with("host:") ? where.substr(5) : "127.0.0.1";
    auto device = gloo::transport::tcp::CreateDevice(attributes);
    gloo::rendezvous::FileStore store(directory);
    auto context = std::make_shared<gloo::rendezvous::Context>(rank, size);
    context->setTimeout(std::chrono::seconds(30));
    context->connectFullMesh(store, device);
    context_ = context;
  }

  std::string name() const override { return fmt::format("Gloo {}.{} (TCP)", GLOO_VERSION_MAJOR, GLOO_VERSION_MINOR); }
  int rank() const override { return context_->rank; }
  int size() const override { return context_->size; }

  // What Gloo's users do: one set of options for each vector. A segment must hold an element at least.
  void prepare(const void* in, void* out, int64_t count, DType dtype, ReduceOp op) override {
    if (op == ReduceOp::kAvg) throw Error(ErrorCode::kUnsupported, "Gloo has no average");
    options_ = std::make_unique<gloo::AllreduceOptions>(context_);
    if (size_of(dtype) == 4)
      set<uint32_t>(in, out, count);
    else
      set<uint16_t>(in, out, count);
    options_->setReduceFunction([dtype, op](void* into, const void* a, const void* b, size_t n) {
      peers::combine(dtype, op, into, a, b, static_cast<int64_t>(n));
    });
  }
  void all_reduce() override { gloo::allreduce(*options_); }
  void barrier() override {
    gloo::BarrierOptions options(context_);
    gloo::barrier(options);
  }
  void send(const void* data, int64_t bytes, int to) override {
    auto buffer = context_->createUnboundBuffer(const_cast<void*>(data), static_cast<size_t>(bytes));
    buffer->send(to, kTag);
    buffer->waitSend();
  }
  void receive(void* data, int64_t bytes, int from) override {
    auto buffer = context_->createUnboundBuffer(data, static_cast<size_t>(bytes));
    buffer->recv(from, kTag);
    buffer->waitRecv();
  }

 private:
  static constexpr uint64_t kTag = 1;

  template <class T>
  void set(const void* in, void* out, int64_t count) {
    options_->setInput(static_cast<T*>(const_cast<void*>(in)), static_cast<size_t>(count));
    options_->setOutput(static_cast<T*>(out), static_cast<size_t>(count));
  }

  std::shared_ptr<gloo::Context> context_;
  std::unique_ptr<gloo::AllreduceOptions> options_;
};

}  // namespace

int main(int argc, char** argv) {
  lane::peers::claim_standard_output();
  try {
    if (argc < 4)
      throw Error(ErrorCode::kInvalidArgument,
                  "usage: lane_peer_gloo RANK SIZE DIRECTORY [interface:NAME | host:NAME]");
    Gloo library(std::stoi(argv[1]), std::stoi(argv[2]), argv[3], argc > 4 ? argv[4] : "");
    return lane::peers::serve(library);
  } catch (const std::exception& error) {
    lane::peers::answer_error(error.what());
  }
  return 1;
}
