// The schedules hier:two_shot/BETWEEN where GPUs of other nodes are reached by NVSHMEM's puts and not by stores.
#pragma once
#include "lane/comm/cuda/launch.cuh"

namespace lane::cuda {

// NVSHMEM's number of the rank with this one's place, by node.
struct PutPeers {
  int pe[kMostNodes];
};
// The group's regions are NVSHMEM's symmetric memory (nvshmem_memory.h); `across` is not used.
int64_t lines_needed_put(Between between, const Group& group, DType type, int64_t bytes);
void put_all_reduce(const Group& group, const PutPeers& peers, Between between, DType type, ReduceOp op, const void* in,
                    void* out, int64_t count, const Launch& launch);
void load_put_kernels();  // see load_kernels()

}  // namespace lane::cuda
