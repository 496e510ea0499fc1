#include "lane/place/place.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "lane/base/error.h"
#include "lane/base/random.h"
#include "lane/place/search/exact.h"
#include "lane/place/search/explain.h"

namespace lane::place {
namespace {

using plan::Tier;
using topology::GpuRef;

constexpr double kTie = 1e-12;  // seconds

void check_job(const Job& job) {
  plan::check(job.plan, job.shape);
  const auto refuse = [](const char* field, int64_t value) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{} is {}; give at least 1", field, value));
  };
  if (job.plan.replicas < 1) refuse("the number of replicas", job.plan.replicas);
  if (job.batch < 1) refuse("the batch", job.batch);
  if (job.input_tokens < 1) refuse("the input length", job.input_tokens);
  constexpr int64_t kMaxRanks = 1 << 20;
  if (int64_t{job.plan.tensor} * job.plan.pipeline > kMaxRanks / job.plan.replicas)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{} x {} x {} ranks: at most {}", job.plan.tensor,
                                                         job.plan.pipeline, job.plan.replicas, kMaxRanks));
}

Group describe(const plan::Reach& reach, Pricer& pricer, std::span<const GpuRef> gpus) {
  Group group{.gpus = {gpus.begin(), gpus.end()}};
  std::map<int, std::vector<int>> on_host;
  for (const GpuRef gpu : gpus) {
    group.tier = std::max(group.tier, reach.tier(gpus[0], gpu));
    on_host[gpu.host].push_back(reach.topology().hosts[gpu.host].gpus[gpu.gpu].index);
  }
  group.num_hosts = static_cast<int>(on_host.size());
  for (const auto& [host, indices] : on_host) {
    group.is_even = group.is_even && indices.size() == on_host.begin()->second.size();
    group.is_aligned = group.is_aligned && indices == on_host.begin()->second;
  }
  const Pricer::Price& price = pricer.all_reduce(gpus);
  group.all_reduce_s = price.seconds, group.algorithm = price.algorithm;
  return group;
}

Placement evaluate(const plan::Reach& reach, Pricer& pricer, const std::vector<GpuRef>& gpus) {
  const plan::ParallelPlan& plan = pricer.job().plan;
  Placement placement{.gpus = gpus};
  const size_t size = static_cast<size_t>(plan.tensor);
  for (int replica = 0; replica < plan.replicas; ++replica) {
    double seconds = 0;
    for (int stage = 0; stage < plan.pipeline; ++stage) {
      const size_t begin = placement.groups.size() * size;
      const std::span<const GpuRef> here(gpus.data() + begin, size);
      placement.groups.push_back(describe(reach, pricer, here));
      seconds += pricer.num_all_reduces(stage) * placement.groups.back().all_reduce_s;
      if (stage == 0) continue;
      const std::span<const GpuRef> before(gpus.data() + begin - size, size);
      seconds += pricer.hop(before, here);
      Tier farthest = Tier::kSelf;
      for (size_t i = 0; i < size; ++i) farthest = std::max(farthest, reach.tier(before[i], here[i]));
      placement.hops.push_back(farthest);
    }
    placement.replica_s.push_back(seconds);
    placement.step_s = std::max(placement.step_s, seconds);
  }
  return placement;
}

// ---- from counts to GPUs

class Assigner {
 public:
  Assigner(const plan::Reach& reach, const Cluster& cluster) : reach_(reach), cluster_(cluster) {
    for (const Unit& unit : cluster.units()) free_.push_back(unit.free);
  }

