#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lane/comm/cuda/peer_memory.h"

namespace lane::cuda {

inline constexpr std::string_view kMulticastIsOff =
    "NVLink multicast is off (LANE_MULTICAST=on turns it on; it has never been run)";

// One address for the blocks of all ranks of a node (NVSwitch's multicast, a part of NVLink SHARP): what a kernel
// stores there lands at the same offset of each rank's block, its own included. Only the instructions multimem.* may
// touch it.
//
// NEVER RUN. It was written by the documentation of CUDA 13.0's driver and compiled, no more: multicast is not to be
// used on the machines that Lane is tested on. So it is off unless LANE_MULTICAST=on asks for it. Beside whether it
// works at all, nobody has seen what a store there does after another rank's process died; to the blocks themselves it
// is harmless.
class MulticastMemory {
 public:
  virtual ~MulticastMemory() = default;
  std::byte* data() const { return data_; }

 protected:
  std::byte* data_ = nullptr;
};

struct Multicast {
  std::unique_ptr<MulticastMemory> memory;  // goes before the blocks do
  std::string why_not;                      // there is none: the same sentence on all ranks
};

// Collective: all ranks call it alike with what they gave to make_peer_memory(), and that memory. Throws, on all ranks
// alike, Error{kInvalidArgument} if LANE_MULTICAST is not the same on all, and what CUDA fails with although all GPUs
// say that they can multicast.
Multicast make_multicast_memory(const PeerMemory::Exchange& exchange, int rank, const std::vector<int>& nodes,
                                int device_index, const PeerMemory& blocks);

}  // namespace lane::cuda
