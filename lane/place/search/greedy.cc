#include "lane/place/search/greedy.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

namespace lane::place {

// What the search for a group has found so far.
struct Greedy::Choice {
  int stage = 0;
  const UnitGroup* before = nullptr;
  std::optional<UnitGroup> best;
  double seconds = 0, waste = 0;
};

namespace {

constexpr double kTie = 1e-12;  // seconds: costs that differ by less are the same

struct Island {
  std::vector<int> units;  // with enough free GPUs, those with fewest first
  int leaf = 0, num_free = 0;
};

}  // namespace

std::vector<int> divisors_descending(int number) {
  std::vector<int> divisors;
  for (int i = number; i >= 1; --i)
    if (number % i == 0) divisors.push_back(i);
  return divisors;
}

Greedy::Greedy(const Cluster& cluster, Pricer& pricer) : cluster_(cluster), pricer_(pricer), job_(pricer.job()) {
  zones_of_.resize(cluster.units().size());
  find_zones();
}

// One zone for each key; those of a single key or the same units as a smaller zone add nothing.
void Greedy::add_zones(const std::vector<int>& key_of_unit, int num_keys) {
  std::vector<Zone> zones(num_keys);
  for (size_t unit = 0; unit < key_of_unit.size(); ++unit)
    if (key_of_unit[unit] >= 0) zones[key_of_unit[unit]].units.push_back(static_cast<int>(unit));
  std::vector<Zone> kept;
  for (Zone& zone : zones) {
    if (zone.units.empty()) continue;
    bool is_known = false;
    for (const auto& [level, index] : zones_of_[zone.units[0]])
      is_known = is_known || levels_[level][index].units.size() == zone.units.size();
    if (!is_known) kept.push_back(std::move(zone));
  }
  if (kept.empty()) return;
  const int level = static_cast<int>(levels_.size());
  for (size_t i = 0; i < kept.size(); ++i)
    for (const int unit : kept[i].units) zones_of_[unit].emplace_back(level, static_cast<int>(i));
  levels_.push_back(std::move(kept));
}

void Greedy::find_zones() {
  const std::vector<Unit>& units = cluster_.units();
  std::vector<int> keys(units.size());
  std::map<std::pair<int, int>, int> number;  // of a pair of rack and something
  const auto by_rack = [&](const auto& key_of) {
    number.clear();
    for (size_t i = 0; i < units.size(); ++i) {
      const std::pair<int, int> key(job_.same_rack ? units[i].rack : 0, key_of(units[i]));
      keys[i] = number.try_emplace(key, static_cast<int>(number.size())).first->second;
    }
    add_zones(keys, static_cast<int>(number.size()));
  };
  std::iota(keys.begin(), keys.end(), 0);
  add_zones(keys, static_cast<int>(units.size()));
  by_rack([](const Unit& unit) { return unit.island; });
  by_rack([](const Unit& unit) { return unit.leaf; });
  for (int level = 2; level < cluster_.top_level(); ++level) {
    std::vector<int> heads, part(cluster_.num_leaves());
    for (int leaf = 0; leaf < cluster_.num_leaves(); ++leaf) {
      const auto head = std::find_if(heads.begin(), heads.end(),
                                     [&](const int other) { return cluster_.level(other, leaf) <= level; });
      part[leaf] = static_cast<int>(head - heads.begin());
      if (head == heads.end()) heads.push_back(leaf);
    }
    by_rack([&](const Unit& unit) { return part[unit.leaf]; });
  }
  by_rack([](const Unit&) { return 0; });
}

// ---- a group

void Greedy::offer(UnitGroup group, const Free& free, Choice& choice) const {
  const std::vector<Unit>& units = cluster_.units();
  if (group.units.size() > 1) {
    std::set<int> hosts;
    for (const int unit : group.units)
      if (!hosts.insert(units[unit].host).second) return;  // it would have more ranks on one host than on another
    cluster_.sort(group.units);
  }
  double seconds = pricer_.stage(cluster_, group, choice.stage), waste = 0;
  if (choice.before != nullptr) seconds += pricer_.hop(cluster_, *choice.before, group);
  for (const int unit : group.units) waste += free[unit] - group.per_unit;
  if (choice.best && (seconds > choice.seconds + kTie || (seconds > choice.seconds - kTie && waste >= choice.waste)))
    return;
  choice.best = std::move(group), choice.seconds = seconds, choice.waste = waste;
}

// Units that differ neither in what they have free nor in what they are to the stage before are offered once.
void Greedy::offer_single(const std::vector<int>& zone, const Free& free, Choice& choice) const {
  const std::vector<Unit>& units = cluster_.units();
  std::set<std::vector<int>> seen;
  for (const int unit : zone) {
    if (free[unit] < job_.plan.tensor) continue;
    std::vector<int> kind{free[unit], units[unit].hardware};
    if (choice.before != nullptr)
      for (const int other : choice.before->units)
        kind.push_back(other == unit ? -2
                       : units[other].island == units[unit].island
                           ? -1
                           : cluster_.level(units[other].leaf, units[unit].leaf));
    if (seen.insert(std::move(kind)).second) offer({{unit}, job_.plan.tensor}, free, choice);
  }
}

void Greedy::offer_split(const std::vector<int>& zone, const Free& free, int per_unit, Choice& choice) const {
  const std::vector<Unit>& units = cluster_.units();
  const int num_units = job_.plan.tensor / per_unit;
  std::map<int, Island> islands;
  int num_eligible = 0;
  for (const int unit : zone) {
    if (free[unit] < per_unit) continue;
    Island& island = islands[units[unit].island];
    island.units.push_back(unit), island.leaf = units[unit].leaf, island.num_free += free[unit];
    ++num_eligible;
  }
  if (num_eligible < num_units) return;
  std::vector<const Island*> order;
  for (auto& [index, island] : islands) {
    std::stable_sort(island.units.begin(), island.units.end(), [&](int a, int b) { return free[a] < free[b]; });
    order.push_back(&island);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const Island* a, const Island* b) { return a->num_free < b->num_free; });
  if (choice.before != nullptr && choice.before->per_unit == per_unit &&
      std::all_of(choice.before->units.begin(), choice.before->units.end(), [&](const int unit) {
        return free[unit] >= per_unit && std::find(zone.begin(), zone.end(), unit) != zone.end();
      }))
    offer({choice.before->units, per_unit}, free, choice);
  for (const int of_island : divisors_descending(num_units)) {
    const size_t needed = static_cast<size_t>(num_units / of_island);
    std::map<int, std::vector<const Island*>> by_leaf;
    size_t num_islands = 0;
    for (const Island* island : order)
      if (static_cast<int>(island->units.size()) >= of_island) by_leaf[island->leaf].push_back(island), ++num_islands;
    if (num_islands < needed) continue;
    const auto offer_islands = [&](const std::vector<const Island*>& chosen) {
      UnitGroup group{.per_unit = per_unit};
      for (const Island* island : chosen)
        group.units.insert(group.units.end(), island->units.begin(), island->units.begin() + of_island);
      offer(std::move(group), free, choice);
    };
    std::vector<const std::vector<const Island*>*> leaves;
    for (const auto& [leaf, list] : by_leaf) leaves.push_back(&list);
    // The emptiest leaf that is enough, and the one where the stage before is.
    std::stable_sort(leaves.begin(), leaves.end(), [](const auto* a, const auto* b) { return a->size() < b->size(); });
    const auto enough = [&](size_t count) {
      return std::find_if(leaves.begin(), leaves.end(), [&](const auto* list) { return list->size() >= count; });
    };
    if (const auto leaf = enough(needed); leaf != leaves.end())
      offer_islands({(*leaf)->begin(), (*leaf)->begin() + static_cast<ptrdiff_t>(needed)});
    if (choice.before != nullptr)
      if (const auto leaf = by_leaf.find(units[choice.before->units[0]].leaf);
          leaf != by_leaf.end() && leaf->second.size() >= needed)
        offer_islands({leaf->second.begin(), leaf->second.begin() + static_cast<ptrdiff_t>(needed)});
    // Over two leaves alike, and over the fullest ones.
    if (const auto first = enough(needed / 2); needed % 2 == 0 && first != leaves.end() && first + 1 != leaves.end()) {
      std::vector<const Island*> chosen((*first)->begin(), (*first)->begin() + static_cast<ptrdiff_t>(needed / 2));
      chosen.insert(chosen.end(), first[1]->begin(), first[1]->begin() + static_cast<ptrdiff_t>(needed / 2));
      offer_islands(chosen);
    }
    std::vector<const Island*> chosen;
    for (auto leaf = leaves.rbegin(); leaf != leaves.rend() && chosen.size() < needed; ++leaf)
      for (size_t i = 0; i < (*leaf)->size() && chosen.size() < needed; ++i) chosen.push_back((**leaf)[i]);
    offer_islands(chosen);
  }
}

