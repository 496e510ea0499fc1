// The kernels of a group, as functions. All are capture-safe and return at once; a launch that fails throws.
#pragma once
#include <cuda_runtime_api.h>

#include "lane/base/dtype.h"
#include "lane/comm/communicator.h"
#include "lane/comm/cuda/mailbox.h"
#include "lane/comm/cuda/view.h"

namespace lane::cuda {

struct Launch {
  int blocks = 2, threads = 128;  // one block more than share the work: see Span
  int cluster = 1;                // blocks that share a row of a norm
  bool is_chained = true;         // programmatic dependent launch
  cudaStream_t stream = nullptr;
};

// Schedules direct one-shot and two-shot among the ranks of a node. float32, bfloat16, float16. `lines` of buffer that
// they need must be there: see lines_needed().
enum class Shot : uint8_t { kOne, kTwo };
int64_t lines_needed(Shot shot, int size, int64_t bytes);
void all_reduce(const Group& group, Shot shot, DType type, ReduceOp op, const void* in, void* out, int64_t count,
                const Launch& launch);

// Two-shot whose sums go out once and are copied by NVSwitch. `everywhere`: MulticastMemory::data() over the regions.
// As many lines as Shot::kTwo. Not loaded with the other kernels: load_multicast() says false where this build has no
// such kernel for the current GPU.
void two_shot_multicast(const Group& group, std::byte* everywhere, DType type, ReduceOp op, const void* in, void* out,
                        int64_t count, const Launch& launch);
bool load_multicast();

// [rows, hidden] with hidden * size of the type a multiple of 16, all pointers at multiples of 16. `normed` is of the
// type, or 8-bit floats (e4m3) of `scale` times the value where is_fp8.
struct NormArgs {
  const void* in;
  void* residual;
  const void* weight;
  void* normed;
  int64_t rows, hidden;
  float epsilon;
  bool is_fp8 = false;
  float scale = 1;
};
void all_reduce_add_rms_norm(const Group& group, Shot shot, DType type, const NormArgs& args, const Launch& launch);

// Schedule hier:two_shot/BETWEEN over nodes of equal size; partial sums go between nodes in float32.
enum class Between : uint8_t { kOneShot, kDoubling, kHalving };  // kHalving: and doubling back (Rabenseifner)
int64_t lines_needed(Between between, const Group& group, DType type, int64_t bytes);
void hierarchical_all_reduce(const Group& group, Between between, DType type, ReduceOp op, const void* in, void* out,
                             int64_t count, const Launch& launch);

// The same with the sum between nodes made by the hosts (proxy.h): pinned memory as the device sees it.
struct HostNetwork {
  Mailbox* mailboxes;
  std::byte* to_network;
  const std::byte* from_network;
};
int64_t lines_needed_proxied(const Group& group, int64_t bytes);
void proxied_all_reduce(const Group& group, const HostNetwork& network, DType type, ReduceOp op, const void* in,
                        void* out, int64_t count, const Launch& launch);

// in [size, count]: `out` is this rank's part of the sum.
int64_t lines_needed_scatter(int size, int64_t part_bytes);
void reduce_scatter(const Group& group, DType type, ReduceOp op, const void* in, void* out, int64_t count,
                    const Launch& launch);
// Any bytes, bit for bit.
int64_t lines_needed_all_gather(int size, int64_t bytes);
int64_t lines_needed_broadcast(int size, int64_t bytes);
void all_gather(const Group& group, const void* in, void* out, int64_t bytes, const Launch& launch);
void broadcast(const Group& group, int root, void* inout, int64_t bytes, const Launch& launch);

// Schedule direct two-shot with 8-bit floats on the wire: half the bytes of bfloat16, an error of some 4 % (see
// fp8_lines.h), the same bits on all ranks. Sums and averages of float32, bfloat16, float16.
int64_t lines_needed_compressed(int size, DType type, int64_t bytes);
void compressed_all_reduce(const Group& group, DType type, ReduceOp op, const void* in, void* out, int64_t count,
                           const Launch& launch);

void fill_empty(std::byte* region, int64_t bytes, uint32_t first_number, cudaStream_t stream);

// Loads all kernels onto the current device now: loading one later may wait for kernels that wait for this rank.
void load_kernels();

}  // namespace lane::cuda
