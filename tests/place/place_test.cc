#include "lane/place/place.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "lane/base/random.h"
#include "tests/place/clusters.h"

namespace lane::place {
namespace {

using plan::Reach;
using plan::Tier;
using topology::GpuRef;
using topology::Topology;

// What every placement promises.
void expect_rules(const Topology& topology, const Job& job, const Result& result) {
  const Placement& placement = result.placement;
  ASSERT_EQ(placement.gpus.size(), static_cast<size_t>(job.plan.num_ranks()));
  std::set<GpuRef> used;
  for (const GpuRef gpu : placement.gpus) {
    EXPECT_FALSE(topology.hosts[gpu.host].gpus[gpu.gpu].is_busy) << "host " << gpu.host << " GPU " << gpu.gpu;
    EXPECT_TRUE(used.insert(gpu).second) << "a GPU is used twice";
  }
  for (const Group& group : placement.groups) {
    EXPECT_TRUE(group.is_even);
    std::map<int, int> count;
    for (const GpuRef gpu : group.gpus) ++count[gpu.host];
    for (const auto& [host, number] : count) EXPECT_EQ(number, count.begin()->second);
    // A host's ranks follow each other in a group.
    for (size_t i = 1; i < group.gpus.size(); ++i)
      EXPECT_TRUE(group.gpus[i].host == group.gpus[i - 1].host || i % count.begin()->second == 0);
  }
  EXPECT_LE(result.bound_s, placement.step_s + 1e-9);
  EXPECT_TRUE(!result.naive_is_even || placement.step_s <= result.naive_s + 1e-12);
  EXPECT_TRUE(!result.is_optimal || std::abs(result.bound_s - placement.step_s) < 1e-12);
}

Result placed(const Topology& topology, const Job& job, const SearchOptions& options = {}) {
  const Reach reach(topology);
  const Result result = place(reach, job, options);
  expect_rules(topology, job, result);
  return result;
}

// ---- what the first implementation of this got wrong

TEST(PlaceRegression, AGroupMayCrossRacks) {
  // One host of each rack is free: only a group over two racks can exist.
  const Topology topology = cluster({{"a1", first(8), 8, "", "r1"}, {"a2", first(8), 8, "", "r2"}});
  const Result result = placed(topology, job_for(16, 1, 1));
  EXPECT_EQ(result.placement.groups[0].tier, Tier::kSpine);
  EXPECT_TRUE(result.is_optimal);
}

TEST(PlaceRegression, AFailureTakesNothingAndSaysWhatIsMissing) {
  const Topology topology = cluster({{"a1", first(8)}, {"a1", first(8)}, {"a2", first(8)}});
  const Topology before = topology;
  const Reach reach(topology);
  const std::string message = message_of([&] { place(reach, job_for(8, 1, 4)); });
  EXPECT_EQ(topology, before);
  for (const char* part : {"needs 4 groups of 8 GPUs", "32 in all", "24 are free", "3 hosts with 8 GPUs free"})
    EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_NO_THROW(place(reach, job_for(8, 1, 3))) << "and three replicas still find their room";
}

TEST(PlaceRegression, AGroupIsNeverSplitUnevenly) {
  // Five and three free GPUs would hold eight ranks, unevenly.
  const Topology topology = cluster({{"a1", first(5)}, {"a1", first(3)}});
  const Reach reach(topology);
  const std::string message = message_of([&] { place(reach, job_for(8, 1, 1)); });
  EXPECT_NE(message.find("evenly"), std::string::npos) << message;
  const Result even = placed(cluster({{"a1", first(5)}, {"a1", first(4)}}), job_for(8, 1, 1));
  EXPECT_EQ(even.placement.groups[0].num_hosts, 2);
  EXPECT_FALSE(even.naive_is_even) << "in the order of hosts it would be 5 and 3";
}

TEST(PlaceRegression, GroupsOnSeveralHostsHaveGpus) {
  const Result result = placed(cluster({{"a1", first(8)}, {"a1", first(8)}}), job_for(16, 1, 1));
  for (int rank = 0; rank < 16; ++rank)
    EXPECT_EQ(result.placement.gpus[rank], (GpuRef{rank / 8, rank % 8})) << "rank " << rank;
}

TEST(PlaceRegression, CostsFollowTheFabricAndTheModel) {
  const Topology topology = cluster({{"a1", first(8)}, {"a1", first(8)}, {"a2", first(8)}, {"b1", first(8)}});
  const Reach reach(topology);
  const auto step = [&](std::vector<int> hosts, const Job& job) {
    std::vector<GpuRef> gpus;
    for (const int host : hosts)
      for (int gpu = 0; gpu < 8; ++gpu) gpus.push_back({host, gpu});
    return evaluate(reach, job, gpus).step_s;
  };
  const Job job = job_for(16, 1, 1);
  EXPECT_LT(step({0, 1}, job), step({0, 2}, job)) << "a leaf is nearer than a spine";
  EXPECT_LT(step({0, 2}, job), step({0, 3}, job)) << "and a spine than a core";
  Job larger = job, deeper = job, prefill = job;
  larger.batch *= 16;
  deeper.shape.num_layers *= 2;
  prefill.objective = Objective::kPrefill;
  EXPECT_GT(step({0, 1}, larger), step({0, 1}, job));
  EXPECT_NEAR(step({0, 1}, deeper), 2 * step({0, 1}, job), 1e-12);
  EXPECT_GT(step({0, 1}, prefill), 10 * step({0, 1}, job));
}

TEST(PlaceRegression, SmallGroupsDoNotBreakUpWholeHosts) {
  // First fit would put the two groups of 4 on the whole host and leave none for the group of 8.
  const Topology topology = cluster({{"a1", first(8)}, {"a1", first(4)}, {"a1", first(4)}});
  const Result result = placed(topology, job_for(4, 1, 2));
  std::set<int> hosts;
  for (const GpuRef gpu : result.placement.gpus) hosts.insert(gpu.host);
  EXPECT_FALSE(hosts.contains(0));
  EXPECT_EQ(placed(topology, job_for(8, 1, 2)).placement.groups[0].num_hosts +
                placed(topology, job_for(8, 1, 2)).placement.groups[1].num_hosts,
            3)
      << "one on the whole host, one on two halves";
}

TEST(PlaceRegression, PipelineNeighboursAreKeptCloseByTheirCost) {
  const Topology topology = cluster({{"a1", first(8)}, {"b1", first(8)}, {"a1", first(8)}, {"b1", first(8)}});
  const Result result = placed(topology, job_for(8, 2, 2));
  for (const Tier hop : result.placement.hops) EXPECT_EQ(hop, Tier::kLeaf);
  EXPECT_LT(result.placement.step_s, result.naive_s) << "in their order, stages alternate between leaves";
  EXPECT_TRUE(result.is_optimal);
}

// ---- islands, rails, policies

TEST(Place, AnNvlinkDomainHoldsAGroupOverItsHosts) {
  std::vector<HostSpec> hosts;
  for (int i = 0; i < 36; ++i) hosts.push_back({"a1", first(4), 4, i < 18 ? "rack1" : "rack2"});
  const Topology topology = cluster(hosts);
  const Result inside = placed(topology, job_for(72, 1, 2));
  for (const Group& group : inside.placement.groups) {
    EXPECT_EQ(group.tier, Tier::kNvlink);
    EXPECT_EQ(group.num_hosts, 18);
  }
  // Twice as large: as many GPUs in each of the two domains.
  const Result across = placed(topology, job_for(144, 1, 1));
  std::map<bool, int> of_domain;
  for (const GpuRef gpu : across.placement.gpus) ++of_domain[gpu.host < 18];
  EXPECT_EQ(of_domain[true], 72);
  EXPECT_EQ(of_domain[false], 72);
}

TEST(Place, DomainsShareAGroupEvenlyEvenWithGpusTaken) {
  std::vector<HostSpec> hosts;
  for (int i = 0; i < 6; ++i) hosts.push_back({"a1", first(i == 5 ? 2 : 4), 4, i < 3 ? "rack1" : "rack2"});
  // 12 free in one, 10 in the other: 16 ranks as 8 + 8.
  const Result result = placed(cluster(hosts), job_for(16, 1, 1));
  std::map<bool, int> of_domain;
  for (const GpuRef gpu : result.placement.gpus) ++of_domain[gpu.host < 3];
  EXPECT_EQ(of_domain[true], 8);
  EXPECT_EQ(of_domain[false], 8);
}

TEST(Place, RailsAreAlignedWhereTheyCanBe) {
  const Topology topology = cluster({{"a1", {0, 1, 4, 5, 6, 7}}, {"a1", {2, 3, 4, 5, 6, 7}}});
  const Result result = placed(topology, job_for(8, 1, 1));
  EXPECT_TRUE(result.placement.groups[0].is_aligned);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(result.placement.gpus[i].gpu, 4 + i) << "common to both";
    EXPECT_EQ(result.placement.gpus[i].gpu, result.placement.gpus[4 + i].gpu);
  }
  // The group that spans hosts chooses before the one that does not.
  const Result two = placed(cluster({{"a1", first(6)}, {"a1", {2, 3}}}), job_for(4, 1, 2));
  for (const Group& group : two.placement.groups) EXPECT_TRUE(group.is_aligned);
  const Result crossed = placed(cluster({{"a1", {0, 1}}, {"a1", {2, 3}}}), job_for(4, 1, 1));
  EXPECT_FALSE(crossed.placement.groups[0].is_aligned);
  EXPECT_NE(crossed.why.back().find("rails"), std::string::npos) << crossed.why.back();
}

TEST(Place, BridgedPairsStayTogether) {
  // Four GPUs, NVLink between 0-2 and 1-3 alone.
  Topology topology = cluster({{"a1", first(4), 4}});
  using topology::Path;
  constexpr Path kX = Path::kSelf, kN = Path::kNvlink, kS = Path::kSys;
  topology.hosts[0].gpu_to_gpu = {{kX, kS, kN, kS}, {kS, kX, kS, kN}, {kN, kS, kX, kS}, {kS, kN, kS, kX}};
  const Result result = placed(topology, job_for(2, 1, 2));
  for (const Group& group : result.placement.groups) EXPECT_EQ(group.tier, Tier::kNvlink);
  EXPECT_FALSE(result.is_optimal) << "counts do not say all of such hosts: nothing is claimed";
}

TEST(Place, WithoutNvlinkTheCostDecides) {
  std::vector<HostSpec> hosts(2, HostSpec{"a1", first(8), 8, "", "", false});
  const Result result = placed(cluster(hosts), job_for(8, 1, 2));
  EXPECT_TRUE(result.is_optimal);
  EXPECT_LE(result.placement.step_s, result.naive_s);
}

TEST(Place, SpreadAndPack) {
  const Topology topology = cluster(
      {{"a1", first(8)}, {"a1", first(8)}, {"a2", first(8)}, {"a2", first(8)}, {"a3", first(8)}, {"a3", first(8)}});
  const auto leaves = [&](Spread spread) {
    Job job = job_for(8, 1, 2);
    job.spread = spread;
    std::set<std::string> used;
    for (const GpuRef gpu : placed(topology, job).placement.gpus) used.insert(topology.hosts[gpu.host].leaf_switch);
    return used.size();
  };
  EXPECT_EQ(leaves(Spread::kSpread), 2u);
  EXPECT_EQ(leaves(Spread::kPack), 1u);
}

TEST(Place, KeepsToTheHostsAndRacksItMayUse) {
  const Topology topology = cluster({{"a1", first(8), 8, "", "r1"},
                                     {"a1", first(8), 8, "", "r2"},
                                     {"a1", first(8), 8, "", "r2"},
                                     {"a1", first(8), 8, "", "r3"}});
  Job job = job_for(16, 1, 1);
  job.same_rack = true;
  const Result rack = placed(topology, job);
  EXPECT_EQ(rack.placement.gpus[0].host, 1);
  EXPECT_EQ(rack.placement.gpus[15].host, 2);
  job.exclude = {"h2"};
  EXPECT_THROW(place(Reach(topology), job), Error);
  job.same_rack = false;
  job.include = {"h0", "h2", "h3"};
  const Result some = placed(topology, job);
  for (const GpuRef gpu : some.placement.gpus) EXPECT_TRUE(gpu.host == 0 || gpu.host == 3);
  job.include = {"nobody"};
  EXPECT_NE(message_of([&] { place(Reach(topology), job); }).find("nobody"), std::string::npos);
}

TEST(Place, RefusesJobsThatCannotBe) {
  const Topology topology = cluster({{"a1", first(8)}});
  const Reach reach(topology);
  EXPECT_THROW(place(reach, job_for(7, 1, 1)), Error) << "1440 heads do not go into 7";
  EXPECT_THROW(place(reach, job_for(8, 25, 1)), Error);
  EXPECT_THROW(place(reach, job_for(8, 1, 0)), Error);
  Job none = job_for(1, 1, 1);
  none.batch = 0;
  EXPECT_THROW(place(reach, none), Error);
  const Topology busy = cluster({{"a1", {}}});
  EXPECT_NE(message_of([&] { place(Reach(busy), job_for(1, 1, 1)); }).find("0 are free"), std::string::npos);
  EXPECT_THROW(evaluate(reach, job_for(8, 1, 1), {{0, 0}}), Error);
}

TEST(Place, OneGpuNeedsNoCommunication) {
  const Result result = placed(cluster({{"a1", first(8)}}), job_for(1, 1, 8));
  EXPECT_EQ(result.placement.step_s, 0);
  EXPECT_TRUE(result.is_optimal);
}

TEST(Place, SaysWhatTheSlowestReplicaSpansAndWhatABetterOneNeeds) {
  const Topology topology = cluster({{"a1", first(8)}, {"a2", first(8)}, {"b1", first(4)}});
  const Result result = placed(topology, job_for(16, 1, 1));
  ASSERT_EQ(result.why.size(), 2u);
  EXPECT_EQ(result.why[0].find("replica 0 stage 0 on h[0-1]: leaf switches joined by a spine"), 0u) << result.why[0];
  for (const char* part : {"2 hosts with 8 free GPUs each on one leaf switch", "less a step", "2 hosts had as many",
                           "1 on the fullest leaf", "1 group"})
    EXPECT_NE(result.why[1].find(part), std::string::npos) << result.why[1] << "\nlacks " << part;
  const Result best = placed(topology, job_for(8, 1, 1));
  EXPECT_EQ(best.why.size(), 1u) << "nothing would be better";
}

TEST(Place, HostsThatDifferInTheirNvlinkAreStillNoWorseThanTheirOrder) {
  using topology::Path;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    uint64_t counter = 0;
    const auto draw = [&](int count) { return static_cast<int>(random_bits(7000 + seed, counter++) % count); };
    std::vector<HostSpec> hosts;
    for (int i = 0; i < 4; ++i) {
      HostSpec host{draw(2) == 0 ? "a1" : "a2", {}, 4};
      for (int gpu = 0; gpu < 4; ++gpu)
        if (draw(4) != 0) host.free.push_back(gpu);
      hosts.push_back(host);
    }
    Topology topology = cluster(hosts);
    for (topology::Host& host : topology.hosts) {  // bridged in random pairs
      const int mate = 1 + draw(3);
      host.gpu_to_gpu.assign(4, std::vector<Path>(4, Path::kNode));
      const auto join = [&](int a, int b) { host.gpu_to_gpu[a][b] = host.gpu_to_gpu[b][a] = Path::kNvlink; };
      join(0, mate);
      join(mate == 1 ? 2 : 1, mate == 3 ? 2 : 3);
      for (int gpu = 0; gpu < 4; ++gpu) host.gpu_to_gpu[gpu][gpu] = Path::kSelf;
    }
    const Job job = job_for(draw(2) == 0 ? 2 : 4, 1 + draw(2), 1 + draw(2));
    const Reach reach(topology);
    try {
      expect_rules(topology, job, place(reach, job));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << error.what();
    }
  }
}