std::optional<UnitGroup> Greedy::pick_group(const std::vector<int>& zone, const Free& free, const UnitGroup* before,
                                            int stage) {
  Choice choice{.stage = stage, .before = before};
  for (const int per_unit : divisors_descending(job_.plan.tensor)) {
    if (per_unit == job_.plan.tensor) {
      offer_single(zone, free, choice);
    } else if (zone.size() > 1) {
      offer_split(zone, free, per_unit, choice);
    }
  }
  return std::move(choice.best);
}

// ---- a replica

void Greedy::refresh(Zone& zone, Free& free) {
  zone.is_stale = false;
  zone.best.reset();
  int num_free = 0;
  for (const int unit : zone.units) num_free += free[unit];
  if (num_free < job_.plan.tensor * job_.plan.pipeline) return;
  UnitReplica replica;
  for (int stage = 0; stage < job_.plan.pipeline; ++stage) {
    auto group = pick_group(zone.units, free, stage > 0 ? &replica.stages.back() : nullptr, stage);
    if (!group) break;
    for (const int unit : group->units) free[unit] -= group->per_unit;
    replica.stages.push_back(std::move(*group));
  }
  zone.waste = 0;
  for (const UnitGroup& group : replica.stages)
    for (const int unit : group.units) zone.waste += free[unit];
  give_back(replica, free);
  if (static_cast<int>(replica.stages.size()) < job_.plan.pipeline) return;
  replica.seconds = pricer_.replica(cluster_, replica.stages);
  zone.best = std::move(replica);
}

