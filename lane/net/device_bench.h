// `lane bench allreduce` on GPUs: one process a GPU. docs/measuring.md defines the numbers.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "lane/comm/communicator.h"
#include "lane/net/all_reduce_bench.h"

namespace lane::net {

// A fused operation's matrix: all-reduce, then residual += sum, then RMSNorm.
struct FusedShape {
  int64_t hidden = 0, num_tokens = 0;
};
FusedShape fused_shape_from_text(const std::string& text);  // "8192x4"; Error{kInvalidArgument}

// Another library: "nccl:symmetric" is the plugin liblane-peer-nccl.so, opened with the options "symmetric".
struct DevicePeer {
  std::string text, library, options;
};
DevicePeer device_peer_from_text(const std::string& text);  // Error{kInvalidArgument}

struct DeviceBenchOptions {
  std::vector<int64_t> sizes;  // bytes of the vector
  std::vector<DType> dtypes = {DType::kBF16};
  std::vector<ReduceOp> ops = {ReduceOp::kSum};
  std::vector<std::string> algorithms = {"auto"};  // "all": auto and every one that there is
  std::vector<DevicePeer> peers;
  std::string peer_directory;  // of the plugins; empty: where the build or the installation puts them
  std::vector<FusedShape> fused;
  bool graph = true, eager = false;
  bool cold = false, with_gemm = false;  // also measured with something between the calls
  double skew_us = 0;                    // ranks come up to so much apart; 0: not measured
  int calls_per_graph = 20, num_samples = 1000;
  bool check = true;
};
void check_options(const DeviceBenchOptions& options);  // Error{kInvalidArgument} that names the flag

// How late `rank` is at a call, in microseconds: random in [0, most_us), the same in every run.
double skew_of(int rank, int64_t call, double most_us);

// What the GPUs of a group are. The same on all ranks.
struct DeviceMachine {
  std::string driver;              // "580.95.05, CUDA 13.0"
  std::vector<std::string> gpus;   // by rank: "NVIDIA H200 at 0000:19:00.0, 1980 MHz"
  std::string fabric;              // how Lane reaches the other GPUs
  std::vector<std::string> peers;  // libraries and versions of those that opened, in the order of the options
};

// Measures on all ranks of `group`, which call it alike; a rank uses the GPU local_device() says. `on_machine` comes
// first, once. `on_rows` gets what was measured at one size or shape. Throws Error{kUnsupported} where Lane was built
// without CUDA or there is no GPU.
void bench_device_all_reduce(Communicator& group, const DeviceBenchOptions& options,
                             const std::function<void(const DeviceMachine&)>& on_machine,
                             const std::function<void(const std::vector<AllReduceRow>&)>& on_rows,
                             const std::function<void(int64_t done, int64_t total)>& on_step);

// Throws Error{kUnsupported} with a sentence if this build has no CUDA. Does not touch a GPU, so that ranks may be
// started afterwards.
void require_cuda_build();

}  // namespace lane::net