TEST(Place, AHostMayHaveGpusOfTwoDomains) {
  Topology topology = cluster({{"a1", first(8)}, {"a1", first(8)}});
  for (topology::Host& host : topology.hosts)
    for (int gpu = 0; gpu < 8; ++gpu) host.gpus[gpu].nvlink_domain = gpu < 4 ? "left" : "right";
  const Result result = placed(topology, job_for(8, 1, 2));
  for (const Group& group : result.placement.groups) EXPECT_EQ(group.tier, Tier::kNvlink);
  EXPECT_EQ(result.placement.groups[0].num_hosts, 2);
}

// ---- against all placements there are

// All ways to give each group, in turn, equal shares of hosts. Independent of the search but for evaluate().
class BruteForce {
 public:
  BruteForce(const Topology& topology, const Reach& reach, const Job& job)
      : topology_(topology), reach_(reach), job_(job) {
    for (const topology::Host& host : topology.hosts) {
      free_.emplace_back();
      for (size_t gpu = 0; gpu < host.gpus.size(); ++gpu)
        if (!host.gpus[gpu].is_busy) free_.back().push_back(static_cast<int>(gpu));
    }
  }

  double run() {
    next_group();
    return best_s_;
  }

 private:
  void next_group() {
    if (gpus_.size() == static_cast<size_t>(job_.plan.num_ranks())) {
      best_s_ = std::min(best_s_, price());
      return;
    }
    for (int share = 1; share <= job_.plan.tensor; ++share)
      if (job_.plan.tensor % share == 0) next_host(share, 0, {});
  }

