// How a peer library's all-reduce on GPUs is put beside Lane's in one benchmark: a shared library
// liblane-peer-NAME.so with these C functions, loaded at run time. One process a rank, one GPU a process, current when
// any of them is called. The harness times all candidates alike: this interface only puts work onto a stream.
#pragma once
#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct LanePeerGroup {
  int rank, size, device;
  int num_nodes;  // emulated hosts: consecutive ranks, evenly
  // All ranks' blocks of `bytes` bytes, in rank order, to `all`. Collective. 0, or not if a rank is gone.
  int (*all_gather)(void* context, const void* mine, size_t bytes, void* all);
  void* context;
} LanePeerGroup;

typedef enum LanePeerType { kLanePeerF32, kLanePeerBF16, kLanePeerF16 } LanePeerType;

// One line for the table: "NCCL 2.28.9, symmetric windows".
const char* lane_peer_name(void);

// Null on failure, with a sentence in `why` (of `why_bytes`). `options`: what follows the peer's name in --peers
// (nccl:LL128), may be empty. `max_bytes`: of a vector. Collective, and so is the end.
void* lane_peer_open(const LanePeerGroup* group, const char* options, size_t max_bytes, char* why, size_t why_bytes);
void lane_peer_close(void* peer);

// Memory that the peer wants its buffers in (registered, symmetric), or null if any will do. Collective.
void* lane_peer_allocate(void* peer, size_t bytes);

// A sentence if the peer cannot do this size and type, else null.
const char* lane_peer_why_not(void* peer, size_t count, LanePeerType type);

// Puts out = sum over ranks of in onto the stream; may be under graph capture. 0, or not with lane_peer_error() saying
// why. lane_peer_captured() is called once after a capture ended and before the first replay (collective).
int lane_peer_all_reduce(void* peer, const void* in, void* out, size_t count, LanePeerType type, cudaStream_t stream);
int lane_peer_captured(void* peer);
const char* lane_peer_error(void* peer);

// Optional: residual += sum over ranks of in, normed = RMSNorm(residual, epsilon) * weight; [rows, hidden]. Absent or
// not 0: the peer has none.
int lane_peer_all_reduce_add_rms_norm(void* peer, const void* in, void* residual, const void* weight, float epsilon,
                                      void* normed, size_t rows, size_t hidden, LanePeerType type, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
