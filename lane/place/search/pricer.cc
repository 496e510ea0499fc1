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

// Those of plan's schedules that are the cheapest anywhere from 8 KiB to 512 MiB, on 1 to 16 nodes of 1 to 72 GPUs on
// NVLink or PCIe, on one leaf or two (multicast left out). The others would cost ten times as long to price.
constexpr const char* kSchedules[] = {"one_shot",
                                      "two_shot",
                                      "bruck",
                                      "recursive_doubling",
                                      "ring",
                                      "hier:two_shot/one_shot",
                                      "hier:two_shot/two_shot",
                                      "hier:two_shot/recursive_doubling",
                                      "hier:two_shot/ring",
                                      "hier:bruck/one_shot",
                                      "hier:bruck/two_shot",
                                      "hier:bruck/recursive_doubling",
                                      "hier:bruck/ring"};

template <class T>
void append(std::string& key, const T& value) {
  key.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append(std::string& key, const Link& link) {
  append(key, link.latency_s);
  append(key, link.bytes_per_s);
  append(key, link.message_s);
}

std::string key_of(const Fabric& fabric) {
  std::string key;
  for (const int node : fabric.layout.node_of) append(key, static_cast<int16_t>(node));
  append(key, fabric.local);
  append(key, fabric.remote);
  for (const int rack : fabric.rack_of_node) append(key, static_cast<int16_t>(rack));
  append(key, fabric.uplink);
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
  // As in Reach::fabric(): a GPU's share of the NICs.
  for (size_t host = 0; host < network_.size(); ++host)
    network_[host].bytes_per_s /= std::max<double>(1, static_cast<double>(reach.topology().hosts[host].gpus.size()));
}

const Pricer::Price& Pricer::all_reduce(const Fabric& fabric) {
  const auto [found, is_new] = prices_.try_emplace(key_of(fabric));
  Price& best = found->second;
  if (!is_new || fabric.layout.num_ranks() == 1) return best;
  best.seconds = 1e18;
  const std::vector<std::string> possible = schedule_names(Collective::kAllReduce, fabric.layout);
  for (const char* name : kSchedules) {
    if (std::find(possible.begin(), possible.end(), name) == possible.end()) continue;
    if (const double seconds = price(name, fabric, bytes_); seconds < best.seconds) best = {seconds, name};
  }
  return best;
}

double Pricer::island_hop(GpuRef from, GpuRef to) const {
  const bool by_nvlink = reach_.tier(from, to) == plan::Tier::kNvlink;
  const Link a = by_nvlink ? reach_.nvlink(from) : reach_.pcie(from);
  const Link b = by_nvlink ? reach_.nvlink(to) : reach_.pcie(to);
  return std::max(a.latency_s, b.latency_s) + static_cast<double>(bytes_) / std::min(a.bytes_per_s, b.bytes_per_s);
}

double Pricer::network_hop(int host_a, int host_b, int level) const {
  const Link &a = network_[host_a], &b = network_[host_b];
  return std::max(a.latency_s, b.latency_s) + reach_.switch_latency_s(level) +
         static_cast<double>(bytes_) / std::min(a.bytes_per_s, b.bytes_per_s);
}

double Pricer::hop(std::span<const GpuRef> from, std::span<const GpuRef> to) const {
  ensure(from.size() == to.size(), "neighbouring stages have as many ranks");
  double slowest = 0;
  for (size_t i = 0; i < from.size(); ++i) {
    const int a = from[i].host, b = to[i].host;
    slowest = std::max(slowest, reach_.island(from[i]) == reach_.island(to[i])
                                    ? island_hop(from[i], to[i])
                                    : network_hop(a, b, reach_.switch_level(a, b)));
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
      slowest = std::max(slowest, network_hop(a.host, b.host, cluster.level(a.leaf, b.leaf)));
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