  void next_host(int share, size_t from, std::vector<int> hosts) {
    if (static_cast<int>(hosts.size()) * share == job_.plan.tensor) {
      // Hosts of a leaf together, the fullest leaf first, as every placement has them.
      std::map<std::string, int> count;
      std::map<std::string, int> of_island;
      for (const int host : hosts) {
        ++count[topology_.hosts[host].leaf_switch];
        const std::string& domain = topology_.hosts[host].gpus[0].nvlink_domain;
        of_island[domain.empty() ? topology_.hosts[host].name : domain] += share;
      }
      for (const auto& [island, number] : of_island)
        if (number != of_island.begin()->second) return;
      std::stable_sort(hosts.begin(), hosts.end(), [&](int a, int b) {
        const std::string &left = topology_.hosts[a].leaf_switch, &right = topology_.hosts[b].leaf_switch;
        if (count[left] != count[right]) return count[left] > count[right];
        if (left != right) return reach_.leaf_group(a) < reach_.leaf_group(b);
        return reach_.island({a, 0}) < reach_.island({b, 0});
      });
      const std::vector<GpuRef> before = gpus_;
      const std::vector<std::vector<int>> free = free_;
      for (const int host : hosts)
        for (int i = 0; i < share; ++i) {
          gpus_.push_back({host, free_[host].front()});
          free_[host].erase(free_[host].begin());
        }
      next_group();
      gpus_ = before, free_ = free;
      return;
    }
    for (size_t host = from; host < free_.size(); ++host) {
      if (static_cast<int>(free_[host].size()) < share) continue;
      hosts.push_back(static_cast<int>(host));
      next_host(share, host + 1, hosts);
      hosts.pop_back();
    }
  }

