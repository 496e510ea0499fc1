#include "lane/plan/schedule.h"

#include <algorithm>

namespace lane::plan {

int Schedule::num_rounds() const {
  int rounds = 0;
  for (const auto& steps : program)
    if (!steps.empty()) rounds = std::max(rounds, steps.back().round + 1);
  return rounds;
}

std::string_view name_of(Collective collective) {
  switch (collective) {
    case Collective::kAllReduce:
      return "all_reduce";
    case Collective::kReduceScatter:
      return "reduce_scatter";
    case Collective::kAllGather:
      return "all_gather";
    case Collective::kBroadcast:
      return "broadcast";
    case Collective::kGather:
      return "gather";
    case Collective::kAllToAll:
      return "all_to_all";
  }
  return "?";
}

}  // namespace lane::plan
