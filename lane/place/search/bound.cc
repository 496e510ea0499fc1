#include "lane/place/search/bound.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

namespace lane::place {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// How `count` nodes can be shared among two or more racks, the fullest first.
void partitions(int count, int largest, std::vector<int>& parts, std::vector<std::vector<int>>& all) {
  if (count == 0) {
    if (parts.size() > 1) all.push_back(parts);
    return;
  }
  for (int part = std::min(count, largest); part >= 1; --part) {
    parts.push_back(part);
    partitions(count - part, part, parts, all);
    parts.pop_back();
  }
}

}  // namespace

Bound::Bound(const Cluster& cluster, Pricer& pricer) : cluster_(cluster), pricer_(pricer), job_(pricer.job()) {
  find_zones();
  find_shapes();
  rest_.assign(job_.plan.pipeline + 1, 0);
  for (int stage = job_.plan.pipeline - 1; stage >= 0; --stage) {
    double best = kNever, hop = stage > 0 ? kNever : 0;
    for (const Shape& shape : shapes_) {
      double each = shape.leaf_s;
      for (const double seconds : shape.beyond_s) each = std::min(each, seconds);
      best = std::min(best, pricer_.num_all_reduces(stage) * each);
      hop = std::min({hop, shape.hop_island_s, shape.hop_leaf_s});
    }
    rest_[stage] = rest_[stage + 1] + best + hop;
  }
}

void Bound::find_zones() {
  const int num_leaves = cluster_.num_leaves();
  for (int level = 1; level < std::max(cluster_.top_level(), 2); ++level) {
    std::vector<int> root(num_leaves);
    std::iota(root.begin(), root.end(), 0);
    const auto find = [&](int leaf) {
      while (root[leaf] != leaf) leaf = root[leaf] = root[root[leaf]];
      return leaf;
    };
    std::vector<int> leaf_of_island(cluster_.num_islands(), -1);
    for (const Unit& unit : cluster_.units()) {
      int& leaf = leaf_of_island[unit.island];
      if (leaf >= 0) root[find(unit.leaf)] = find(leaf);
      leaf = unit.leaf;
    }
    for (int a = 0; a < num_leaves; ++a)
      for (int b = 0; b < a; ++b)
        if (cluster_.level(a, b) <= level) root[find(a)] = find(b);
    Zones zones{.level_between = std::numeric_limits<int>::max()};
    std::map<int, int> number;
    for (int leaf = 0; leaf < num_leaves; ++leaf)
      zones.of_leaf.push_back(number.try_emplace(find(leaf), static_cast<int>(number.size())).first->second);
    zones.count = static_cast<int>(number.size());
    for (int a = 0; a < num_leaves; ++a)
      for (int b = 0; b < a; ++b)
        if (zones.of_leaf[a] != zones.of_leaf[b])
          zones.level_between = std::min(zones.level_between, cluster_.level(a, b));
    if (zones.count > 1 || zones_.empty()) zones_.push_back(std::move(zones));
  }
}

// The cheapest way to put the nodes of `near` on several leaves that switches of this level join. Of more than eight
// nodes there are too many ways: then what it costs on one leaf.
double Bound::price_beyond(const plan::Fabric& near, int level) {
  const int num_nodes = near.layout.num_nodes();
  if (num_nodes > 8) return pricer_.all_reduce(near).seconds;
  std::vector<int> parts;
  std::vector<std::vector<int>> all;
  partitions(num_nodes, num_nodes, parts, all);
  double best = kNever;
  for (const std::vector<int>& racks : all) {
    plan::Fabric fabric = near;
    for (size_t rack = 0; rack < racks.size(); ++rack)
      fabric.rack_of_node.insert(fabric.rack_of_node.end(), racks[rack], static_cast<int>(rack));
    fabric.uplink = {cluster_.reach().switch_latency_s(level), racks[0] * near.remote.bytes_per_s,
                     near.remote.message_s};
    best = std::min(best, pricer_.all_reduce(fabric).seconds);
  }
  return best;
}

