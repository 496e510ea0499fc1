#include "lane/comm/transport/ring.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "lane/base/error.h"

namespace lane {
namespace {

// A reader may start on a long message while the rest is still written: after so many bytes it is told.
constexpr uint64_t kPublishBytes = 16 << 10;

class RingTransport final : public Transport {
 public:
  RingTransport(std::shared_ptr<GroupMemory> memory, int rank, const plan::Layout& layout)
      : memory_(std::move(memory)), capacity_(static_cast<uint64_t>(memory_->ring_bytes())) {
    const int n = memory_->num_ranks();
    const std::vector<int>& members = memory_->members();
    const int m = static_cast<int>(members.size());
    const int me = static_cast<int>(std::find(members.begin(), members.end(), rank) - members.begin());
    ensure(me < m, "a rank that uses a host's memory is on that host");
    out_.resize(2 * n);
    in_.resize(2 * n);
    Out& everybody = out_[n + rank];
    const GroupMemory::Ring mine = memory_->multicast_ring(me);
    everybody = {mine.head, {}, mine.data};
    for (int place = 0; place < m; ++place) {
      const int peer = members[place];
      if (peer == rank) continue;
      const GroupMemory::Ring to = memory_->pair_ring(me, place), from = memory_->pair_ring(place, me);
      out_[peer] = {to.head, {to.tails}, to.data};
      in_[peer] = {from.head, from.tails, from.data};
      if (layout.node_of[peer] != layout.node_of[rank]) continue;
      everybody.tails.push_back(mine.tails + place);
      const GroupMemory::Ring theirs = memory_->multicast_ring(place);
      in_[n + peer] = {theirs.head, theirs.tails + me, theirs.data};
    }
  }

  int64_t try_send(int link, std::span<const iovec> pieces) override {
    Out& out = out_[link];
    uint64_t wanted = 0;
    for (const iovec& piece : pieces) wanted += piece.iov_len;
    uint64_t room = capacity_ - (out.sent - out.taken);
    if (room < wanted) {
      out.taken = slowest(out);
      room = capacity_ - (out.sent - out.taken);
      // Whole cache lines, so that what the reader sees of a long message stays aligned.
      if (room < wanted) wanted = room / kAlignment * kAlignment;
    }
    uint64_t left = wanted, unpublished = 0;
    for (const iovec& piece : pieces) {
      const auto* from = static_cast<const std::byte*>(piece.iov_base);
      for (uint64_t piece_left = std::min<uint64_t>(piece.iov_len, left); piece_left > 0;) {
        const uint64_t at = out.sent % capacity_;
        const uint64_t bytes = std::min({piece_left, capacity_ - at, kPublishBytes - unpublished});
        std::memcpy(out.data + at, from, bytes);
        from += bytes, piece_left -= bytes, left -= bytes;
        out.sent += bytes, unpublished += bytes;
        if (unpublished == kPublishBytes) {
          out.head->position.store(out.sent, std::memory_order_release);
          unpublished = 0;
        }
      }
    }
    if (unpublished > 0) out.head->position.store(out.sent, std::memory_order_release);
    return static_cast<int64_t>(wanted);
  }

  std::span<const std::byte> try_peek(int link, int64_t wanted) override {
    In& in = in_[link];
    if (in.arrived - in.taken < static_cast<uint64_t>(wanted))
      in.arrived = in.head->position.load(std::memory_order_acquire);
    const uint64_t at = in.taken % capacity_;
    return {in.data + at, std::min(in.arrived - in.taken, capacity_ - at)};
  }

  void release(int link, int64_t bytes) override {
    In& in = in_[link];
    in.taken += static_cast<uint64_t>(bytes);
    in.tail->position.store(in.taken, std::memory_order_release);
  }

  bool has_multicast() const override { return true; }

  void idle(std::chrono::nanoseconds longest) override {
    const timespec pause{0, std::clamp<int64_t>(longest.count(), 0, 999'999'999)};
    ::nanosleep(&pause, nullptr);
  }

  std::string broken(int) const override { return {}; }

  // Fitted to `lane bench allreduce` between two cores of one machine, where adding up is part of it.
  plan::Link link() const override { return {.latency_s = 0.25e-6, .bytes_per_s = 9e9, .message_s = 0.1e-6}; }
  std::string name() const override { return "shared memory"; }

 private:
  // What is read of a link that does not exist (a rank's multicast to another node): nothing ever arrives.
  static inline const GroupMemory::Cursor kSilent{};

  // One end of a link: its own position in the stream and the other end's as last seen, so that the common case
  // touches no shared line but the one that changed. Positions are bytes in 64 bits: they do not come round.
  struct Out {
    GroupMemory::Cursor* head = nullptr;
    std::vector<GroupMemory::Cursor*> tails;
    std::byte* data = nullptr;
    uint64_t sent = 0, taken = 0;
  };
  struct In {
    const GroupMemory::Cursor* head = &kSilent;
    GroupMemory::Cursor* tail = nullptr;
    const std::byte* data = nullptr;
    uint64_t arrived = 0, taken = 0;
  };

  uint64_t slowest(const Out& out) const {
    uint64_t most = 0;
    for (const GroupMemory::Cursor* tail : out.tails)
      most = std::max(most, out.sent - tail->position.load(std::memory_order_acquire));
    return out.sent - most;
  }

  std::shared_ptr<GroupMemory> memory_;
  uint64_t capacity_;
  std::vector<Out> out_;
  std::vector<In> in_;
};

}  // namespace

std::unique_ptr<Transport> make_ring_transport(std::shared_ptr<GroupMemory> memory, int rank,
                                               const plan::Layout& layout) {
  return std::make_unique<RingTransport>(std::move(memory), rank, layout);
}

}  // namespace lane
