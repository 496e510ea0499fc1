#pragma once
#include <cuda_runtime_api.h>

#include <memory>
#include <string>

#include "lane/comm/communicator.h"
#include "lane/comm/cuda/peer_memory.h"

namespace lane::cuda {

// NCCL as one way among others, from whatever libnccl.so.2 the process finds at run time; it is not linked.
class Nccl {
 public:
  // Null, on all ranks alike, if one of them has no NCCL, or LANE_NCCL=off; with LANE_NCCL=only that is an error.
  // Collective.
  static std::unique_ptr<Nccl> find(const PeerMemory::Exchange& exchange, int rank, int size);
  virtual ~Nccl() = default;

  // Opens its communicator at the first call, which takes about a second; collective. False under graph capture before
  // that. LANE_NCCL=on and only have it opened by find() already.
  virtual bool is_ready(cudaStream_t stream) = 0;
  virtual void all_reduce(const void* in, void* out, int64_t count, DType type, ReduceOp op, cudaStream_t stream) = 0;
  virtual std::string version() const = 0;
};

}  // namespace lane::cuda