// Between two GPUs of the unit, or of its island.
plan::Link Bound::fastest_inside(const Unit& unit, bool spans_hosts) const {
  const plan::Reach& reach = cluster_.reach();
  bool by_nvlink = spans_hosts;
  for (size_t i = 0; i < unit.gpus.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      by_nvlink = by_nvlink || reach.tier({unit.host, unit.gpus[i]}, {unit.host, unit.gpus[j]}) == plan::Tier::kNvlink;
  plan::Link fastest{.latency_s = kNever, .bytes_per_s = 0, .message_s = kNever};
  for (const int gpu : unit.gpus) {
    const plan::Link link = by_nvlink ? reach.nvlink({unit.host, gpu}) : reach.pcie({unit.host, gpu});
    fastest = {std::min(fastest.latency_s, link.latency_s), std::max(fastest.bytes_per_s, link.bytes_per_s),
               std::min(fastest.message_s, link.message_s)};
  }
  return fastest;
}

void Bound::find_shapes() {
  std::vector<int> free(cluster_.num_islands()), size(cluster_.num_islands()), leaf_of(cluster_.num_islands());
  for (const Unit& unit : cluster_.units()) {
    free[unit.island] += static_cast<int>(unit.free.size());
    ++size[unit.island];
    leaf_of[unit.island] = unit.leaf;
  }
  if (free.empty()) return;
  for (const int of_island : divisors_descending(job_.plan.tensor)) {
    std::vector<int> fitting(zones_[0].count);  // islands
    for (int island = 0; island < cluster_.num_islands(); ++island)
      if (free[island] >= of_island) ++fitting[zones_[0].of_leaf[leaf_of[island]]];
    if (std::accumulate(fitting.begin(), fitting.end(), 0) >= job_.plan.tensor / of_island)
      shapes_.push_back(shape_of(of_island, *std::max_element(size.begin(), size.end()),
                                 *std::max_element(free.begin(), free.end()), fitting));
  }
}

Bound::Shape Bound::shape_of(int of_island, int most_units, int most_free, const std::vector<int>& fitting_of_zone) {
  const plan::Reach& reach = cluster_.reach();
  const int num_islands = job_.plan.tensor / of_island;
  const bool fits_leaf = *std::max_element(fitting_of_zone.begin(), fitting_of_zone.end()) >= num_islands;
  Shape shape{.of_island = of_island, .longest_run = most_free / of_island, .leaf_s = kNever};
  shape.hop_island_s = shape.hop_leaf_s = kNever;
  shape.beyond_s.assign(zones_.size(), kNever);
  shape.hop_beyond_s.assign(zones_.size(), kNever);
  const auto lower = [](double& value, double other) { value = std::min(value, other); };
  for (int hardware = 0; hardware < cluster_.num_hardware(); ++hardware) {
    const Unit& unit = cluster_.units()[cluster_.unit_of_hardware(hardware)];
    const int host = unit.host;
    const plan::Link inside = fastest_inside(unit, most_units > 1);
    plan::Fabric fabric{.layout = plan::Layout::uniform(num_islands, of_island), .local = inside};
    if (of_island == 1)  // as it has it where nothing is local
      fabric.local = reach.fabric(std::vector<topology::GpuRef>{{host, unit.gpus[0]}}).local;
    if (num_islands > 1) {
      fabric.remote = reach.network(host);
      fabric.remote.bytes_per_s *= of_island / static_cast<double>(reach.topology().hosts[host].gpus.size());
    }
    if (fits_leaf) lower(shape.leaf_s, pricer_.all_reduce(fabric).seconds);
    lower(shape.hop_island_s, inside.latency_s + static_cast<double>(job_.message_bytes()) / inside.bytes_per_s);
    lower(shape.hop_leaf_s, pricer_.network_hop(host, host, 1));
    for (size_t i = 0; i < zones_.size(); ++i) {
      if (zones_[i].count < 2) continue;
      if (num_islands > 1) lower(shape.beyond_s[i], price_beyond(fabric, zones_[i].level_between));
      lower(shape.hop_beyond_s[i], pricer_.network_hop(host, host, zones_[i].level_between));
    }
  }
  return shape;
}

// Over runs of stages that share their islands: the cheapest way to have placed the first i stages, by how much of the
// demand is met.
double Bound::replica(const Demand& demand) {
  const auto [found, is_new] = known_.try_emplace(demand, kNever);
  if (!is_new) return found->second;
  const int pipeline = job_.plan.pipeline;
  const auto index = [&](int few, int beyond, int left) {
    return (std::min(few, demand.num_small) * (demand.num_beyond + 1) + std::min(beyond, demand.num_beyond)) * 2 + left;
  };
  std::vector<std::vector<double>> best(pipeline + 1,
                                        std::vector<double>(index(demand.num_small, demand.num_beyond, 1) + 1, kNever));
  best[0][index(0, 0, demand.leaves_zone ? 0 : 1)] = 0;
  // All that can follow `sum` by stages [begin, ...) of one shape.
  const auto extend = [&](const Shape& shape, int begin, int few, int beyond, int left, bool is_beyond, double sum) {
    double each = shape.leaf_s;
    for (int i = 0; i < demand.zones; ++i) each = std::min(each, shape.beyond_s[i]);
    if (is_beyond) each = shape.beyond_s[demand.zones];
    if (each == kNever) return;
    const int has_left = left | (is_beyond ? 1 : 0), is_small = shape.of_island < demand.small ? 1 : 0;
    for (int end = begin + 1; end <= std::min(pipeline, begin + shape.longest_run); ++end) {
      sum += pricer_.num_all_reduces(end - 1) * each + (end - 1 > begin ? shape.hop_island_s : 0);
      const int count = end - begin;
      const auto arrive = [&](double hop, int now_left) {
        double& at = best[end][index(few + count * is_small, beyond + (is_beyond ? count : 0), now_left)];
        at = std::min(at, sum + hop);
      };
      arrive(end < pipeline ? shape.hop_leaf_s : 0, has_left);
      if (end < pipeline && has_left == 0) arrive(shape.hop_beyond_s[demand.zones], 1);
    }
  };
  for (int begin = 0; begin < pipeline; ++begin)
    for (int few = 0; few <= demand.num_small; ++few)
      for (int beyond = 0; beyond <= demand.num_beyond; ++beyond)
        for (const int left : {0, 1}) {
          const double before = best[begin][index(few, beyond, left)];
          if (before == kNever) continue;
          for (const Shape& shape : shapes_)
            for (const bool is_beyond : {false, true}) extend(shape, begin, few, beyond, left, is_beyond, before);
        }
  return found->second = best[pipeline][index(demand.num_small, demand.num_beyond, 1)];
}

double Bound::at(const Free& free, int num_replicas) {
  if (num_replicas == 0) return 0;
  const int tensor = job_.plan.tensor, pipeline = job_.plan.pipeline;
  const int64_t num_groups = static_cast<int64_t>(num_replicas) * pipeline;
  std::vector<int> of_island(cluster_.num_islands());
  for (size_t i = 0; i < free.size(); ++i) of_island[cluster_.units()[i].island] += free[i];
  if (std::accumulate(free.begin(), free.end(), int64_t{0}) < num_groups * tensor) return kNever;
  const auto room = [](const std::vector<int>& parts, int size) {
    int64_t count = 0;
    for (const int part : parts) count += part / size;
    return count;
  };
  // Of the groups that do not fit, what some replica has at least.
  const auto share = [&](int64_t fitting) {
    return static_cast<int>((std::max<int64_t>(num_groups - fitting, 0) + num_replicas - 1) / num_replicas);
  };
  double bound_s = replica({});
  for (int i = 0; i < static_cast<int>(zones_.size()); ++i) {
    std::vector<int> of_zone(zones_[i].count);
    for (size_t unit = 0; unit < free.size(); ++unit)
      of_zone[zones_[i].of_leaf[cluster_.units()[unit].leaf]] += free[unit];
    bound_s = std::max({bound_s, replica({.zones = i, .num_beyond = share(room(of_zone, tensor))}),
                        replica({.zones = i, .leaves_zone = room(of_zone, tensor * pipeline) < num_replicas})});
  }
  std::vector<int> larger;  // divisors
  for (const int each : divisors_descending(tensor)) {
    if (each == 1) break;
    // Where a larger share is no multiple of this one, it may use what this one leaves over.
    const bool is_chain = std::all_of(larger.begin(), larger.end(), [&](const int other) { return other % each == 0; });
    larger.push_back(each);
    int64_t usable = 0;
    for (const int part : of_island)
      if (part >= each) usable += is_chain ? part / each * each : part;
    const int64_t fitting = each == tensor ? room(of_island, tensor) : usable / tensor;
    bound_s = std::max(bound_s, replica({.small = each, .num_small = share(fitting)}));
  }
  return bound_s;
}

}  // namespace lane::place
