#include "lane/place/search/exact.h"

#include <algorithm>
#include <array>
#include <map>

namespace lane::place {
namespace {

constexpr double kTie = 1e-12;  // seconds

}  // namespace

Exact::Exact(const Cluster& cluster, Pricer& pricer, Bound& bound, int64_t max_nodes)
    : cluster_(cluster), pricer_(pricer), bound_(bound), job_(pricer.job()), max_nodes_(max_nodes) {
  island_size_.assign(cluster.num_islands(), 0);
  for (const Unit& unit : cluster.units()) {
    free_.push_back(static_cast<int>(unit.free.size()));
    ++island_size_[unit.island];
  }
  // Leaves whose islands or racks reach beyond them are not interchangeable with any other.
  std::vector<bool> is_special(cluster.num_leaves(), false);
  std::map<int, int> leaf_of_island, leaf_of_rack;
  for (const Unit& unit : cluster.units()) {
    const int leaf = leaf_of_island.try_emplace(unit.island, unit.leaf).first->second;
    const int other = job_.same_rack ? leaf_of_rack.try_emplace(unit.rack, unit.leaf).first->second : unit.leaf;
    for (const int one : {leaf, other})
      if (one != unit.leaf) is_special[one] = is_special[unit.leaf] = true;
  }
  for (int leaf = 0; leaf < cluster.num_leaves(); ++leaf) {
    int first = 0;
    for (; first < leaf; ++first) {
      bool same = !is_special[leaf] && !is_special[first];
      for (int other = 0; same && other < cluster.num_leaves(); ++other)
        same = other == leaf || other == first || cluster.level(leaf, other) == cluster.level(first, other);
      if (same) break;
    }
    sibling_.push_back(first == leaf ? leaf : sibling_[first]);
  }
}

std::vector<UnitReplica> Exact::run(double best_s) {
  best_s_ = best_s;
  place_replica();
  return best_;
}

// What is free, the same for states that differ by names alone.
std::vector<int> Exact::state() const {
  // Of each leaf its islands, of each island its units, all sorted.
  std::map<int, std::map<int, std::vector<std::array<int, 3>>>> leaves;
  for (size_t i = 0; i < free_.size(); ++i) {
    const Unit& unit = cluster_.units()[i];
    leaves[unit.leaf][unit.island].push_back({unit.hardware, job_.same_rack ? unit.rack : 0, free_[i]});
  }
  std::vector<std::vector<int>> parts;
  for (auto& [leaf, islands] : leaves) {
    std::vector<std::vector<int>> lists;
    for (auto& [island, units] : islands) {
      std::sort(units.begin(), units.end());
      std::vector<int>& list = lists.emplace_back();
      // An island that others can reach from elsewhere keeps its name.
      list.push_back(sibling_[leaf] == leaf && island_size_[island] > static_cast<int>(units.size()) ? island : -1);
      for (const auto& unit : units) list.insert(list.end(), unit.begin(), unit.end());
      list.push_back(-2);
    }
    std::sort(lists.begin(), lists.end());
    std::vector<int>& part = parts.emplace_back(std::vector{sibling_[leaf]});
    for (const auto& list : lists) part.insert(part.end(), list.begin(), list.end());
    part.push_back(-3);
  }
  std::sort(parts.begin(), parts.end());
  std::vector<int> key{static_cast<int>(placed_.size())};
  for (const auto& part : parts) key.insert(key.end(), part.begin(), part.end());
  return key;
}

// True if something better than before was found below.
bool Exact::place_replica() {
  const int missing = job_.plan.replicas - static_cast<int>(placed_.size());
  if (missing == 0) {
    best_ = placed_;
    best_s_ = 0;
    for (const UnitReplica& replica : best_) best_s_ = std::max(best_s_, replica.seconds);
    return true;
  }
  if (num_nodes_ >= max_nodes_ || bound_.at(free_, missing) >= best_s_ - kTie) return false;
  std::vector<int> key = state();
  if (known_.contains(key)) return false;
  UnitReplica replica;
  const bool found = place_stage(replica);
  if (!found && num_nodes_ < max_nodes_) known_.insert(std::move(key));
  return found;
}

bool Exact::place_stage(UnitReplica& replica) {
  if (static_cast<int>(replica.stages.size()) == job_.plan.pipeline) {
    placed_.push_back(replica);
    const bool found = place_replica();
    placed_.pop_back();
    return found;
  }
  std::vector<Candidate> candidates;
  find_candidates(replica, candidates);
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.seconds < b.seconds; });
  const double before = replica.seconds;
  const double rest = bound_.rest_of_replica(static_cast<int>(replica.stages.size()) + 1);
  double highest = 0;
  for (const UnitReplica& one : placed_) highest = std::max(highest, one.seconds);
  bool found = false;
  for (const Candidate& candidate : candidates) {
    if (std::max(candidate.seconds + rest, highest) >= best_s_ - kTie || num_nodes_ >= max_nodes_) break;
    for (const int unit : candidate.group.units) free_[unit] -= candidate.group.per_unit;
    replica.stages.push_back(candidate.group);
    replica.seconds = candidate.seconds;
    found = place_stage(replica) || found;
    replica.stages.pop_back();
    for (const int unit : candidate.group.units) free_[unit] += candidate.group.per_unit;
  }
  replica.seconds = before;
  return found;
}