  // Groups on several hosts choose first, those with the least choice before the others: their GPUs have to be the same
  // on each host.
  std::vector<GpuRef> run(const std::vector<UnitReplica>& replicas) {
    std::vector<const UnitGroup*> groups, open, alone;
    for (const UnitReplica& replica : replicas)
      for (const UnitGroup& group : replica.stages) {
        groups.push_back(&group);
        (group.units.size() > 1 ? open : alone).push_back(&group);
      }
    // The order costs the square of their number: beyond this, first come, first served.
    constexpr size_t kMaxSorted = 128;
    std::stable_partition(open.begin(), open.end(), [&](const UnitGroup* group) { return choice(*group) == 0; });
    while (!open.empty() && choice(*open.front()) == 0) {
      assign(*open.front());
      open.erase(open.begin());
    }
    while (!open.empty()) {
      auto next = open.begin();
      if (open.size() <= kMaxSorted)
        next = std::min_element(open.begin(), open.end(),
                                [&](const UnitGroup* a, const UnitGroup* b) { return choice(*a) < choice(*b); });
      assign(**next);
      open.erase(next);
    }
    for (const UnitGroup* group : alone) assign(*group);
    std::vector<GpuRef> gpus;
    for (const UnitGroup* group : groups)
      for (const GpuRef gpu : chosen_.at(group)) gpus.push_back(gpu);
    return gpus;
  }

 private:
  int index_of(int unit, int gpu) const { return reach_.topology().hosts[cluster_.units()[unit].host].gpus[gpu].index; }

  // Indices that are free on all hosts of the group.
  std::set<int> common(const UnitGroup& group) const {
    std::set<int> indices;
    for (const int gpu : free_[group.units[0]]) indices.insert(index_of(group.units[0], gpu));
    for (const int unit : group.units) {
      std::set<int> here;
      for (const int gpu : free_[unit])
        if (const int index = index_of(unit, gpu); indices.contains(index)) here.insert(index);
      indices = std::move(here);
    }
    return indices;
  }

  // How many of them it can do without; those that cannot be aligned come last.
  int choice(const UnitGroup& group) const {
    if (static_cast<int>(free_[group.units[0]].size()) == group.per_unit) return 0;
    const int spare = static_cast<int>(common(group).size()) - group.per_unit;
    return spare < 0 ? 1 << 20 : spare;
  }

  void assign(const UnitGroup& group) {
    const std::vector<Unit>& units = cluster_.units();
    std::vector<GpuRef>& chosen = chosen_[&group];
    std::set<int> indices;
    if (group.units.size() > 1) indices = common(group);
    const bool is_aligned = static_cast<int>(indices.size()) >= group.per_unit;
    if (is_aligned) {
      const int first = group.units[0];
      std::vector<int> candidates;
      for (const int gpu : free_[first])
        if (indices.contains(index_of(first, gpu))) candidates.push_back(gpu);
      indices.clear();
      for (const int gpu : choose_gpus(reach_, units[first], candidates, group.per_unit))
        indices.insert(index_of(first, gpu));
    }
    for (const int unit : group.units) {
      std::vector<int> mine;
      if (is_aligned) {
        for (const int gpu : free_[unit])
          if (indices.contains(index_of(unit, gpu))) mine.push_back(gpu);
      } else {
        mine = choose_gpus(reach_, units[unit], free_[unit], group.per_unit);
      }
      std::sort(mine.begin(), mine.end(), [&](int a, int b) { return index_of(unit, a) < index_of(unit, b); });
      for (const int gpu : mine) {
        chosen.push_back({units[unit].host, gpu});
        std::erase(free_[unit], gpu);
      }
    }
  }

  const plan::Reach& reach_;
  const Cluster& cluster_;
  std::vector<std::vector<int>> free_;  // by unit
  std::map<const UnitGroup*, std::vector<GpuRef>> chosen_;
};

// Launchers fill a host before the next one: replicas in the order of their first hosts.
void sort_by_host(const Cluster& cluster, std::vector<UnitReplica>& replicas) {
  const auto first_host = [&](const UnitReplica& replica) {
    int first = cluster.units()[replica.stages[0].units[0]].host;
    for (const int unit : replica.stages[0].units) first = std::min(first, cluster.units()[unit].host);
    return first;
  };
  std::stable_sort(replicas.begin(), replicas.end(),
                   [&](const UnitReplica& a, const UnitReplica& b) { return first_host(a) < first_host(b); });
}

// ---- comparisons

