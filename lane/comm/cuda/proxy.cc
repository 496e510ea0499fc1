#include "lane/comm/cuda/proxy.h"

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <thread>

#include "lane/base/settings.h"
#include "lane/base/trace.h"
#include "lane/base/wait.h"

namespace lane::cuda {
namespace {

constexpr int64_t kBusyNs = 2'000'000;          // after a piece, the next one is not far
constexpr unsigned long kTimerSlackNs = 1'000;  // a thread's sleeps are else stretched by 50 µs

std::chrono::nanoseconds pause_after(int64_t idle_ns) {
  constexpr int64_t kShort = 50'000, kLong = 1'000'000;
  return std::chrono::nanoseconds(std::min(idle_ns / 40, std::clamp(idle_ns / 2000, kShort, kLong)));
}

DType dtype_of(WireType type) {
  switch (type) {
    case WireType::kF32:
      return DType::kF32;
    case WireType::kBF16:
      return DType::kBF16;
    case WireType::kF16:
      return DType::kF16;
    case WireType::kI32:
      return DType::kI32;
  }
  throw Error(ErrorCode::kBug, fmt::format("a kernel posted elements of type {}", static_cast<uint32_t>(type)));
}

ReduceOp reduce_op_of(WireOp op) {
  switch (op) {
    case WireOp::kSum:
      return ReduceOp::kSum;
    case WireOp::kMax:
      return ReduceOp::kMax;
    case WireOp::kMin:
      return ReduceOp::kMin;
    case WireOp::kProd:
      return ReduceOp::kProd;
  }
  throw Error(ErrorCode::kBug, fmt::format("a kernel posted the operation {}", static_cast<uint32_t>(op)));
}

}  // namespace

struct Proxy::Channel {
  explicit Channel(Communicator its_group) : group(std::move(its_group)) {}
  Communicator group;
  std::atomic<bool> is_summing = false;
  std::thread thread;
};

Proxy::Proxy(std::vector<Communicator> channels, Memory memory, std::function<void(const Error&)> on_failure)
    : memory_(memory), on_failure_(std::move(on_failure)) {
  ensure(!channels.empty() && channels.size() <= kMailboxes, "a proxy has a channel, and each channel a mailbox");
  for (Communicator& group : channels) channels_.push_back(std::make_unique<Channel>(std::move(group)));
  sigset_t all, before;  // signals are the program's, not these threads'
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    for (int c = 0; c < static_cast<int>(channels_.size()); ++c)
      channels_[c]->thread = std::thread([this, c] { serve(c); });
  } catch (...) {
    end();
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Proxy::~Proxy() { end(); }

// A thread says that it sums and then looks whether the proxy ends; here it is the other way round. So either it does
// not begin or its sum is seen here.
void Proxy::end() noexcept {
  is_ending_ = true;
  for (const auto& channel : channels_)
    if (channel->is_summing) channel->group.abort("it left in the middle of a sum over the nodes");
  for (const auto& channel : channels_)
    if (channel->thread.joinable()) channel->thread.join();
}

// The first failure is told; those that it causes are not, nor those while the proxy goes.
void Proxy::fail(const Error& error) noexcept {
  if (is_ending_.exchange(true)) return;
  for (const auto& channel : channels_) channel->group.abort(error.what());
  on_failure_(error);
}

void Proxy::serve(int index) {
  ::prctl(PR_SET_TIMERSLACK, kTimerSlackNs);
  Channel& channel = *channels_[index];
  const int num_channels = static_cast<int>(channels_.size());
  Stream stream;
  int64_t idle_since_ns = now_ns();
  try {
    for (;;)  // a call each turn
      for (int at = index, pieces = index + 1; at < pieces; at += num_channels) {
        Mailbox& mailbox = memory_.mailboxes[at];
        if (!wait_for_order(mailbox, idle_since_ns)) return;
        if (at == index) pieces = static_cast<int>(std::min<uint32_t>(mailbox.pieces, kMailboxes + 1));
        if (pieces <= at || pieces > kMailboxes || mailbox.pieces != static_cast<uint32_t>(pieces))
          throw Error(ErrorCode::kBug, fmt::format("a kernel posted {} pieces in mailbox {}", mailbox.pieces, at));
        channel.is_summing = true;
        if (is_ending_) return;
        sum(channel, mailbox, stream);
        channel.is_summing = false;  // first: whoever sees it landed may destroy the proxy
        std::atomic_ref(mailbox.landed).store(mailbox.posted, std::memory_order_release);
        idle_since_ns = now_ns();
      }
  } catch (const Error& error) {
    fail(error);
  } catch (const std::exception& error) {
    fail(Error(ErrorCode::kSystem, fmt::format("summing over the nodes: {}", error.what())));
  }
}

bool Proxy::wait_for_order(Mailbox& mailbox, int64_t idle_since_ns) const {
  constexpr int kTurnsPerLook = 32;
  const std::atomic_ref posted(mailbox.posted);
  for (int turn = 1;; ++turn) {
    if (posted.load(std::memory_order_acquire) != mailbox.landed) return true;
    if (is_ending_) return false;
    if (turn % kTurnsPerLook != 0) {
      spin_turn(turn);
      continue;
    }
    const int64_t idle_ns = now_ns() - idle_since_ns;
    if (idle_ns < kBusyNs) continue;
    std::this_thread::sleep_for(pause_after(idle_ns));
    turn = kTurnsPerLook - 1;  // one look after each sleep
  }
}

void Proxy::sum(Channel& channel, const Mailbox& order, Stream& stream) {
  const DType dtype = dtype_of(order.type);
  const ReduceOp op = reduce_op_of(order.op);
  const int64_t bytes = order.count * size_of(dtype);
  if (order.at % static_cast<uint64_t>(size_of(dtype)) != 0 || order.at > static_cast<uint64_t>(memory_.bytes) ||
      bytes > memory_.bytes - static_cast<int64_t>(order.at))
    throw Error(ErrorCode::kBug,
                fmt::format("a kernel posted {} B at {} of a buffer of {} B", bytes, order.at, memory_.bytes));
  if (bytes == 0) return;  // on all ranks
  const std::array<int64_t, 4> shape{1, 1, 1, order.count};
  const TensorView in{const_cast<std::byte*>(memory_.to_network) + order.at, dtype, shape, {}};  // only read
  const TensorView out{memory_.from_network + order.at, dtype, shape, {}};
  channel.group.all_reduce(in, out, op, stream);
}

std::vector<Communicator> split_channels(Communicator& host, int num_channels) {
  ensure(num_channels >= 1 && num_channels <= kMailboxes, "a channel has at least one mailbox");
  const plan::Layout& layout = host.fabric().layout;
  const auto ranks = layout.ranks_by_node();
  for (const auto& of_node : ranks)
    if (of_node.size() != ranks[0].size())
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("a sum within nodes and then between them needs the same number of ranks on all nodes, "
                              "but there is a node of {} and one of {}",
                              ranks[0].size(), of_node.size()));
  const int node = layout.node_of[host.rank()];
  const auto place = std::find(ranks[node].begin(), ranks[node].end(), host.rank()) - ranks[node].begin();
  std::vector<Communicator> channels;
  for (int c = 0; c < num_channels; ++c) {
    channels.push_back(host.split(static_cast<int>(place), node));
    channels.back().keep_one_order();
  }
  return channels;
}

int proxy_channels_setting() {
  const std::string text = setting("LANE_PROXY_CHANNELS");
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 1 || value > kMailboxes)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("LANE_PROXY_CHANNELS={}: expected a whole number from 1 to {}", text, kMailboxes));
  return value;
}

}  // namespace lane::cuda
