#include "lane/place/search/cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "lane/base/error.h"
#include "lane/base/json.h"

namespace lane::place {
namespace {

using plan::Tier;
using topology::Host;

// What decides about the links of a host's GPUs.
std::string links_of(const topology::Topology& topology, const Host& host) {
  std::string text;
  for (const topology::Gpu& gpu : host.gpus)
    text += fmt::format("{},{},{},{},{};", gpu.sm, gpu.num_nvlinks, gpu.nvlink_gb_per_s, gpu.pcie.max_gt_per_s,
                        gpu.pcie.max_width);
  for (const auto& row : host.gpu_to_gpu) {
    text += '/';
    for (const topology::Path path : row) text += fmt::format("{}", static_cast<int>(path));
  }
  std::set<std::string> leaves{host.leaf_switch};
  for (const topology::Nic& nic : host.nics) {
    text += fmt::format("|{},{},{}", static_cast<int>(nic.kind), static_cast<int>(nic.role), nic.is_virtual_function);
    for (const topology::NicPort& port : nic.ports) text += fmt::format(",{}", port.gbit_per_s);
    leaves.insert(nic.leaf_switch);
  }
  for (const topology::Switch& one : topology.switches)
    if (leaves.contains(one.name)) text += fmt::format("^{}", one.uplink_gbit_per_s);
  return text;
}

// By NVLink: the number of the set that each GPU of the unit belongs to.
std::vector<int> joined_sets(const plan::Reach& reach, const Unit& unit, const std::vector<int>& gpus) {
  std::vector<int> set_of(gpus.size());
  for (size_t i = 0; i < gpus.size(); ++i) {
    set_of[i] = static_cast<int>(i);
    for (size_t j = 0; j < i; ++j)
      if (reach.tier({unit.host, gpus[j]}, {unit.host, gpus[i]}) == Tier::kNvlink) {
        set_of[i] = set_of[j];
        break;
      }
  }
  return set_of;
}

}  // namespace

Cluster::Cluster(const plan::Reach& reach, const Job& job) : reach_(reach) {
  const topology::Topology& topology = reach.topology();
  std::set<std::string> wanted(job.include.begin(), job.include.end());
  std::set<std::string> unwanted(job.exclude.begin(), job.exclude.end()), known;
  for (const Host& host : topology.hosts) known.insert(host.name);
  for (const auto* list : {&job.include, &job.exclude})
    for (const std::string& name : *list)
      if (!known.contains(name))
        throw Error(ErrorCode::kInvalidArgument, "host " + in_quotes(name) + " is not in the topology");
  for (int host = 0; host < static_cast<int>(topology.hosts.size()); ++host) {
    const std::string& name = topology.hosts[host].name;
    add_host(host, (wanted.empty() || wanted.contains(name)) && !unwanted.contains(name));
  }
  // Uplinks and links by text, racks by name; hosts without a rack go by their leaf.
  std::map<std::string, int> rack_of, hardware_of;
  std::map<int, int> island_of, leaf_of;
  int last_host = -1;
  std::string links;
  for (size_t i = 0; i < units_.size(); ++i) {
    Unit& unit = units_[i];
    const Host& host = topology.hosts[unit.host];
    if (unit.host != last_host) links = links_of(topology, host);
    last_host = unit.host;
    const std::string rack = host.rack.empty() ? fmt::format("leaf {}", unit.leaf) : "rack " + host.rack;
    unit.rack = rack_of.try_emplace(rack, static_cast<int>(rack_of.size())).first->second;
    unit.island = island_of.try_emplace(unit.island, static_cast<int>(island_of.size())).first->second;
    const auto [leaf, is_new_leaf] = leaf_of.try_emplace(unit.leaf, static_cast<int>(leaf_of.size()));
    if (is_new_leaf) leaf_host_.push_back(unit.host);
    unit.leaf = leaf->second;
    std::string key = links;
    for (const int gpu : unit.gpus) key += fmt::format("#{}", gpu);
    const auto [hardware, is_new] = hardware_of.try_emplace(key, static_cast<int>(hardware_of.size()));
    if (is_new) hardware_host_.push_back(static_cast<int>(i));
    unit.hardware = hardware->second;
  }
  num_islands_ = static_cast<int>(island_of.size());
  num_leaves_ = static_cast<int>(leaf_of.size());
  level_.assign(static_cast<size_t>(num_leaves_) * num_leaves_, 0);
  for (int leaf = 1; leaf < num_leaves_; ++leaf) top_level_ = std::max(top_level_, level(0, leaf));
}

void Cluster::add_host(int index, bool is_allowed) {
  const Host& host = reach_.topology().hosts[index];
  std::map<int, Unit> by_island;
  for (int gpu = 0; gpu < static_cast<int>(host.gpus.size()); ++gpu) {
    Unit& unit = by_island[reach_.island({index, gpu})];
    unit.gpus.push_back(gpu);
    if (is_allowed && !host.gpus[gpu].is_busy) unit.free.push_back(gpu);
  }
  for (auto& [island, unit] : by_island) {
    if (unit.free.empty()) continue;
    unit.host = index, unit.island = island, unit.leaf = reach_.leaf_group(index);
    const std::vector<int> sets = joined_sets(reach_, unit, unit.gpus);
    std::set<int> distinct(sets.begin(), sets.end());
    has_uneven_hosts_ = has_uneven_hosts_ || (distinct.size() > 1 && distinct.size() < unit.gpus.size());
    std::vector<std::pair<int, int>> order;
    for (size_t i = 0; i < sets.size(); ++i) order.emplace_back(sets[i], unit.gpus[i]);
    std::sort(order.begin(), order.end());
    for (size_t i = 0; i < order.size(); ++i) unit.gpus[i] = order[i].second;
    units_.push_back(std::move(unit));
  }
}

int Cluster::level(int leaf_a, int leaf_b) const {
  if (leaf_a == leaf_b) return 1;
  signed char& known = level_[static_cast<size_t>(leaf_a) * num_leaves_ + leaf_b];
  if (known == 0) known = static_cast<signed char>(reach_.switch_level(leaf_host_[leaf_a], leaf_host_[leaf_b]));
  return known;
}

void Cluster::sort(std::vector<int>& units) const {
  const auto count_leaf = [&](int leaf) {
    return std::count_if(units.begin(), units.end(), [&](int unit) { return units_[unit].leaf == leaf; });
  };
  using Key = std::tuple<ptrdiff_t, int, int, int>;
  std::vector<Key> keys;
  for (const int unit : units)
    keys.emplace_back(-count_leaf(units_[unit].leaf), units_[unit].leaf, units_[unit].island, unit);
  std::sort(keys.begin(), keys.end());
  for (size_t i = 0; i < keys.size(); ++i) units[i] = std::get<3>(keys[i]);
}

std::vector<int> choose_gpus(const plan::Reach& reach, const Unit& unit, std::vector<int> candidates, int count) {
  if (static_cast<int>(candidates.size()) == count) return candidates;
  const std::vector<int> set_of = joined_sets(reach, unit, candidates);
  std::map<int, std::vector<int>> sets;
  for (size_t i = 0; i < candidates.size(); ++i) sets[set_of[i]].push_back(candidates[i]);
  std::vector<int> chosen;
  while (static_cast<int>(chosen.size()) < count) {
    const size_t missing = static_cast<size_t>(count) - chosen.size();
    // The smallest set that is enough, else the largest.
    auto best = sets.begin();
    for (auto it = sets.begin(); it != sets.end(); ++it) {
      const size_t size = it->second.size(), best_size = best->second.size();
      if (best_size >= missing ? size >= missing && size < best_size : size > best_size) best = it;
    }
    for (size_t i = 0; i < best->second.size() && static_cast<int>(chosen.size()) < count; ++i)
      chosen.push_back(best->second[i]);
    sets.erase(best);
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace lane::place