  // A replica's cost depends on its hosts and shares alone: GPUs of a host are alike here.
  double price() {
    const size_t size = static_cast<size_t>(job_.plan.tensor) * job_.plan.pipeline;
    double slowest = 0;
    for (size_t begin = 0; begin < gpus_.size(); begin += size) {
      for (size_t i = begin; i < begin + size; ++i)
        if (job_.same_rack && topology_.hosts[gpus_[i].host].rack != topology_.hosts[gpus_[begin].host].rack)
          return INFINITY;
      std::vector<int> key;
      for (size_t i = begin; i < begin + size; ++i) key.push_back(gpus_[i].host);
      const auto [found, is_new] = known_.try_emplace(key, 0);
      if (is_new) {
        Job one = job_;
        one.plan.replicas = 1;
        found->second = evaluate(reach_, one,
                                 {gpus_.begin() + static_cast<ptrdiff_t>(begin),
                                  gpus_.begin() + static_cast<ptrdiff_t>(begin + size)})
                            .step_s;
      }
      slowest = std::max(slowest, found->second);
    }
    return slowest;
  }

  const Topology& topology_;
  const Reach& reach_;
  const Job& job_;
  std::vector<std::vector<int>> free_;
  std::vector<GpuRef> gpus_;
  std::map<std::vector<int>, double> known_;
  double best_s_ = INFINITY;
};

