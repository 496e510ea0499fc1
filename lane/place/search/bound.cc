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
  find_containers();
  find_shapes();
  rest_.assign(job_.plan.pipeline + 1, 0);
  double hop = kNever;
  for (const Shape& shape : shapes_) hop = std::min({hop, shape.hop_island_s, shape.hop_leaf_s, shape.hop_far_s});
  for (int stage = job_.plan.pipeline - 1; stage >= 0; --stage) {
    double best = kNever;
    for (const Shape& shape : shapes_)
      best = std::min(best, pricer_.num_all_reduces(stage) * std::min(shape.near_s, shape.far_s));
    rest_[stage] = rest_[stage + 1] + best + (stage > 0 ? hop : 0);
  }
}

void Bound::find_containers() {
  std::vector<int> root(cluster_.num_leaves());
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
  std::map<int, int> number;
  for (int leaf = 0; leaf < cluster_.num_leaves(); ++leaf)
    container_.push_back(number.try_emplace(find(leaf), static_cast<int>(number.size())).first->second);
  num_containers_ = static_cast<int>(number.size());
  min_far_level_ = std::numeric_limits<int>::max();
  for (int a = 0; a < cluster_.num_leaves(); ++a)
    for (int b = 0; b < a; ++b) min_far_level_ = std::min(min_far_level_, cluster_.level(a, b));
}

