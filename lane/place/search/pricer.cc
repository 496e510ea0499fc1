#include "lane/place/search/pricer.h"

#include <algorithm>
#include <numeric>

#include "lane/base/error.h"

namespace lane::place {
namespace {

using plan::Collective;
using plan::Fabric;
using plan::Link;
using topology::GpuRef;

// Of a large group on several leaves, only so many schedules are priced: those that are the cheapest on one.
constexpr size_t kMaxCandidates = 8;

template <class T>
void append(std::string& key, const T& value) {
  key.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append(std::string& key, const Link& link) {
  append(key, link.latency_s);
  append(key, link.bytes_per_s);
  append(key, link.message_s);
}

std::string key_without_racks(const Fabric& fabric) {
  std::string key;
  for (const int node : fabric.layout.node_of) append(key, static_cast<int16_t>(node));
  append(key, fabric.local);
  append(key, fabric.remote);
  return key;
}

double price(const std::string& algorithm, const Fabric& fabric, int64_t bytes) {
  const plan::Schedule schedule = make_schedule(algorithm, Collective::kAllReduce, fabric.layout);
  return cost(schedule, Collective::kAllReduce, fabric).at(bytes);
}

}  // namespace

Pricer::Pricer(const plan::Reach& reach, const Job& job) : reach_(reach), job_(job), bytes_(job.message_bytes()) {
  for (int stage = 0; stage < job.plan.pipeline; ++stage)
    num_all_reduces_.push_back(
        2 * static_cast<int>(plan::even_part(job.shape.num_layers, job.plan.pipeline, stage).size()));
  for (int host = 0; host < static_cast<int>(reach.topology().hosts.size()); ++host)
    network_.push_back(reach.network(host));
}

// Sorted by their price without racks, the cheapest first.
const std::vector<std::string>& Pricer::candidates(const Fabric& fabric) {
  const auto [found, is_new] = cheapest_.try_emplace(key_without_racks(fabric));
  if (!is_new) return found->second;
  const Fabric flat{.layout = fabric.layout, .local = fabric.local, .remote = fabric.remote};
  std::vector<std::pair<double, std::string>> sorted;
  for (const std::string& name : schedule_names(Collective::kAllReduce, fabric.layout))
    if (name.find("multicast") == std::string::npos) sorted.emplace_back(price(name, flat, bytes_), name);
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  if (fabric.layout.num_ranks() > kAllPriced && sorted.size() > kMaxCandidates) sorted.resize(kMaxCandidates);
  for (const auto& [seconds, name] : sorted) found->second.push_back(name);
  return found->second;
}

const Pricer::Price& Pricer::all_reduce(const Fabric& fabric) {
  std::string key = key_without_racks(fabric);
  for (const int rack : fabric.rack_of_node) append(key, static_cast<int16_t>(rack));
  append(key, fabric.uplink);
  const auto [found, is_new] = prices_.try_emplace(std::move(key));
  Price& best = found->second;
  if (!is_new || fabric.layout.num_ranks() == 1) return best;
  best.seconds = 1e18;
  for (const std::string& name : candidates(fabric))
    if (const double seconds = price(name, fabric, bytes_); seconds < best.seconds) best = {seconds, name};
  return best;
}

double Pricer::island_hop(GpuRef from, GpuRef to) const {
  const bool by_nvlink = reach_.tier(from, to) == plan::Tier::kNvlink;
  const Link a = by_nvlink ? reach_.nvlink(from) : reach_.pcie(from);
  const Link b = by_nvlink ? reach_.nvlink(to) : reach_.pcie(to);
  return std::max(a.latency_s, b.latency_s) + static_cast<double>(bytes_) / std::min(a.bytes_per_s, b.bytes_per_s);
}

double Pricer::network_hop(int host_a, int host_b, int level, int ranks_a, int ranks_b) const {
  const Link &a = network_[host_a], &b = network_[host_b];
  const double rate = std::min(a.bytes_per_s / ranks_a, b.bytes_per_s / ranks_b);
  return std::max(a.latency_s, b.latency_s) + reach_.switch_latency_s(level) + static_cast<double>(bytes_) / rate;
}

double Pricer::hop(std::span<const GpuRef> from, std::span<const GpuRef> to) const {
  ensure(from.size() == to.size(), "neighbouring stages have as many ranks");
  const auto ranks_on = [](std::span<const GpuRef> group, int host) {
    return static_cast<int>(
        std::count_if(group.begin(), group.end(), [&](const GpuRef gpu) { return gpu.host == host; }));
  };
  double slowest = 0;
  for (size_t i = 0; i < from.size(); ++i) {
    const int a = from[i].host, b = to[i].host;
    slowest = std::max(slowest, reach_.island(from[i]) == reach_.island(to[i])
                                    ? island_hop(from[i], to[i])
                                    : network_hop(a, b, reach_.switch_level(a, b), ranks_on(from, a), ranks_on(to, b)));
  }
  return slowest;
}

double Pricer::all_reduce(const Cluster& cluster, const UnitGroup& group) {
  if (group.num_ranks() == 1) return 0;
  const std::vector<Unit>& units = cluster.units();
  std::string key;
  append(key, group.per_unit);
  int top = 1;
  int leaf = -1, island = -1, num_leaves = 0, num_islands = 0;
  for (const int i : group.units) {
    const Unit& unit = units[i];
    top = std::max(top, cluster.level(units[group.units[0]].leaf, unit.leaf));
    if (unit.leaf != leaf) leaf = unit.leaf, ++num_leaves;
    if (unit.island != island) island = unit.island, ++num_islands;
    append(key, static_cast<int16_t>(num_leaves));
    append(key, static_cast<int16_t>(num_islands));
    append(key, static_cast<int16_t>(unit.hardware));
  }
  append(key, top);
  const auto [found, is_new] = unit_prices_.try_emplace(std::move(key), 0);
  if (!is_new) return found->second;
  std::vector<GpuRef> gpus;
  for (const int i : group.units)
    for (int j = 0; j < group.per_unit; ++j) gpus.push_back({units[i].host, units[i].gpus[j]});
  return found->second = all_reduce(gpus).seconds;
}

double Pricer::hop(const Cluster& cluster, const UnitGroup& from, const UnitGroup& to) const {
  const std::vector<Unit>& units = cluster.units();
  const int stride = std::gcd(from.per_unit, to.per_unit);
  double slowest = 0;
  for (int rank = 0; rank < from.num_ranks(); rank += stride) {
    const Unit &a = units[from.units[rank / from.per_unit]], &b = units[to.units[rank / to.per_unit]];
    if (a.island != b.island) {
      slowest =
          std::max(slowest, network_hop(a.host, b.host, cluster.level(a.leaf, b.leaf), from.per_unit, to.per_unit));
    } else {
      slowest = std::max(slowest, island_hop({a.host, a.gpus.front()}, {b.host, b.gpus.back()}));
    }
  }
  return slowest;
}

double Pricer::replica(const Cluster& cluster, const std::vector<UnitGroup>& stages) {
  double seconds = 0;
  for (size_t i = 0; i < stages.size(); ++i) {
    seconds += stage(cluster, stages[i], static_cast<int>(i));
    if (i > 0) seconds += hop(cluster, stages[i - 1], stages[i]);
  }
  return seconds;
}

}  // namespace lane::place