struct Case {
  std::vector<HostSpec> hosts;
  Job job;
};

Case random_case(uint64_t seed) {
  uint64_t counter = 0;
  const auto draw = [&](int count) { return static_cast<int>(random_bits(seed, counter++) % count); };
  const char* leaves[] = {"a1", "a2", "b1", "b2"};
  const int num_hosts = 2 + draw(4), num_leaves = 1 + draw(4);
  const bool has_domains = draw(4) == 0, has_nvlink = draw(5) != 0;
  Case one;
  for (int i = 0; i < num_hosts; ++i) {
    const int leaf = draw(num_leaves);
    HostSpec host{leaves[leaf], {}, 4, "", "", has_nvlink};
    const int chance = 1 + draw(4);
    for (int gpu = 0; gpu < 4; ++gpu)
      if (draw(4) < chance) host.free.push_back(gpu);
    if (has_domains) host.domain = "rack" + std::to_string(leaf);
    host.rack = "r" + std::to_string(draw(2));
    one.hosts.push_back(host);
  }
  const int plans[][3] = {{2, 1, 2}, {4, 1, 2}, {4, 2, 1}, {2, 2, 2}, {8, 1, 1}, {6, 1, 1},
                          {2, 1, 3}, {4, 1, 3}, {1, 3, 1}, {2, 3, 1}, {3, 1, 2}, {1, 2, 2}};
  const auto& plan = plans[draw(12)];
  one.job = job_for(plan[0], plan[1], plan[2]);
  one.job.objective = draw(2) == 0 ? Objective::kDecode : Objective::kPrefill;
  one.job.shape.num_layers = 7;
  one.job.same_rack = draw(5) == 0;
  return one;
}

