#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lane/net/nccl_setting.h"

namespace lane::net {

// What a run of nccl-tests over a cluster is to measure.
struct NcclScriptOptions {
  std::string version, command;  // of Lane, for the first lines
  int num_ranks = 0, ranks_per_node = 0;
  std::string launcher = "mpirun";  // or srun
  std::vector<std::string> hosts;   // empty: as the scheduler gave them
  std::string hostfile;
  std::string model_name;                                  // for words
  int64_t hidden_size = 0;                                 // 0: no sizes of decoding
  int max_batch = 64;                                      // decode sizes are those of batches 1, 2, 4, ... max_batch
  int64_t min_bytes = 1024, max_bytes = int64_t{1} << 30;  // of the sweep, doubling
  std::string type = "bfloat16";
  std::vector<std::string> collectives = {"all_reduce"};
  std::vector<NcclSetting> settings;  // beside NCCL's own choice, which is always measured
  int repeats = 7;                    // runs of each, taking turns
  int iterations = 100, warmup = 20;
  int graph_launches = 0;    // 0: no CUDA graphs, and times of single calls where nccl-tests can
  std::string tuner_plugin;  // forces settings through it; empty: through NCCL_ALGO and NCCL_PROTO
  std::string table;         // of `lane tune nccl`, to be measured beside NCCL's own choice; needs tuner_plugin
};

// Throws Error{kInvalidArgument} for what cannot be.
void check(const NcclScriptOptions& options);

// A bash script that measures NCCL's own choice and, in turns with it, each setting: one JSON file of nccl-tests each,
// named COLLECTIVE.SETTING.PART.rREPEAT.json, and a log in which NCCL says what it chose. It changes nothing on the
// machine. Pure.
std::string nccl_script(const NcclScriptOptions& options);

}  // namespace lane::net
