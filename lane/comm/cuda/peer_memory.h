#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lane::cuda {

// Symmetric memory: a block of the same size on each rank's GPU, mapped into all ranks of a node. Between processes it
// is CUDA virtual memory whose handles travel as file descriptors: a block stays mapped, and stores to it harmless,
// even after the process that made it died. Where the driver cannot export such handles, legacy IPC handles; between
// threads of a process, plain pointers. Zeroed.
class PeerMemory {
 public:
  using Exchange = std::function<std::vector<std::string>(const std::string&)>;

  virtual ~PeerMemory() = default;
  std::byte* of(int rank) const { return blocks_[rank]; }  // null: that rank is on another node
  int64_t bytes() const { return bytes_; }
  const std::string& kind() const { return kind_; }  // "VMM", "IPC", "same process"

  // This rank's block as the driver knows it: a CUmemGenericAllocationHandle, and its size in whole pages.
  struct Allocation {
    uint64_t handle = 0;
    int64_t bytes = 0;
  };
  virtual std::optional<Allocation> allocation() const { return std::nullopt; }  // of VMM only

 protected:
  std::vector<std::byte*> blocks_;  // by rank
  int64_t bytes_ = 0;
  std::string kind_;
};

// Collective: all ranks call it alike with the same size; `nodes` is the node of each rank. Two ranks may use one GPU.
// Throws Error{kUnsupported}, on all ranks alike, with a sentence on what is missing and what to do: GPUs without peer
// access (their names and PCI addresses), NCCL_P2P_DISABLE=1. LANE_PEER_MEMORY=vmm|ipc forces a kind.
std::unique_ptr<PeerMemory> make_peer_memory(const PeerMemory::Exchange& exchange, int rank,
                                             const std::vector<int>& nodes, int device_index, int64_t bytes);

}  // namespace lane::cuda