TEST(PlaceExact, IsAsGoodAsTheBestOfAllPlacements) {
  int num_fitting = 0, num_not = 0, num_better = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const Case one = random_case(seed);
    const Topology topology = cluster(one.hosts);
    const Reach reach(topology);
    const double best_s = BruteForce(topology, reach, one.job).run();
    if (std::isinf(best_s)) {
      EXPECT_THROW(place(reach, one.job), Error) << "seed " << seed;
      ++num_not;
      continue;
    }
    const Result result = place(reach, one.job);
    expect_rules(topology, one.job, result);
    EXPECT_TRUE(result.is_optimal) << "seed " << seed;
    EXPECT_NEAR(result.placement.step_s, best_s, 1e-9 * best_s) << "seed " << seed;
    ++num_fitting;
    num_better += result.naive_s > best_s * 1.001 ? 1 : 0;
  }
  EXPECT_GT(num_fitting, 200);
  EXPECT_GT(num_not, 20);
  EXPECT_GT(num_better, 50) << "cases in which the order of hosts is not the best";
}

TEST(PlaceExact, TheOrderOfHostsDoesNotMatter) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Case one = random_case(seed);
    const Topology topology = cluster(one.hosts);
    std::vector<HostSpec> turned = one.hosts;
    std::rotate(turned.begin(), turned.begin() + 1, turned.end());
    std::reverse(turned.begin() + 1, turned.end());
    const Topology other = cluster(turned);
    const auto cost = [&](const Topology& which) {
      try {
        return place(Reach(which), one.job).placement.step_s;
      } catch (const Error&) {
        return -1.0;
      }
    };
    const double here = cost(topology);
    EXPECT_NEAR(here, cost(other), 1e-9 * std::abs(here)) << "seed " << seed;
  }
}

TEST(PlaceExact, AnUnfinishedTreeClaimsNothing) {
  std::vector<HostSpec> hosts;
  const char* leaves[] = {"a1", "a2", "b1", "b2"};
  for (int i = 0; i < 20; ++i) hosts.push_back({leaves[i % 4], first(1 + i * 7 % 8)});
  const Topology topology = cluster(hosts);
  const Reach reach(topology);
  const Job job = job_for(8, 2, 4);
  const Result result = place(reach, job, {.max_nodes = 10});
  expect_rules(topology, job, result);
  EXPECT_TRUE(result.is_optimal || result.bound_s < result.placement.step_s);
  const Result more = place(reach, job, {.max_nodes = 300'000});
  EXPECT_LE(more.placement.step_s, result.placement.step_s);
}

TEST(PlaceLarge, KeepsTheRulesOnRandomClusters) {
  for (uint64_t seed = 0; seed < 24; ++seed) {
    uint64_t counter = 0;
    const auto draw = [&](int count) { return static_cast<int>(random_bits(1000 + seed, counter++) % count); };
    std::vector<HostSpec> hosts;
    for (int i = 0; i < 80; ++i) {
      HostSpec host{std::string(1, static_cast<char>('a' + i / 20)) + std::to_string(i / 5), {}};
      const bool is_whole = draw(3) != 0;
      for (int gpu = 0; gpu < 8; ++gpu)
        if (is_whole || draw(2) == 0) host.free.push_back(gpu);
      hosts.push_back(host);
    }
    const int plans[][3] = {{8, 1, 30}, {16, 1, 12}, {8, 4, 10}, {4, 2, 30}, {32, 1, 6}, {2, 8, 20}};
    const auto& plan = plans[draw(6)];
    Job job = job_for(plan[0], plan[1], plan[2]);
    job.spread = draw(2) == 0 ? Spread::kSpread : Spread::kPack;
    const Topology topology = cluster(hosts);
    const Reach reach(topology);
    const Result result = place(reach, job);
    expect_rules(topology, job, result);
    EXPECT_LE(result.placement.step_s, result.bound_s * 1.25) << "seed " << seed;
    const Result again = place(reach, job);
    EXPECT_EQ(again.placement.gpus, result.placement.gpus) << "the same question has the same answer";
    if (seed % 8 == 0) {
      const Placement checked = evaluate(reach, job, result.placement.gpus);
      EXPECT_DOUBLE_EQ(checked.step_s, result.placement.step_s);
    }
  }
}

}  // namespace
}  // namespace lane::place
