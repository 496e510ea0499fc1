// What kernels do with their group's memory.
#pragma once
#include "lane/comm/cuda/view.h"
#include "lane/comm/cuda/words.cuh"

namespace lane::cuda {

__device__ __forceinline__ Header& header_of(const Group& group) {
  return *reinterpret_cast<Header*>(group.regions[group.place]);
}
__device__ __forceinline__ Line* buffer_of(const Group& group, int place, const Turn& turn) {
  return reinterpret_cast<Line*>(group.regions[place] + kHeaderBytes) + turn.buffer * group.buffer_lines;
}

// Lets the next kernel of the stream get ready and waits for the end of the one before.
__device__ __forceinline__ void begin() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
  cudaGridDependencySynchronize();
#endif
}
__device__ __forceinline__ Turn this_turn(const Group& group) {
  const Line line = *reinterpret_cast<const Line*>(&header_of(group).turns[blockIdx.x]);
  return {line.x, line.y, line.z, line.w};
}
// `first` and `stride` of a loop over all threads of the grid.
__device__ __forceinline__ void clear_last(const Group& group, const Turn& turn, int64_t first, int64_t stride) {
  Turn last = turn;
  last.buffer = turn.buffer == 0 ? kBuffers - 1 : turn.buffer - 1;
  Line* lines = buffer_of(group, group.place, last);
  for (int64_t i = first; i < turn.dirty; i += stride) lines[i] = empty_line();
}
// All blocks but the last one, which is the clerk, share the lines of an operation.
struct Span {
  int64_t first, stride;
};
__device__ __forceinline__ Span this_span() {
  return {static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x,
          static_cast<int64_t>(gridDim.x - 1) * blockDim.x};
}
__device__ __forceinline__ bool is_clerk() { return blockIdx.x == gridDim.x - 1; }

// `used`: lines of the buffer that this operation receives into, or may. Called when there is time: between sending and
// waiting.
__device__ __forceinline__ void advance(const Group& group, const Turn& turn, int64_t used) {
  __syncthreads();  // all threads of the block have read its copy
  const Turn next{turn.number + 1, turn.buffer == kBuffers - 1 ? 0 : turn.buffer + 1, static_cast<uint32_t>(used), 0};
  for (int copy = blockIdx.x + threadIdx.x * gridDim.x; copy < kMostBlocks; copy += blockDim.x * gridDim.x)
    header_of(group).turns[copy] = next;
}

__device__ __forceinline__ Call load_call(const Call* from) {
  Call call;
  asm volatile("ld.relaxed.sys.global.v2.u32 {%0, %1}, [%2];" : "=r"(call.what), "=r"(call.number) : "l"(from));
  return call;
}
__device__ __forceinline__ bool differs(const Call& theirs, uint32_t number, uint32_t what) {
  return theirs.number == number && theirs.what != what;
}
static __device__ __noinline__ void report(const Group& group, Step step, int peer, uint32_t number,
                                           uint64_t waited_ns) {
  if (atomicCAS(&header_of(group).failed, 0u, 1u) != 0) return;
  Report& report = *group.report;
  const Header& header = header_of(group);
  report.peer = peer;
  report.step = step;
  report.number = number;
  report.waited_ns = waited_ns;
  report.call = header.calls[number % kKeptCalls][group.place].what;
  const Call theirs = load_call(&header.calls[number % kKeptCalls][peer]);
  report.is_known = theirs.number == number;
  report.peer_call = theirs.what;
  // How far the peer is. Its process may be gone; its memory stays mapped.
  report.peer_number =
      step == Step::kBetweenNodes ? 0 : load_word(&reinterpret_cast<Header*>(group.regions[peer])->turns[0].number);
  __threadfence_system();
  store_word(&report.written, 1);
}

// What the last block does: it tells the others of the node what this rank calls, and looks whether they called the
// same the last time. (At what they call now, only a wait that takes long has the time to look.) On a block that also
// waited for lines this would take 0.7 µs of an operation's time.
__device__ __forceinline__ void be_clerk(const Group& group, const Turn& turn, int64_t used) {
  const uint32_t last = turn.number - 1;
  for (int peer = static_cast<int>(threadIdx.x); peer < group.size; peer += static_cast<int>(blockDim.x)) {
    Call* to = &reinterpret_cast<Header*>(group.regions[peer])->calls[turn.number % kKeptCalls][group.place];
    asm volatile("st.relaxed.sys.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(group.call), "r"(turn.number));
    const Call* before = header_of(group).calls[last % kKeptCalls];
    const Call mine = load_call(before + group.place);
    if (mine.number == last && differs(load_call(before + peer), last, mine.what))
      report(group, Step::kCall, peer, last, 0);
  }
  advance(group, turn, used);
}

__device__ __forceinline__ uint64_t now_ns() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

// A wait of one thread, with an end.
struct Wait {
  const Group& group;
  const Turn& turn;
  Step step;
  int polls = 0, looks = 0;
  uint64_t since = 0;

  // After a look that found something missing. `peer`: the place of a rank whose words were missing.
  __device__ __forceinline__ bool is_over(int peer) { return ++polls % 256 == 0 && has_ended(peer); }

  __device__ __noinline__ bool has_ended(int peer) {
    Header& header = header_of(group);
    if (load_word(&header.failed) != 0) return true;
    const uint64_t now = now_ns();
    if (since == 0) since = now;
    // The host's word lies across PCIe: one thread of a warp looks, and not each time.
    const uint32_t active = __activemask();
    if (++looks % 16 == 0 && (threadIdx.x & 31) == __ffs(active) - 1 && load_word(&group.report->abort) != 0)
      atomicExch(&header.failed, 1u);
    if (step != Step::kBetweenNodes && step != Step::kNetwork &&
        differs(load_call(&header.calls[turn.number % kKeptCalls][peer]), turn.number, group.call))
      report(group, Step::kCall, peer, turn.number, now - since);
    else if (now - since >= (step == Step::kNetwork ? 2 * group.timeout_ns : group.timeout_ns))  // the host knows more
      report(group, step, peer, turn.number, now - since);
    else
      return false;
    return true;
  }
};

}  // namespace lane::cuda
