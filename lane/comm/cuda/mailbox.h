#pragma once
#include <cstdint>

namespace lane::cuda {

// How a kernel hands pieces of a vector to the host's network and gets them back summed over the nodes: pinned memory
// that both see. The kernel cuts its part into `pieces`; piece p goes through mailbox p, whatever its size. It writes
// the elements to `to_network`, then the order, then (behind a fence for the system) `posted`; the host's thread of
// that mailbox sums with its like on the other nodes into `from_network`, then sets `landed` to the same number.
// Numbers tell the uses of one mailbox apart: each differs from the one before it there, and they are compared for
// equality only, so that they may come round. Before the first use, `posted` equals `landed`. On failure the host sets
// the group's abort word instead.
//
// All nodes cut alike. Blocks may post in any order, provided that a piece waits for none with a higher number; the
// kernel ends only when all of its pieces have landed. proxy.h says why that is enough.
inline constexpr int kMailboxes = 32;

enum class WireType : uint32_t { kF32, kBF16, kF16, kI32 };
enum class WireOp : uint32_t { kSum, kMax, kMin, kProd };

struct alignas(128) Mailbox {
  // By the kernel.
  uint32_t posted;
  uint32_t count;  // elements
  WireType type;   // sums are left unrounded in kF32; a 16-bit type comes with one rank per node, and is rounded once
  WireOp op;
  uint64_t at;      // byte offset of the piece in both buffers
  uint32_t pieces;  // of this call, the same in all its orders
  // By the host, on a line of its own.
  alignas(128) uint32_t landed;
};

}  // namespace lane::cuda
