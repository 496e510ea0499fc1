#pragma once
#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "lane/plan/cost.h"

namespace lane {

// One rank's ends of its links to the other ranks of a group. A link carries bytes, in order, none lost, and holds at
// least kLeastRoom of them. Nothing here waits: the caller decides how long to ask again, and what is wrong when the
// answer stays no. One thread at a time. Bytes are read where they lie, so a receiver adds them up without a copy.
//
// Link r goes to and comes from rank r. Where there is multicast, link num_ranks + r carries what rank r writes once
// for all others; rank r sends on its own, the others receive on it.
class Transport {
 public:
  static constexpr int64_t kLeastRoom = 4096;
  // Senders keep every message at a multiple of this within the stream; what try_peek() shows never breaks inside.
  static constexpr int64_t kAlignment = 64;

  virtual ~Transport() = default;

  // Sends the pieces one after the other as far as there is room, and returns how many bytes went.
  virtual int64_t try_send(int link, std::span<const iovec> pieces) = 0;

  // The oldest bytes that arrived on this link and were not released, in one piece; empty when there are none. May be
  // fewer than have arrived; looks for more only while it knows of fewer than `wanted`. They stay until release(),
  // which takes the first `bytes` of them.
  virtual std::span<const std::byte> try_peek(int link, int64_t wanted) = 0;
  virtual void release(int link, int64_t bytes) = 0;

  virtual bool has_multicast() const { return false; }

  // Gives the core away until a link may have something new, but no longer than `longest`.
  virtual void idle(std::chrono::nanoseconds longest) = 0;

  // Why this link will never bring anything again ("Connection reset by peer"); empty as long as it may.
  virtual std::string broken(int link) const = 0;

  // What a message costs, for choosing among algorithms; and how it goes: "shared memory", "TCP", "UCX (tcp)".
  virtual plan::Link link() const = 0;
  virtual std::string name() const = 0;
};

}  // namespace lane
