#pragma once
#include <cstdint>

namespace lane::cuda {

// The part of an operation that a kernel waited in; kCall: ranks called different things.
enum class Step : uint32_t { kReduce, kGather, kBetweenNodes, kNetwork, kCall };

// Pinned memory between a group's kernels and its host side.
struct Report {
  alignas(128) uint32_t abort;  // by the host: waits end now
  // By the first thread whose wait reached its end; `written` last.
  alignas(128) uint32_t written;
  int32_t peer;  // place in the node of a rank that was waited for; its node for kBetweenNodes
  Step step;
  uint32_t number, peer_number;  // of the operation that waits, and of the next one that the peer begins
  uint32_t call, peer_call;      // see call_word()
  uint32_t is_known;             // what the peer calls in this operation
  uint64_t waited_ns;
};

}  // namespace lane::cuda
