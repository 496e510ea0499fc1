// Blocks that share a row: a cluster on sm_90 and later, a single block before.
#pragma once
#include <cooperative_groups.h>

namespace lane::cuda {

#if __CUDA_ARCH__ >= 900
using Cluster = cooperative_groups::cluster_group;
__device__ __forceinline__ Cluster this_cluster() { return cooperative_groups::this_cluster(); }
#else
struct Cluster {
  __device__ unsigned num_blocks() const { return 1; }
  __device__ unsigned num_threads() const { return blockDim.x; }
  __device__ unsigned block_rank() const { return 0; }
  __device__ void barrier_arrive() const {}
  __device__ void barrier_wait() const {}
  __device__ void sync() const { __syncthreads(); }
  template <class T>
  __device__ T* map_shared_rank(T* address, int) const {
    return address;
  }
};
__device__ __forceinline__ Cluster this_cluster() { return {}; }
#endif

}  // namespace lane::cuda
