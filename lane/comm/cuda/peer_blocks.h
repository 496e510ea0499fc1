#pragma once
#include <memory>
#include <string>
#include <vector>

#include "lane/comm/cuda/peer_memory.h"
#include "lane/comm/cuda/peer_rank.h"

namespace lane::cuda {

// One way to share memory, in the two steps that make_peer_memory() lets all ranks take together. Either may throw;
// what was made by then is given back by the destructor.
class PeerBlocks : public PeerMemory {
 public:
  PeerBlocks(int rank, std::vector<PeerRank> ranks, std::string kind) : own_(ranks[rank]), ranks_(std::move(ranks)) {
    kind_ = std::move(kind);
    bytes_ = own_.bytes;
    blocks_.resize(ranks_.size());
  }

  virtual Json offer() = 0;                                // makes this rank's block, zeroed; how others come to it
  virtual void open(const std::vector<Json>& offers) = 0;  // by rank, all made by now

 protected:
  std::vector<PeerRank> neighbours() const {  // the other ranks of this node
    std::vector<PeerRank> others;
    for (const PeerRank& other : ranks_)
      if (other.node == own_.node && other.rank != own_.rank) others.push_back(other);
    return others;
  }

  PeerRank own_;
  std::vector<PeerRank> ranks_;
};

std::unique_ptr<PeerBlocks> make_thread_blocks(int rank, const std::vector<PeerRank>& ranks);
std::unique_ptr<PeerBlocks> make_vmm_blocks(int rank, const std::vector<PeerRank>& ranks);
std::unique_ptr<PeerBlocks> make_ipc_blocks(int rank, const std::vector<PeerRank>& ranks);

}  // namespace lane::cuda
