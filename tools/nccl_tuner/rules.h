// The tuner's table: lines of
//   collective_type,min_bytes,max_bytes,algorithm,protocol,channels,nNodes,nRanks[,numPipeOps[,regBuff]]
// as NVIDIA's example plugin reads them; -1 is "any", of channels "NCCL's own". '#' begins a comment.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/nccl_tuner/nccl_tuner_abi.h"

namespace nccl_tuner {

struct Rule {
  Function function;
  uint64_t min_bytes, max_bytes;
  Algorithm algorithm;
  Protocol protocol;
  int num_channels, num_nodes, num_ranks, num_pipe_ops, registered;
};

// What a communicator asks.
struct Call {
  Function function;
  uint64_t bytes;
  size_t num_nodes, num_ranks;
  int num_pipe_ops, registered;
};
bool matches(const Rule& rule, const Call& call);

// True and *rule, or false and *why.
bool parse_rule(std::string_view line, Rule* rule, std::string* why);

}  // namespace nccl_tuner
