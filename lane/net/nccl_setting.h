#pragma once
#include <compare>
#include <string>
#include <string_view>

namespace lane::net {

// What NCCL is told to take, in the words of NCCL's tuner tables: "ring", "ll", 4 channels. All empty: NCCL's own
// choice.
struct NcclSetting {
  std::string algorithm, protocol;
  int num_channels = 0;  // 0: NCCL's own number
  bool is_default() const { return algorithm.empty(); }
  auto operator<=>(const NcclSetting&) const = default;
};

// "default", "ring_ll", "nvls_tree_simple_c8": names of files carry it.
std::string name_of(const NcclSetting& setting);
// Error{kInvalidArgument} that says what there is.
NcclSetting parse_nccl_setting(std::string_view name);

// NCCL's tokens: NCCL_ALGO "NVLSTree" of "nvls_tree", NCCL_PROTO "LL128" of "ll128"; and back, in any case.
std::string algorithm_token(std::string_view algorithm);
std::string protocol_token(std::string_view protocol);
std::string algorithm_of_token(std::string_view token);  // empty if there is no such one
std::string protocol_of_token(std::string_view token);

// "allreduce" of "all_reduce", as the tables say; empty for collectives that NCCL's tuner does not choose for.
std::string tuner_collective(std::string_view collective);

// Which algorithm NCCL has for which collective, and with which protocols (src/graph/tuning.cc and src/enqueue.cc).
bool can_run(std::string_view collective, const NcclSetting& setting);

}  // namespace lane::net
