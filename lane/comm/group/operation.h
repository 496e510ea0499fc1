#pragma once
#include <cstdint>
#include <string_view>

namespace lane {

// What the caller asked for; all ranks of a group call the same kinds in the same order.
enum class OperationKind : uint8_t {
  kNone,
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kAllToAll,
  kBroadcast,
  kBarrier,
  kSplit,
  kBroadcastText,
  kGatherText
};

constexpr std::string_view name_of(OperationKind kind) {
  constexpr std::string_view kNames[] = {"nothing",   "all_reduce", "reduce_scatter", "all_gather",     "all_to_all",
                                         "broadcast", "barrier",    "split",          "broadcast_text", "gather_text"};
  return static_cast<size_t>(kind) < std::size(kNames) ? kNames[static_cast<size_t>(kind)] : "?";
}

}  // namespace lane