// Less is better; compared after the cost.
std::vector<double> Greedy::preference(const UnitReplica& replica) const {
  double leaf_uses = 0, unit_uses = 0, leaf_free = 0, count = 0;
  for (const UnitGroup& group : replica.stages)
    for (const int unit : group.units) {
      leaf_uses += leaf_uses_[cluster_.units()[unit].leaf];
      leaf_free += leaf_free_[cluster_.units()[unit].leaf];
      unit_uses += unit_uses_[unit];
      ++count;
    }
  if (job_.spread == Spread::kSpread) return {leaf_uses / count, unit_uses / count};
  return {-leaf_uses / count, leaf_free / count, -unit_uses / count};
}

std::optional<UnitReplica> Greedy::best_replica(Free& free, double floor_s) {
  const Zone* best = nullptr;
  std::vector<double> best_preference;
  for (std::vector<Zone>& level : levels_) {
    for (Zone& zone : level) {
      if (zone.is_stale) refresh(zone, free);
      if (!zone.best || (best != nullptr && zone.best->seconds > best->best->seconds + kTie)) continue;
      std::vector<double> preferred = preference(*zone.best);
      preferred.push_back(zone.waste);
      if (best != nullptr && zone.best->seconds > best->best->seconds - kTie && preferred >= best_preference) continue;
      best = &zone, best_preference = std::move(preferred);
    }
    if (best != nullptr && best->best->seconds <= floor_s + kTie) break;
  }
  if (best == nullptr) return std::nullopt;
  return best->best;
}

void Greedy::mark_stale(const UnitReplica& replica) {
  for (const UnitGroup& group : replica.stages)
    for (const int unit : group.units)
      for (const auto& [level, index] : zones_of_[unit]) levels_[level][index].is_stale = true;
}

void Greedy::count(const UnitReplica& replica, int sign) {
  std::set<int> leaves, units;
  for (const UnitGroup& group : replica.stages)
    for (const int unit : group.units) {
      leaf_free_[cluster_.units()[unit].leaf] -= sign * group.per_unit;
      leaves.insert(cluster_.units()[unit].leaf);
      units.insert(unit);
    }
  for (const int leaf : leaves) leaf_uses_[leaf] += sign;
  for (const int unit : units) unit_uses_[unit] += sign;
  mark_stale(replica);
}

std::vector<UnitReplica> Greedy::run(double floor_s) {
  Free free;
  leaf_uses_.assign(cluster_.num_leaves(), 0);
  leaf_free_.assign(cluster_.num_leaves(), 0);
  unit_uses_.assign(cluster_.units().size(), 0);
  for (const Unit& unit : cluster_.units()) {
    free.push_back(static_cast<int>(unit.free.size()));
    leaf_free_[unit.leaf] += free.back();
  }
  for (auto& level : levels_)
    for (Zone& zone : level) zone.is_stale = true;
  std::vector<UnitReplica> replicas;
  while (static_cast<int>(replicas.size()) < job_.plan.replicas) {
    auto next = best_replica(free, floor_s);
    if (!next) break;
    take(*next, free);
    count(*next, 1);
    replicas.push_back(std::move(*next));
  }
  return replicas;
}