// The first GPUs of the units in this order.
std::optional<std::vector<GpuRef>> in_order(const Cluster& cluster, const std::vector<int>& order, int num_ranks) {
  std::vector<GpuRef> gpus;
  for (const int unit : order)
    for (const int gpu : cluster.units()[unit].free) {
      if (static_cast<int>(gpus.size()) == num_ranks) return gpus;
      gpus.push_back({cluster.units()[unit].host, gpu});
    }
  if (static_cast<int>(gpus.size()) < num_ranks) return std::nullopt;
  return gpus;
}

// The same as the search would have it; nothing if it breaks a rule.
std::optional<std::vector<UnitReplica>> as_units(const Cluster& cluster, Pricer& pricer,
                                                 const std::vector<GpuRef>& gpus) {
  const Job& job = pricer.job();
  std::map<std::pair<int, int>, int> unit_of;
  for (size_t i = 0; i < cluster.units().size(); ++i)
    for (const int gpu : cluster.units()[i].gpus) unit_of[{cluster.units()[i].host, gpu}] = static_cast<int>(i);
  std::vector<UnitReplica> replicas(job.plan.replicas);
  auto gpu = gpus.begin();
  for (UnitReplica& replica : replicas) {
    std::set<int> racks;
    for (int stage = 0; stage < job.plan.pipeline; ++stage) {
      std::map<int, int> count, of_island, of_host;
      for (int i = 0; i < job.plan.tensor; ++i, ++gpu) {
        const int unit = unit_of.at({gpu->host, gpu->gpu});
        ++count[unit], ++of_island[cluster.units()[unit].island];
        racks.insert(cluster.units()[unit].rack);
      }
      UnitGroup group{.per_unit = count.begin()->second};
      for (const auto& [unit, number] : count) {
        if (number != group.per_unit || ++of_host[cluster.units()[unit].host] > 1) return std::nullopt;
        group.units.push_back(unit);
      }
      for (const auto& [island, number] : of_island)
        if (number != of_island.begin()->second) return std::nullopt;
      cluster.sort(group.units);
      replica.stages.push_back(std::move(group));
    }
    if (job.same_rack && racks.size() > 1) return std::nullopt;
    replica.seconds = pricer.replica(cluster, replica.stages);
  }
  return replicas;
}

double slowest(const std::vector<UnitReplica>& replicas) {
  double seconds = 0;
  for (const UnitReplica& replica : replicas) seconds = std::max(seconds, replica.seconds);
  return seconds;
}

class Placer {
 public:
  Placer(const plan::Reach& reach, const Job& job, const SearchOptions& options)
      : reach_(reach), job_(job), options_(options), cluster_(reach, job), pricer_(reach, job) {}

  Result run() {
    Result result;
    if (cluster_.units().empty()) refuse(0, true);
    Bound bound(cluster_, pricer_);
    Free free;
    for (const Unit& unit : cluster_.units()) free.push_back(static_cast<int>(unit.free.size()));
    result.bound_s = bound.at(free, job_.plan.replicas);
    if (std::isinf(result.bound_s)) refuse(0, true);
    Greedy greedy(cluster_, pricer_);
    const double floor_s = bound.at(free, 1);
    std::vector<UnitReplica> best = greedy.run(floor_s);
    const size_t num_placed = best.size();
    const bool is_complete = static_cast<int>(num_placed) == job_.plan.replicas;
    if (!is_complete) best.clear();
    compare(result, best);
    if (!best.empty() && slowest(best) > result.bound_s + kTie) {
      greedy.exchange(best, result.bound_s);
      greedy.improve(best, result.bound_s);
      greedy.exchange(best, result.bound_s);
    }
    const double bound_s = result.bound_s;
    search_exactly(result, bound, best, num_placed);
    sort_by_host(cluster_, best);
    result.placement = evaluate(reach_, pricer_, Assigner(reach_, cluster_).run(best));
    if (cluster_.has_uneven_hosts()) {
      // Counts of GPUs do not say all of these hosts: nothing is proved, and an order may happen to be better.
      result.is_optimal = false, result.bound_s = bound_s;
      if (!other_.gpus.empty() && other_.step_s < result.placement.step_s - kTie) result.placement = other_;
    }
    result.why = explain(reach_, cluster_, pricer_, result);
    return result;
  }

