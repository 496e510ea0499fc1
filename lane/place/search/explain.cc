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

// The next cheaper way to hold a group, were there room for it: so many hosts of one leaf with as many GPUs each.
std::string next_better(const plan::Reach& reach, const Cluster& cluster, Pricer& pricer, const Group& group,
                        int num_all_reduces) {
  const int tensor = static_cast<int>(group.gpus.size()), host = group.gpus[0].host;
  const auto num_gpus = static_cast<double>(reach.topology().hosts[host].gpus.size());
  const bool by_nvlink = reach.topology().hosts[host].gpus[group.gpus[0].gpu].num_nvlinks > 0;
  int best = 0;
  double best_s = 0;
  for (const int per_host : divisors_descending(tensor)) {
    const int num_hosts = tensor / per_host;
    if (per_host > num_gpus) continue;
    plan::Fabric fabric{.layout = plan::Layout::uniform(num_hosts, per_host)};
    fabric.local = by_nvlink ? reach.nvlink(group.gpus[0]) : reach.pcie(group.gpus[0]);
    fabric.remote = num_hosts > 1 ? reach.network(host) : plan::Link{};
    fabric.remote.bytes_per_s *= per_host / num_gpus;
    const double seconds = pricer.all_reduce(fabric).seconds;
    if (seconds < group.all_reduce_s * 0.999 && seconds > best_s) best = per_host, best_s = seconds;
  }
  if (best == 0) return "";
  std::map<int, int> on_leaf;
  int num_fitting = 0, most = 0;
  for (const Unit& unit : cluster.units())
    if (static_cast<int>(unit.free.size()) >= best) ++num_fitting, most = std::max(most, ++on_leaf[unit.leaf]);
  const int num_hosts = tensor / best, num_groups = pricer.job().plan.pipeline * pricer.job().plan.replicas;
  return fmt::format(
      "next better for its slowest group: {} with {} free GPUs{}, {} less a step; before this job {} had as many ({} "
      "on "
      "the fullest leaf switch), and {} want them",
      plural(num_hosts, "host"), best, num_hosts > 1 ? " each on one leaf switch" : "",
      format_duration(num_all_reduces * (group.all_reduce_s - best_s)), plural(num_fitting, "host"), most,
      plural(num_groups, "group"));
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
  if (job.plan.tensor > 1) {
    const auto begin = placement.groups.begin() + replica * pipeline;
    const auto slow = std::max_element(begin, begin + pipeline,
                                       [](const Group& a, const Group& b) { return a.all_reduce_s < b.all_reduce_s; });
    const std::string better =
        next_better(reach, cluster, pricer, *slow, pricer.num_all_reduces(static_cast<int>(slow - begin)));
    if (!better.empty()) why.push_back(better);
  }
  if (const auto far = std::count_if(placement.hops.begin(), placement.hops.end(),
                                     [](const Tier tier) { return tier > Tier::kLeaf; });
      far > 0)
    why.push_back(fmt::format("{} of {} hops between stages leave their leaf switch", far, placement.hops.size()));
  const auto num_unaligned = std::count_if(placement.groups.begin(), placement.groups.end(),
                                           [](const Group& group) { return !group.is_aligned; });
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
