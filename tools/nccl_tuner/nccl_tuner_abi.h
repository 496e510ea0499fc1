// The part of NCCL's tuner plugin interface that a plugin needs, versions 5 and 6: what NCCL documents for plugins in
// its own src/include/plugin/tuner/tuner_v5.h and tuner_v6.h (2.30.7). Declared here so that the plugin builds where no
// NCCL is. Version 6 is version 5 with getChunkSize at its end.
#pragma once
#include <cstddef>
#include <cstdint>

namespace nccl_tuner {

enum Result : int { kSuccess = 0, kSystemError = 2, kInternalError = 3, kInvalidArgument = 4 };
enum LogLevel : int { kWarn = 2, kInfo = 3 };
constexpr unsigned long kTuning = 64;  // NCCL_TUNING of NCCL_DEBUG_SUBSYS

enum Function : int { kBroadcast = 0, kReduce = 1, kAllGather = 2, kReduceScatter = 3, kAllReduce = 4 };
enum Algorithm : int { kTree, kRing, kCollnetDirect, kCollnetChain, kNvls, kNvlsTree, kPat, kNumAlgorithms };
enum Protocol : int { kLL, kLL128, kSimple, kNumProtocols };
constexpr float kNotAvailable = -1.0f;  // NCCL_ALGO_PROTO_IGNORE

using LogFunction = void (*)(LogLevel level, unsigned long flags, const char* file, int line, const char* format, ...);

struct NvlDomainInfo {
  int num_domains, min_ranks, max_ranks;
};

// NCCL's latencies and bandwidths, which a plugin may change and this one does not touch: only its address is passed,
// and its last table is missing in the copy of the header that NVIDIA's example plugin carries.
struct Constants;

extern "C" {
using Init = Result (*)(void** context, uint64_t comm_id, size_t num_ranks, size_t num_nodes, LogFunction log,
                        NvlDomainInfo* domains, Constants* constants);
// `costs` is a float[num_algorithms][num_protocols] of NCCL's times in us, whatever its type says. What is set to 0.0
// is preferred; what is not available must stay. *num_channels is 0 and means NCCL's own number as long as it is.
using GetCollInfo = Result (*)(void* context, Function function, size_t bytes, int num_pipe_ops, float** costs,
                               int num_algorithms, int num_protocols, int registered, int* num_channels);
using Finalize = Result (*)(void* context);
using GetChunkSize = Result (*)(void* context, Function function, size_t bytes, int algorithm, int protocol,
                                int num_channels, size_t* chunk_size);
}

struct TunerV5 {
  const char* name;
  Init init;
  GetCollInfo get_coll_info;
  Finalize finalize;
};

struct TunerV6 {
  const char* name;
  Init init;
  GetCollInfo get_coll_info;
  Finalize finalize;
  GetChunkSize get_chunk_size;  // null: NCCL's own sizes
};

// Values of the headers on LP64, taken with offsetof and sizeof from NCCL 2.30.7.
static_assert(sizeof(TunerV5) == 32 && offsetof(TunerV5, finalize) == 24);
static_assert(sizeof(TunerV6) == 40 && offsetof(TunerV6, get_chunk_size) == 32);
static_assert(sizeof(NvlDomainInfo) == 12 && sizeof(Function) == 4 && sizeof(Result) == 4);

}  // namespace nccl_tuner