 private:
  [[noreturn]] void refuse(size_t num_placed, bool is_proved) const {
    throw Error(ErrorCode::kInvalidArgument, what_is_missing(cluster_, job_, num_placed, is_proved));
  }

  // Orders that know nothing of the network. One that happens to be better than the search's is taken.
  void compare(Result& result, std::vector<UnitReplica>& best) {
    const int num_ranks = job_.plan.num_ranks();
    std::vector<int> order(cluster_.units().size());
    std::iota(order.begin(), order.end(), 0);
    const auto price = [&](bool& is_even) {
      const auto gpus = in_order(cluster_, order, num_ranks);
      if (!gpus) return 0.0;
      auto replicas = as_units(cluster_, pricer_, *gpus);
      is_even = replicas.has_value();
      if (!is_even || cluster_.has_uneven_hosts()) {
        Placement placement = evaluate(reach_, pricer_, *gpus);
        const double seconds = placement.step_s;
        if (is_even && (other_.gpus.empty() || seconds < other_.step_s)) other_ = std::move(placement);
        return seconds;
      }
      const double seconds = slowest(*replicas);
      if (best.empty() || seconds < slowest(best) - kTie) best = std::move(*replicas);
      return seconds;
    };
    result.naive_s = price(result.naive_is_even);
    // Fewer for large jobs: their mean is as good, as it is over many groups.
    const int num_random = std::min(options_.num_random, std::max(3, 20'000 / num_ranks));
    for (int i = 0; i < num_random; ++i) {
      std::vector<std::pair<uint64_t, int>> keys;
      for (size_t unit = 0; unit < order.size(); ++unit)
        keys.emplace_back(random_bits(options_.seed + static_cast<uint64_t>(i), unit), static_cast<int>(unit));
      std::sort(keys.begin(), keys.end());
      for (size_t j = 0; j < keys.size(); ++j) order[j] = keys[j].second;
      bool is_even = true;
      const double seconds = price(is_even);
      result.random_mean_s += seconds / num_random;
      result.random_best_s = i == 0 ? seconds : std::min(result.random_best_s, seconds);
    }
  }

  void search_exactly(Result& result, Bound& bound, std::vector<UnitReplica>& best, size_t num_placed) {
    const double found_s = best.empty() ? INFINITY : slowest(best);
    result.is_optimal = found_s <= result.bound_s + kTie;
    if (!result.is_optimal && static_cast<int>(cluster_.units().size()) <= options_.max_exact_hosts) {
      Exact exact(cluster_, pricer_, bound, options_.max_nodes);
      std::vector<UnitReplica> better = exact.run(found_s);
      if (!better.empty()) best = std::move(better);
      result.num_nodes = exact.num_nodes();
      result.is_optimal = exact.is_complete();
      if (best.empty()) refuse(num_placed, exact.is_complete());
    }
    if (best.empty()) refuse(num_placed, false);
    if (result.is_optimal) result.bound_s = slowest(best);
  }

  const plan::Reach& reach_;
  const Job& job_;
  const SearchOptions& options_;
  Cluster cluster_;
  Pricer pricer_;
  Placement other_;  // the best of the orders, where GPUs of a host differ
};

}  // namespace

Placement evaluate(const plan::Reach& reach, const Job& job, const std::vector<GpuRef>& gpus) {
  check_job(job);
  if (static_cast<int>(gpus.size()) != job.plan.num_ranks())
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} GPUs for {} ranks; give one for each", gpus.size(), job.plan.num_ranks()));
  Pricer pricer(reach, job);
  return evaluate(reach, pricer, gpus);
}

Result place(const plan::Reach& reach, const Job& job, const SearchOptions& options) {
  check_job(job);
  return Placer(reach, job, options).run();
}

}  // namespace lane::place