// The cheapest way to put the nodes of `near` on several leaves. Of more than eight nodes there are too many ways: then
// what it costs on one leaf.
double Bound::far_price(const plan::Fabric& near) {
  const int num_nodes = near.layout.num_nodes();
  const double flat = pricer_.all_reduce(near).seconds;
  if (num_nodes > 8) return flat;
  std::vector<int> parts;
  std::vector<std::vector<int>> all;
  partitions(num_nodes, num_nodes, parts, all);
  double best = kNever;
  for (const std::vector<int>& racks : all) {
    plan::Fabric fabric = near;
    for (size_t rack = 0; rack < racks.size(); ++rack)
      fabric.rack_of_node.insert(fabric.rack_of_node.end(), racks[rack], static_cast<int>(rack));
    fabric.uplink = {cluster_.reach().switch_latency_s(min_far_level_), racks[0] * near.remote.bytes_per_s,
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
  const plan::Reach& reach = cluster_.reach();
  const std::vector<Unit>& units = cluster_.units();
  std::vector<int> free(cluster_.num_islands()), size(cluster_.num_islands());
  std::vector<int> leaf_of(cluster_.num_islands());
  for (const Unit& unit : units) {
    free[unit.island] += static_cast<int>(unit.free.size());
    ++size[unit.island];
    leaf_of[unit.island] = unit.leaf;
  }
  const int most_units = size.empty() ? 1 : *std::max_element(size.begin(), size.end());
  const int most_free = free.empty() ? 0 : *std::max_element(free.begin(), free.end());
  for (const int of_island : divisors_descending(job_.plan.tensor)) {
    const int num_islands = job_.plan.tensor / of_island;
    std::map<int, int> fitting;  // islands by container
    for (int island = 0; island < cluster_.num_islands(); ++island)
      if (free[island] >= of_island) ++fitting[container_[leaf_of[island]]];
    int total = 0, most = 0;
    for (const auto& [container, count] : fitting) total += count, most = std::max(most, count);
    if (total < num_islands) continue;
    Shape shape{.of_island = of_island, .longest_run = most_free / of_island, .near_s = kNever, .far_s = kNever};
    shape.hop_island_s = shape.hop_leaf_s = shape.hop_far_s = kNever;
    for (int hardware = 0; hardware < cluster_.num_hardware(); ++hardware) {
      const Unit& unit = units[cluster_.unit_of_hardware(hardware)];
      const topology::GpuRef gpu{unit.host, unit.gpus[0]};
      const plan::Link inside = fastest_inside(unit, most_units > 1);
      plan::Fabric fabric{.layout = plan::Layout::uniform(num_islands, of_island), .local = inside};
      if (of_island == 1) fabric.local = reach.fabric(std::vector{gpu}).local;  // as it has it where nothing is local
      if (num_islands > 1) {
        fabric.remote = reach.network(unit.host);
        fabric.remote.bytes_per_s *= of_island / static_cast<double>(reach.topology().hosts[unit.host].gpus.size());
      }
      if (most >= num_islands) shape.near_s = std::min(shape.near_s, pricer_.all_reduce(fabric).seconds);
      if (num_containers_ > 1 && num_islands > 1) shape.far_s = std::min(shape.far_s, far_price(fabric));
      shape.hop_island_s = std::min(shape.hop_island_s,
                                    inside.latency_s + static_cast<double>(job_.message_bytes()) / inside.bytes_per_s);
      const int host = unit.host;
      shape.hop_leaf_s = std::min(shape.hop_leaf_s, pricer_.network_hop(host, host, 1));
      if (num_containers_ > 1)
        shape.hop_far_s = std::min(shape.hop_far_s, pricer_.network_hop(host, host, min_far_level_));
    }
    shapes_.push_back(shape);
  }
}

// Over runs of stages that share their islands: the cheapest way to have placed the first i stages, by how many of the
// demands are met.
double Bound::replica(int small, int num_small, int num_far, bool crosses) {
  const auto [found, is_new] =
      known_.try_emplace(std::vector{small, num_small, num_far, static_cast<int>(crosses)}, kNever);
  if (!is_new) return found->second;
  const int pipeline = job_.plan.pipeline;
  const auto index = [&](int few, int far, int crossed) {
    return (std::min(few, num_small) * (num_far + 1) + std::min(far, num_far)) * 2 + crossed;
  };
  std::vector<std::vector<double>> best(pipeline + 1, std::vector<double>(index(num_small, num_far, 1) + 1, kNever));
  best[0][index(0, 0, crosses ? 0 : 1)] = 0;
  for (int begin = 0; begin < pipeline; ++begin)
    for (int few = 0; few <= num_small; ++few)
      for (int far = 0; far <= num_far; ++far)
        for (int crossed = 0; crossed < 2; ++crossed) {
          const double before = best[begin][index(few, far, crossed)];
          if (before == kNever) continue;
          for (const Shape& shape : shapes_)
            for (const bool is_far : {false, true}) {
              const double each = is_far ? shape.far_s : shape.near_s;
              if (each == kNever) continue;
              double sum = before;
              for (int end = begin + 1; end <= std::min(pipeline, begin + shape.longest_run); ++end) {
                sum += pricer_.num_all_reduces(end - 1) * each + (end - 1 > begin ? shape.hop_island_s : 0);
                const int count = end - begin, is_small = shape.of_island < small ? 1 : 0;
                const auto arrive = [&](double hop, int has_crossed) {
                  double& at = best[end][index(few + count * is_small, far + (is_far ? count : 0), has_crossed)];
                  at = std::min(at, sum + hop);
                };
                const int so_far = crossed | (is_far ? 1 : 0);
                arrive(end < pipeline ? shape.hop_leaf_s : 0, so_far);
                if (end < pipeline && so_far == 0) arrive(shape.hop_far_s, 1);
              }
            }
        }
  return found->second = best[pipeline][index(num_small, num_far, 1)];
}

double Bound::at(const Free& free, int num_replicas) {
  if (num_replicas == 0) return 0;
  const int tensor = job_.plan.tensor, pipeline = job_.plan.pipeline;
  std::vector<int> of_island(cluster_.num_islands()), of_container(num_containers_);
  int64_t total = 0;
  for (size_t i = 0; i < free.size(); ++i) {
    const Unit& unit = cluster_.units()[i];
    of_island[unit.island] += free[i];
    of_container[container_[unit.leaf]] += free[i];
    total += free[i];
  }
  const int64_t num_groups = static_cast<int64_t>(num_replicas) * pipeline;
  if (total < num_groups * tensor) return kNever;
  const auto room = [](const std::vector<int>& parts, int size) {
    int64_t count = 0;
    for (const int part : parts) count += part / size;
    return count;
  };
  const auto share = [&](int64_t in_one) {
    return static_cast<int>((std::max<int64_t>(num_groups - in_one, 0) + num_replicas - 1) / num_replicas);
  };
  const bool crosses = room(of_container, tensor * pipeline) < num_replicas;
  double bound_s = std::max(replica(0, 0, share(room(of_container, tensor)), false), replica(0, 0, 0, crosses));
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
    bound_s = std::max(bound_s, replica(each, share(fitting), 0, false));
  }
  return bound_s;
}

}  // namespace lane::place