void Greedy::improve(std::vector<UnitReplica>& replicas, double floor_s) {
  constexpr int kMaxRounds = 64;
  constexpr size_t kMaxPartners = 32;
  Free free;
  for (const Unit& unit : cluster_.units()) free.push_back(static_cast<int>(unit.free.size()));
  for (const UnitReplica& replica : replicas) take(replica, free);
  for (auto& level : levels_)
    for (Zone& zone : level) zone.is_stale = true;
  const auto remove = [&](const UnitReplica& replica) { give_back(replica, free), count(replica, -1); };
  const auto add = [&](const UnitReplica& replica) { take(replica, free), count(replica, 1); };
  for (int round = 0; round < kMaxRounds; ++round) {
    const auto slowest = std::max_element(replicas.begin(), replicas.end(),
                                          [](const auto& a, const auto& b) { return a.seconds < b.seconds; });
    if (slowest == replicas.end() || slowest->seconds <= floor_s + kTie) return;
    const UnitReplica old = *slowest;
    remove(old);
    if (const auto alone = best_replica(free, floor_s); alone && alone->seconds < old.seconds - kTie) {
      *slowest = *alone;
      add(*slowest);
      continue;
    }
    bool is_better = false;
    const size_t start = static_cast<size_t>(slowest - replicas.begin());
    for (size_t i = 1; i < std::min(replicas.size(), kMaxPartners + 1) && !is_better; ++i) {
      UnitReplica& other = replicas[(start + i) % replicas.size()];
      const UnitReplica other_old = other;
      remove(other_old);
      const auto first = best_replica(free, floor_s);
      if (first && first->seconds < old.seconds - kTie) {
        add(*first);
        const auto second = best_replica(free, floor_s);
        if (second && second->seconds < old.seconds - kTie) {
          *slowest = *first, other = *second;
          add(*second);
          is_better = true;
          break;
        }
        remove(*first);
      }
      add(other_old);
    }
    if (!is_better) {
      add(old);
      return;
    }
  }
}

bool Greedy::in_one_rack(const UnitReplica& replica) const {
  const int rack = cluster_.units()[replica.stages[0].units[0]].rack;
  for (const UnitGroup& group : replica.stages)
    for (const int unit : group.units)
      if (cluster_.units()[unit].rack != rack) return false;
  return true;
}

// Gives the most expensive stage of `slow` for the stage of `other` that leaves the slower of both the fastest.
bool Greedy::swap_stage(UnitReplica& slow, UnitReplica& other) {
  size_t worst = 0;
  double worst_s = -1;
  for (size_t i = 0; i < slow.stages.size(); ++i)
    if (const double seconds = pricer_.all_reduce(cluster_, slow.stages[i]); seconds > worst_s)
      worst = i, worst_s = seconds;
  std::optional<std::pair<UnitReplica, UnitReplica>> best;
  double best_s = slow.seconds - kTie;
  for (size_t i = 0; i < other.stages.size(); ++i) {
    std::pair<UnitReplica, UnitReplica> tried{slow, other};
    std::swap(tried.first.stages[worst], tried.second.stages[i]);
    if (job_.same_rack && !(in_one_rack(tried.first) && in_one_rack(tried.second))) continue;
    tried.first.seconds = pricer_.replica(cluster_, tried.first.stages);
    tried.second.seconds = pricer_.replica(cluster_, tried.second.stages);
    if (const double seconds = std::max(tried.first.seconds, tried.second.seconds); seconds < best_s)
      best = std::move(tried), best_s = seconds;
  }
  if (!best) return false;
  slow = std::move(best->first), other = std::move(best->second);
  return true;
}

// Partners: replicas on the same leaves first, then the fastest ones.
void Greedy::exchange(std::vector<UnitReplica>& replicas, double floor_s) {
  if (job_.plan.pipeline < 2 || replicas.size() < 2) return;
  constexpr size_t kNear = 48, kFast = 16;
  int64_t num_left = 60'000 / job_.plan.pipeline;  // pairs of replicas that may be priced
  const auto leaves_of = [&](const UnitReplica& replica) {
    std::set<int> leaves;
    for (const UnitGroup& group : replica.stages)
      for (const int unit : group.units) leaves.insert(cluster_.units()[unit].leaf);
    return leaves;
  };
  while (num_left > 0) {
    const auto slowest = std::max_element(replicas.begin(), replicas.end(),
                                          [](const auto& a, const auto& b) { return a.seconds < b.seconds; });
    if (slowest->seconds <= floor_s + kTie) return;
    const std::set<int> here = leaves_of(*slowest);
    std::vector<std::pair<double, UnitReplica*>> near, fast;
    for (UnitReplica& other : replicas) {
      if (&other == &*slowest || other.seconds >= slowest->seconds - kTie) continue;
      const bool is_near = here.contains(cluster_.units()[other.stages[0].units[0]].leaf);
      (is_near ? near : fast).emplace_back(other.seconds, &other);
    }
    const auto keep_fastest = [](auto& list, size_t count) {
      std::stable_sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
      if (list.size() > count) list.resize(count);
    };
    keep_fastest(near, kNear);
    keep_fastest(fast, kFast);
    near.insert(near.end(), fast.begin(), fast.end());
    bool is_better = false;
    for (const auto& [seconds, other] : near) {
      num_left -= static_cast<int64_t>(other->stages.size());
      is_better = swap_stage(*slowest, *other);
      if (is_better || num_left <= 0) break;
    }
    if (!is_better) return;
  }
}

}  // namespace lane::place
