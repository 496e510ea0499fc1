#pragma once
#include <cstddef>
#include <cstdint>

#include "lane/comm/cuda/report.h"

namespace lane::cuda {

inline constexpr int kLineBytes = 16;  // what a thread stores at once
inline constexpr int kMostPeers = 72;  // of a node; an NVL72 domain is the largest there is
inline constexpr int kMostNodes = 64;
inline constexpr int kMostBlocks = 256;
inline constexpr int kBuffers = 3;

// Three buffers take turns: an operation receives into one, clears the one that the operation before it received into,
// and leaves the third alone. No barrier and no acknowledgement is needed between operations, however far the ranks
// drift apart:
//
//   Rank A stores into rank B's buffer x in operation e only after A's operation e-1 ended, and that needed words which
//   B gave in its operation e-1 (in every operation each rank waits for something that every other rank had to add to,
//   itself or through others). B's operation e-1 began after its e-2 ended. x was last received into in e-3, which B
//   read before e-3 ended, and cleared in e-2. So B is done with x, and x is EMPTY, before A stores into it.
//
// "Ended" is a kernel's end in its stream: its stores are done before the next kernel starts. Under programmatic
// dependent launch a kernel may start earlier: ours wait for the end of the kernel before them (see begin()) ahead of
// all loads and stores but those of a norm's weights, which nobody changes; and whatever kernel stands between two of
// ours has to wait, too, if it was launched that way.
//
// Operations may run with different grids: lines tell by themselves that they are there, so nothing depends on which
// block handles a line on another rank. Every block has its own copy of the turn, so that blocks need not meet to
// advance it: once all its threads have read its copy, a block writes those copies whose number is its own modulo the
// grid. That may be long before the operation ends; only the next kernel reads them.
struct alignas(16) Turn {
  uint32_t number;  // of the operation, counts on past 2^32
  uint32_t buffer;  // that it receives into
  uint32_t dirty;   // lines of the buffer before it that have to be cleared
  uint32_t unused;
};

// What a rank calls, told to all others with each operation: its number and a word that is the same for equal calls.
struct alignas(8) Call {
  uint32_t what, number;
};
inline constexpr int kKeptCalls = 4;

struct Header {
  alignas(128) uint32_t failed;  // a wait reached its end, or the host says so: nothing waits any more
  alignas(128) Call calls[kKeptCalls][kMostPeers];  // by number modulo kKeptCalls, and by place
  alignas(128) Turn turns[kMostBlocks];
};
inline constexpr int kHeaderBytes = 8192;
static_assert(sizeof(Header) <= kHeaderBytes);

// A kernel's view of its group, the same for all its operations.
struct Group {
  std::byte* regions[kMostPeers];  // of the ranks of the node, by place
  int size, place;                 // ranks of the node, and which of them this one is
  std::byte* across[kMostNodes];   // of the ranks with this one's place on the other nodes, by node, where mapped
  int num_nodes, node;             // all with `size` ranks
  Report* report;
  uint64_t timeout_ns;
  int64_t buffer_lines;
  uint32_t call;  // see Call::what; another one with every launch
};

}  // namespace lane::cuda