void Exact::find_candidates(const UnitReplica& replica, std::vector<Candidate>& found) {
  for (const int per_unit : divisors_descending(job_.plan.tensor)) {
    UnitGroup group{.per_unit = per_unit};
    extend(replica, group, 0, found);
  }
}

// All sets of units, in ascending order; of units that are alike, the first ones.
void Exact::extend(const UnitReplica& replica, UnitGroup& group, size_t from, std::vector<Candidate>& found) {
  if (++num_nodes_ >= max_nodes_) return;
  const std::vector<Unit>& units = cluster_.units();
  if (group.num_ranks() == job_.plan.tensor) {
    if (!is_even(group)) return;
    UnitGroup sorted = group;
    cluster_.sort(sorted.units);
    const int stage = static_cast<int>(replica.stages.size());
    double seconds = replica.seconds + pricer_.stage(cluster_, sorted, stage);
    if (stage > 0) seconds += pricer_.hop(cluster_, replica.stages.back(), sorted);
    if (seconds + bound_.rest_of_replica(stage + 1) < best_s_ - kTie) found.push_back({std::move(sorted), seconds});
    return;
  }
  std::set<std::vector<int>> tried;
  for (size_t i = from; i < units.size(); ++i) {
    const Unit& unit = units[i];
    if (free_[i] < group.per_unit) continue;
    if (job_.same_rack) {
      const int other = !group.units.empty()      ? group.units[0]
                        : !replica.stages.empty() ? replica.stages[0].units[0]
                                                  : static_cast<int>(i);
      if (units[other].rack != unit.rack) continue;
    }
    int role = -1;  // in the stage before
    if (!replica.stages.empty()) {
      const std::vector<int>& before = replica.stages.back().units;
      const auto at = std::find(before.begin(), before.end(), static_cast<int>(i));
      if (at != before.end()) role = static_cast<int>(at - before.begin());
    }
    const int island = island_size_[unit.island] > 1 ? unit.island : -1;
    if (!tried.insert({unit.leaf, island, unit.rack, unit.hardware, free_[i], role}).second) continue;
    group.units.push_back(static_cast<int>(i));
    extend(replica, group, i + 1, found);
    group.units.pop_back();
  }
}

// As many units on each island, and one of each host.
bool Exact::is_even(const UnitGroup& group) const {
  if (group.units.size() == 1) return true;
  std::map<int, int> of_island, of_host;
  for (const int unit : group.units) {
    ++of_island[cluster_.units()[unit].island];
    if (++of_host[cluster_.units()[unit].host] > 1) return false;
  }
  return std::all_of(of_island.begin(), of_island.end(),
                     [&](const auto& one) { return one.second == of_island.begin()->second; });
}

}  // namespace lane::place
