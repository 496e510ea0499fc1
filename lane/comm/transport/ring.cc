#include "lane/comm/transport/ring.h"

#include <cstring>
#include <vector>

#include "lane/base/error.h"

namespace lane {
namespace {

// A message in a ring: its length, then itself, in whole cache lines so that two messages never share one. It lies in
// one piece; where it would run over the end of the ring, a mark says that it starts at the front. A quarter of a ring
// is the largest message: three fit wherever the front lies.
constexpr int64_t kLine = 64, kFrameBytes = 8;
constexpr uint64_t kSkipToFront = ~uint64_t{0};

class RingTransport final : public Transport {
 public:
  RingTransport(std::shared_ptr<GroupMemory> memory, int rank)
      : memory_(std::move(memory)), capacity_(static_cast<uint64_t>(memory_->ring_bytes())) {
    for (int peer = 0; peer < memory_->num_ranks(); ++peer) {
      out_.push_back({&memory_->link(rank, peer).head, &memory_->link(rank, peer).tail, memory_->ring(rank, peer)});
      in_.push_back({&memory_->link(peer, rank).head, &memory_->link(peer, rank).tail, memory_->ring(peer, rank)});
    }
  }

  int64_t max_message_bytes() const override { return memory_->ring_bytes() / 4 - kFrameBytes; }

  std::byte* try_reserve(int peer, int64_t bytes) override {
    End& link = out_[peer];
    const uint64_t size = (static_cast<uint64_t>(bytes + kFrameBytes) + kLine - 1) / kLine * kLine;
    const uint64_t at = link.head_seen % capacity_;
    const uint64_t skipped = at + size > capacity_ ? capacity_ - at : 0;
    const uint64_t end = link.head_seen + skipped + size;
    if (end - link.tail_seen > capacity_) {
      link.tail_seen = link.tail->load(std::memory_order_acquire);
      if (end - link.tail_seen > capacity_) return nullptr;
    }
    if (skipped != 0) set_frame(link.ring + at, kSkipToFront);
    std::byte* message = link.ring + (skipped != 0 ? 0 : at);
    set_frame(message, static_cast<uint64_t>(bytes));
    link.next = end;
    return message + kFrameBytes;
  }

  void commit(int peer) override {
    End& link = out_[peer];
    link.head_seen = link.next;
    link.head->store(link.head_seen, std::memory_order_release);
  }

  std::span<const std::byte> try_peek(int peer) override {
    End& link = in_[peer];
    if (link.head_seen == link.tail_seen) {
      link.head_seen = link.head->load(std::memory_order_acquire);
      if (link.head_seen == link.tail_seen) return {};
    }
    uint64_t at = link.tail_seen % capacity_, skipped = 0;
    if (frame(link.ring + at) == kSkipToFront) skipped = capacity_ - at, at = 0;
    const uint64_t bytes = frame(link.ring + at);
    ensure(bytes <= static_cast<uint64_t>(max_message_bytes()), "a message in a ring has a possible length");
    link.next = link.tail_seen + skipped + (bytes + kFrameBytes + kLine - 1) / kLine * kLine;
    return {link.ring + at + kFrameBytes, bytes};
  }

  void release(int peer) override {
    End& link = in_[peer];
    link.tail_seen = link.next;
    link.tail->store(link.tail_seen, std::memory_order_release);
  }

  // Fitted to bench_all_reduce between two cores of one machine, where adding up is part of it.
  plan::Link link() const override { return {.latency_s = 0.5e-6, .bytes_per_s = 5e9}; }

 private:
  // One end of a link: its own index, and the other's as last seen, so that the common case touches no shared line
  // but the one that changed.
  struct End {
    std::atomic<uint64_t>* head;
    std::atomic<uint64_t>* tail;
    std::byte* ring;
    uint64_t head_seen = 0, tail_seen = 0, next = 0;
  };

  static void set_frame(std::byte* at, uint64_t value) { std::memcpy(at, &value, sizeof(value)); }
  static uint64_t frame(const std::byte* at) {
    uint64_t value;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }

  std::shared_ptr<GroupMemory> memory_;
  uint64_t capacity_;
  std::vector<End> out_, in_;  // by peer
};

}  // namespace

std::unique_ptr<Transport> make_ring_transport(std::shared_ptr<GroupMemory> memory, int rank) {
  return std::make_unique<RingTransport>(std::move(memory), rank);
}

}  // namespace lane
