#include <algorithm>

#include "lane/base/error.h"
#include "lane/plan/schedules/schedules.h"

namespace lane::plan {
namespace {

struct Entry {
  Collective collective;
  std::string_view name;
  Schedule (*make)(int num_ranks, int root);
};

constexpr Entry kEntries[] = {
    {Collective::kAllReduce, "one_shot", [](int n, int) { return one_shot_all_reduce(n); }},
    {Collective::kAllReduce, "two_shot", [](int n, int) { return two_shot_all_reduce(n); }},
    {Collective::kAllReduce, "ring", [](int n, int) { return ring_all_reduce(n); }},
    {Collective::kReduceScatter, "direct", [](int n, int) { return direct_reduce_scatter(n); }},
    {Collective::kAllGather, "direct", [](int n, int) { return direct_all_gather(n); }},
    {Collective::kBroadcast, "direct", [](int n, int root) { return direct_broadcast(n, root); }},
    {Collective::kBroadcast, "binomial", [](int n, int root) { return binomial_broadcast(n, root); }},
    {Collective::kGather, "direct", [](int n, int root) { return direct_gather(n, root); }},
};

}  // namespace

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
  }
  return "?";
}

std::vector<std::string> schedule_names(Collective collective) {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries)
    if (entry.collective == collective) names.emplace_back(entry.name);
  return names;
}

Schedule make_schedule(std::string_view name, Collective collective, int num_ranks, int root) {
  if (num_ranks < 1 || root < 0 || root >= num_ranks)
    throw Error(ErrorCode::kInvalidArgument, "a schedule for " + std::to_string(num_ranks) + " ranks with root " +
                                                 std::to_string(root) + " cannot be");
  std::string known;
  for (const Entry& entry : kEntries) {
    if (entry.collective != collective) continue;
    if (entry.name == name) {
      Schedule schedule = entry.make(num_ranks, root);
      schedule.name = name;
      return schedule;
    }
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw Error(ErrorCode::kInvalidArgument, "no " + std::string(name_of(collective)) + " algorithm is called " +
                                               std::string(name) + "; known: " + known);
}

}  // namespace lane::plan
