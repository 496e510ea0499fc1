#pragma once
#include <memory>
#include <vector>

#include "lane/comm/cuda/peer_memory.h"

namespace lane::cuda {

// Memory on NVSHMEM's symmetric heap. of(rank) is null where loads and stores do not reach; puts reach everywhere.
class NvshmemMemory : public PeerMemory {
 public:
  int pe_of(int rank) const { return pes_[rank]; }  // NVSHMEM's number of a rank

 protected:
  std::vector<int> pes_;
};

// Collective, as make_peer_memory(). The first call starts NVSHMEM, for its ranks and for good: a process belongs to
// one world of NVSHMEM, so that later groups have to be of the same ranks, in any order. (Groups of some of them would
// be NVSHMEM's teams: their numbers in the world are all that a put needs, but nvshmem_malloc() is called by the whole
// world, so the world would have to set memory aside for them beforehand.) Memory goes back for the next group and
// never to NVSHMEM, whose nvshmem_free() would wait for ranks that may be gone. Throws Error{kUnsupported}, on all
// ranks alike. There is no deadline on NVSHMEM's own meeting: a rank that dies within it leaves the others waiting.
std::unique_ptr<NvshmemMemory> make_nvshmem_memory(const PeerMemory::Exchange& exchange, int rank,
                                                   const std::vector<int>& nodes, int device_index, int64_t bytes);

}  // namespace lane::cuda
