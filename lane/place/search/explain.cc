#include "lane/place/search/explain.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "lane/base/units.h"
#include "lane/topology/hostlist.h"

namespace lane::place {
namespace {

using plan::Tier;

std::string plural(int64_t count, const char* word) {
  return fmt::format("{} {}{}", count, word, count == 1 ? "" : "s");
}

std::string words_for(Tier tier) {
  switch (tier) {
    case Tier::kSelf:
      return "one GPU";
    case Tier::kNvlink:
      return "one NVLink domain";
    case Tier::kNode:
      return "one host over PCIe";
    case Tier::kLeaf:
      return "hosts on one leaf switch";
    case Tier::kSpine:
      return "leaf switches joined by a spine";
    case Tier::kCore:
      return "leaf switches joined above the spine";
  }
  return "";
}

// "n[01-02]"
std::string hosts_of(const plan::Reach& reach, const Group& group) {
  std::vector<std::string> names;
  for (const topology::GpuRef gpu : group.gpus) {
    const std::string& name = reach.topology().hosts[gpu.host].name;
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return topology::compress_hostlist(names);
}

// How many groups single islands, and single leaves, have room for.
struct Room {
  int64_t islands = 0, leaves = 0;
  std::map<int, int> free_of_leaf;
};

Room room_for(const Cluster& cluster, int tensor) {
  Room room;
  std::map<int, int> free_of_island;
  for (const Unit& unit : cluster.units()) {
    free_of_island[unit.island] += static_cast<int>(unit.free.size());
    room.free_of_leaf[unit.leaf] += static_cast<int>(unit.free.size());
  }
  for (const auto& [island, free] : free_of_island) room.islands += free / tensor;
  for (const auto& [leaf, free] : room.free_of_leaf) room.leaves += free / tensor;
  return room;
}

// "hosts with 8 free GPUs: 3; with 5: 1".
std::string free_hosts(const Cluster& cluster) {
  std::map<int, int, std::greater<>> count;
  for (const Unit& unit : cluster.units()) ++count[static_cast<int>(unit.free.size())];
  std::string text;
  int num_kinds = 0;
  for (const auto& [free, hosts] : count) {
    if (++num_kinds > 8) return text + ", ...";
    text += fmt::format("{}{} with {} free", text.empty() ? "" : ", ", plural(hosts, "host"), plural(free, "GPU"));
  }
  return text;
}

}  // namespace

std::vector<std::string> explain(const plan::Reach& reach, const Cluster& cluster, Pricer& pricer,
                                 const Result& result) {
  const Job& job = pricer.job();
  const Placement& placement = result.placement;
  std::vector<std::string> why;
  const auto slowest = std::max_element(placement.replica_s.begin(), placement.replica_s.end());
  const int replica = static_cast<int>(slowest - placement.replica_s.begin());
  const int pipeline = job.plan.pipeline;
  for (int stage = 0; stage < pipeline; ++stage) {
    const Group& group = placement.groups[replica * pipeline + stage];
    std::string line =
        fmt::format("replica {} stage {} on {}: {}", replica, stage, hosts_of(reach, group), words_for(group.tier));
    if (job.plan.tensor > 1)
      line += fmt::format("; {} all-reduces of {} by {}, {} each", pricer.num_all_reduces(stage),
                          format_bytes(static_cast<double>(job.message_bytes())), group.algorithm,
                          format_duration(group.all_reduce_s));
    why.push_back(std::move(line));
    if (stage >= 7 && stage + 1 < pipeline) {
      why.push_back(fmt::format("... and {}", plural(pipeline - stage - 1, "stage") + " more"));
      break;
    }
  }
  // What keeps groups apart, and what one step nearer would gain.
  Tier worst = Tier::kSelf;
  int num_worst = 0, num_unaligned = 0;
  double worst_s = 0;
  for (const Group& group : placement.groups) {
    if (group.tier > worst) worst = group.tier, num_worst = 0, worst_s = 0;
    if (group.tier == worst) ++num_worst, worst_s = std::max(worst_s, group.all_reduce_s);
    num_unaligned += group.is_aligned ? 0 : 1;
  }
  const Room room = room_for(cluster, job.plan.tensor);
  const int64_t num_groups = static_cast<int64_t>(placement.groups.size());
  if (worst >= Tier::kLeaf && job.plan.tensor > 1) {
    const bool is_far = worst > Tier::kLeaf;
    plan::Fabric near{.layout = plan::Layout::one_node(job.plan.tensor)};
    const Group& any = *std::find_if(placement.groups.begin(), placement.groups.end(),
                                     [&](const Group& group) { return group.tier == worst; });
    if (is_far) {
      near = reach.fabric(any.gpus);
      near.rack_of_node.clear();
      near.uplink = {};
    } else {
      near.local = reach.nvlink(any.gpus[0]);
    }
    const double near_s = pricer.all_reduce(near).seconds;
    int num_all_reduces = 0;
    for (int stage = 0; stage < pipeline; ++stage) num_all_reduces += pricer.num_all_reduces(stage);
    std::string line = fmt::format("{} of {} groups span {}: ", num_worst, num_groups, words_for(worst));
    const int64_t fitting = is_far ? room.leaves : room.islands;
    if (fitting < num_groups) {
      line +=
          fmt::format("{} on single {} have room for {} of {} GPUs", is_far ? "the free GPUs" : "the free GPUs",
                      is_far ? "leaf switches" : "hosts or NVLink domains", plural(fitting, "group"), job.plan.tensor);
    } else {
      line += fmt::format("all of them on single {} would leave other parts of a replica farther apart",
                          is_far ? "leaf switches" : "hosts or NVLink domains");
    }
    if (near_s < worst_s)
      line +=
          fmt::format("; a replica that is {} takes {} less a step", is_far ? "on one leaf" : "in one NVLink domain",
                      format_duration(num_all_reduces * (worst_s - near_s)));
    why.push_back(std::move(line));
  }
  if (const auto far = std::count_if(placement.hops.begin(), placement.hops.end(),
                                     [](const Tier tier) { return tier > Tier::kLeaf; });
      far > 0)
    why.push_back(fmt::format("{} of {} hops between stages leave their leaf switch", far, placement.hops.size()));
  if (num_unaligned > 0)
    why.push_back(
        fmt::format("{} do not have the same GPU indices on each host, so that their traffic changes rails: "
                    "no common ones are free",
                    plural(num_unaligned, "group")));
  return why;
}

std::string what_is_missing(const Cluster& cluster, const Job& job, size_t num_placed, bool is_proved) {
  const plan::ParallelPlan& plan = job.plan;
  const int num_groups = plan.pipeline * plan.replicas;
  int64_t num_free = 0;
  for (const Unit& unit : cluster.units()) num_free += static_cast<int64_t>(unit.free.size());
  std::string text =
      fmt::format("the job does not fit: it needs {} of {}", plural(num_groups, "group"), plural(plan.tensor, "GPU"));
  text += fmt::format(" ({} in all), and {} are free", int64_t{num_groups} * plan.tensor, num_free);
  if (num_free == 0) return text + " on the hosts that it may use";
  text += fmt::format(" ({})", free_hosts(cluster));
  if (num_free >= int64_t{num_groups} * plan.tensor) {
    std::vector<std::string> ways;
    for (const int per_unit : divisors_descending(plan.tensor)) {
      int64_t shares = 0;
      for (const Unit& unit : cluster.units()) shares += static_cast<int64_t>(unit.free.size()) / per_unit;
      ways.push_back(fmt::format("{} x {} ({} such shares for {})", plan.tensor / per_unit, per_unit, shares,
                                 int64_t{num_groups} * plan.tensor / per_unit));
      if (ways.size() == 4) break;
    }
    text += fmt::format("; hosts share a group evenly: {}", fmt::join(ways, ", "));
    if (job.same_rack) text += "; and each replica has to be in one rack";
    if (num_placed > 0)
      text += fmt::format("; {} of {} found room", plural(static_cast<int64_t>(num_placed), "replica"), plan.replicas);
    if (!is_proved) text += "; no way was found, though one may exist";
  }
  return text + "; give a smaller --tp or --replicas, or free more GPUs";
}

}  // namespace lane::place
