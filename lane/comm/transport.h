#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "lane/plan/cost.h"

namespace lane {

// One rank's ends of its links to the other ranks of a group. A link carries whole messages, in order, none lost; it
// holds at least one of the largest size. Nothing here waits: the caller decides how long to ask again, and what is
// wrong when the answer stays no. One thread at a time; messages are written and read where they lie, so a receiver
// can add them up without a copy.
class Transport {
 public:
  virtual ~Transport() = default;

  virtual int64_t max_message_bytes() const = 0;

  // Room for a message to `peer`, or null while the link is full. What is written there leaves with commit().
  virtual std::byte* try_reserve(int peer, int64_t bytes) = 0;
  virtual void commit(int peer) = 0;

  // The oldest message from `peer`, or an empty span while there is none. It stays until release().
  virtual std::span<const std::byte> try_peek(int peer) = 0;
  virtual void release(int peer) = 0;

  // What a message costs, for choosing among algorithms.
  virtual plan::Link link() const = 0;
};

}  // namespace lane
