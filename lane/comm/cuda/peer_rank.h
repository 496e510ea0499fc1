#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lane/base/json.h"

namespace lane::cuda {

// A rank as the others must know it to share GPU memory with it.
struct PeerRank {
  int rank = 0, node = 0;
  std::string process;  // the same text: threads of one process
  int pid = 0;
  int device_index = 0;  // in its process
  std::string uuid, name, pci;
  std::map<std::string, bool>
      can_access;                // by the UUID of a GPU that its process sees: can its own GPU access that one?
  bool has_vmm = false;          // its GPU can export memory as a file descriptor
  bool is_p2p_disabled = false;  // NCCL_P2P_DISABLE=1
  std::string wanted;            // LANE_PEER_MEMORY
  int64_t bytes = 0;

  std::string gpu() const;  // "rank 3's GPU (NVIDIA H200, 0000:1B:00.0)"
};

// This rank; `device_index` becomes the thread's current device.
Json describe_peer(int device_index, int64_t bytes);
PeerRank parse_peer(const Json& description, int rank, int node);

enum class PeerKind { kThreads, kVmm, kIpc };

struct PeerChoice {
  std::vector<PeerKind> kinds;  // those that may work, best first
  std::string passed_over;      // why not the others: one sentence, or nothing
};

// Depends on the descriptions alone, so all ranks choose alike. Throws what make_peer_memory() says.
PeerChoice choose_peer_kinds(const std::vector<PeerRank>& ranks);

}  // namespace lane::cuda
