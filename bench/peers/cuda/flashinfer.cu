// FlashInfer's (TensorRT-LLM's) fused all-reduce: the one-shot Lamport kernel, PDL on, sums in fp32. Options: "" as
// FlashInfer has it, "early" for its trigger of the next kernel at the start instead of the end, "two-shot".
// The workspace is that of flashinfer/comm/trtllm_ar.py.
#include <algorithm>
#include <array>
#include <string>
#include <type_traits>

#include "bench/peers/cuda/peer.h"
#include "flashinfer/comm/trtllm_allreduce_fusion.cuh"

namespace {

using namespace lane::peer;
namespace fusion = flashinfer::trtllm_allreduce_fusion;
using Pattern = fusion::AllReduceFusionPattern;

std::string name = "FlashInfer " LANE_FLASHINFER_VERSION;

__global__ void fill(uint32_t* words, size_t count, uint32_t word) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += size_t{gridDim.x} * blockDim.x)
    words[i] = word;
}

// Per rank: vectors for two-shot, flags of its barriers, three Lamport buffers full of -0.0 ("not yet here"), whose
// form depends on the type; and, for this rank alone, the counters.
class Workspace {
 public:
  Workspace(const Group& group, size_t max_bytes, uint32_t minus_zero)
      : vectors_(group, group.size() * max_bytes),
        flags_(group, group.size() * fusion::details::kBarrierFlagCount * sizeof(int)),
        lamport_(group, 3 * group.size() * max_bytes) {
    group.together([&] {
      const size_t lamport_bytes = group.size() * max_bytes;
      if (lamport_bytes > size_t{1} << 30) fail("FlashInfer counts the bytes of its buffers in 31 bits");
      fill<<<256, 256>>>(static_cast<uint32_t*>(lamport_.mine()), lamport_.bytes() / 4, minus_zero);
      check(cudaGetLastError(), "filling the workspace");
      // Blocks inside, flag of the barriers, which of the three buffers, the bytes of each, elements to clear.
      const int counters[5] = {0, 0, 0, static_cast<int>(lamport_bytes), 0};
      check(cudaMalloc(&counters_, sizeof counters), "cudaMalloc");
      check(cudaMemcpy(counters_, counters, sizeof counters, cudaMemcpyHostToDevice), "cudaMemcpy");
      std::vector<void*> pointers;
      for (const SharedMemory* memory : {&vectors_, &flags_, &lamport_})
        for (int rank = 0; rank < group.size(); ++rank) pointers.push_back(memory->of(rank));
      pointers.push_back(counters_);
      const size_t bytes = pointers.size() * sizeof(void*);
      check(cudaMalloc(&pointers_, bytes), "cudaMalloc");
      check(cudaMemcpy(pointers_, pointers.data(), bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
      check(cudaDeviceSynchronize(), "filling the workspace");
    });
  }
  ~Workspace() {
    cudaDeviceSynchronize();
    cudaFree(pointers_);
    cudaFree(counters_);
  }
  void** pointers() const { return static_cast<void**>(pointers_); }

 private:
  SharedMemory vectors_, flags_, lamport_;
  void* counters_ = nullptr;
  void* pointers_ = nullptr;
};

class FlashInfer {
 public:
  FlashInfer(const Group& group, const std::string& options, size_t max_bytes)
      : group_(group),
        max_bytes_((max_bytes + 15) / 16 * 16),
        two_shot_(options == "two-shot"),
        early_(options == "early") {
    if (!options.empty() && !two_shot_ && !early_)
      fail("FlashInfer: no option " + options + "; there are early and two-shot");
    if (group.num_nodes() > 1) fail("FlashInfer's all-reduce works within one host");
    if (group.size() != 2 && group.size() != 4 && group.size() != 8) fail("FlashInfer is compared at 2, 4 or 8 ranks");
    name = std::string("FlashInfer " LANE_FLASHINFER_VERSION) + (two_shot_ ? ", two-shot"
                                                                 : early_  ? ", one-shot, early trigger"
                                                                           : ", one-shot");
    halves_ = std::make_unique<Workspace>(group, max_bytes_, 0x80008000u);
    floats_ = std::make_unique<Workspace>(group, max_bytes_, 0x80000000u);
  }

  const char* why_not(size_t count, LanePeerType type) const {
    if (count * size_of(type) % 16 != 0) return "FlashInfer takes multiples of 16 bytes";
    if (count * size_of(type) > max_bytes_) return "the vector is longer than the peer was opened for";
    if (row_of(count, type) == 0) return "FlashInfer's two-shot wants more rows than ranks";
    return nullptr;
  }

  void all_reduce(const void* in, void* out, size_t count, LanePeerType type, cudaStream_t stream) {
    if (const char* reason = why_not(count, type)) fail(reason);
    run<Pattern::kAllReduce>({in, out, nullptr, nullptr, nullptr, 0}, count, row_of(count, type), type, stream);
  }

  void all_reduce_add_rms_norm(const void* in, void* residual, const void* weight, float epsilon, void* normed,
                               size_t rows, size_t hidden, LanePeerType type, cudaStream_t stream) {
    if (hidden * size_of(type) % 16 != 0) fail("FlashInfer takes rows of multiples of 16 bytes");
    if (rows * hidden * size_of(type) > max_bytes_) fail("the vector is longer than the peer was opened for");
    if (two_shot_ && rows <= static_cast<size_t>(group_.size())) fail("FlashInfer's two-shot wants more rows");
    run<Pattern::kARResidualRMSNorm>({in, nullptr, residual, weight, normed, epsilon}, rows * hidden, hidden, type,
                                     stream);
  }

  std::string error;

 private:
  struct Vectors {
    const void* in;
    void* out;
    void* residual;
    const void* weight;
    void* normed;
    float epsilon;
  };

  // A plain sum does not care where its rows end: the longest up to 4096 that divides the vector, with a thread for
  // each rank and more rows than ranks where the two-shot kernel needs them. 0: there is none.
  size_t row_of(size_t count, LanePeerType type) const {
    const size_t step = 16 / size_of(type), ranks = static_cast<size_t>(group_.size());
    const size_t least = two_shot_ ? ranks * step : step;
    const size_t most = std::min<size_t>(4096, two_shot_ ? count / (ranks + 1) : count);
    for (size_t row = most / step * step; row >= least; row -= step)
      if (count % row == 0) return row;
    return 0;
  }

  template <Pattern kPattern>
  void run(const Vectors& v, size_t count, size_t hidden, LanePeerType type, cudaStream_t stream) {
    if (type == kLanePeerF32) return launch<kPattern, float>(v, count, hidden, *floats_, stream);
    if (type == kLanePeerBF16) return launch<kPattern, __nv_bfloat16>(v, count, hidden, *halves_, stream);
    launch<kPattern, half>(v, count, hidden, *halves_, stream);
  }

  template <Pattern kPattern, class T>
  void launch(const Vectors& v, size_t count, size_t hidden, const Workspace& workspace, cudaStream_t stream) {
    fusion::AllReduceFusionParams<T> params{};
    params.nranks = group_.size();
    params.rank = group_.rank();
    params.size = static_cast<int>(count);
    params.hidden_dim = static_cast<int>(hidden);
    params.workspace = workspace.pointers();
    params.allreduce_in = const_cast<void*>(v.in);
    params.allreduce_out = v.out;
    params.residual_in = v.residual;
    params.residual_out = v.residual;
    params.norm_out = v.normed;
    params.rms_gamma = const_cast<void*>(v.weight);
    params.rms_eps = v.epsilon;
    params.use_oneshot = !two_shot_;
    params.stream = stream;
    params.pattern = kPattern;
    params.trigger_completion_at_end = !early_;
    // What allreduce_fusion_op() comes to, without its other patterns, which take minutes to compile.
    constexpr bool kFp32Sums = !std::is_same_v<T, float>;  // floats are summed as floats
    constexpr bool kPdl = true;
    cudaError_t status = cudaErrorInvalidValue;
    if (group_.size() == 2) status = fusion::allreduce_fusion_kernel_launcher<kPattern, T, 2, kFp32Sums>(params, kPdl);
    if (group_.size() == 4) status = fusion::allreduce_fusion_kernel_launcher<kPattern, T, 4, kFp32Sums>(params, kPdl);
    if (group_.size() == 8) status = fusion::allreduce_fusion_kernel_launcher<kPattern, T, 8, kFp32Sums>(params, kPdl);
    check(status, "FlashInfer's kernel");
  }

  Group group_;
  size_t max_bytes_;
  bool two_shot_, early_;
  std::unique_ptr<Workspace> halves_, floats_;  // -0.0 looks different in each
};

FlashInfer& self(void* peer) { return *static_cast<FlashInfer*>(peer); }

}  // namespace

const char* lane_peer_name() { return name.c_str(); }
void* lane_peer_open(const LanePeerGroup* group, const char* options, size_t max_bytes, char* why, size_t why_bytes) {
  return open_peer<FlashInfer>(group, options, max_bytes, why, why_bytes);
}
void lane_peer_close(void* peer) { delete &self(peer); }
void* lane_peer_allocate(void*, size_t) { return nullptr; }
const char* lane_peer_why_not(void* peer, size_t count, LanePeerType type) { return self(peer).why_not(count, type); }
int lane_peer_all_reduce(void* peer, const void* in, void* out, size_t count, LanePeerType type, cudaStream_t stream) {
  return guarded(self(peer).error, [&] { self(peer).all_reduce(in, out, count, type, stream); });
}
int lane_peer_captured(void*) { return 0; }
const char* lane_peer_error(void* peer) { return self(peer).error.c_str(); }
int lane_peer_all_reduce_add_rms_norm(void* peer, const void* in, void* residual, const void* weight, float epsilon,
                                      void* normed, size_t rows, size_t hidden, LanePeerType type,
                                      cudaStream_t stream) {
  return guarded(self(peer).error, [&] {
    self(peer).all_reduce_add_rms_norm(in, residual, weight, epsilon, normed, rows, hidden, type, stream);
  });
}
