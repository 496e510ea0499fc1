// Rates of flows against a solver that shares none of the simulator's code, and the links that messages go over.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "lane/base/error.h"
#include "lane/base/random.h"
#include "lane/plan/fair_share.h"
#include "lane/plan/messages.h"
#include "lane/plan/network.h"
#include "lane/plan/simulate.h"
#include "lane/plan/verify.h"

namespace lane::plan {
namespace {

using topology::GpuRef;
using topology::Host;

struct Problem {
  std::vector<double> capacities;
  std::vector<std::vector<Hop>> flows;
};

Problem random_problem(uint64_t key) {
  uint64_t draw = 0;
  const auto below = [&](uint64_t limit) { return random_bits(key, draw++) % limit; };
  Problem problem;
  for (uint64_t i = 0, n = 1 + below(9); i < n; ++i) problem.capacities.push_back(1 + static_cast<double>(below(5)));
  for (uint64_t i = 0, n = 1 + below(14); i < n; ++i) {
    std::vector<Hop> hops;
    for (size_t link = 0; link < problem.capacities.size(); ++link)
      if (below(3) == 0) hops.push_back({static_cast<int>(link)});
    if (hops.empty()) hops.push_back({static_cast<int>(below(problem.capacities.size()))});
    problem.flows.push_back(std::move(hops));
  }
  return problem;
}

// The definition, from below: raise all rates that can still rise by the largest step that no link forbids.
std::vector<double> by_water_filling(const Problem& problem) {
  std::vector<double> rates(problem.flows.size(), 0), used(problem.capacities.size(), 0);
  std::vector<bool> is_fixed(rates.size(), false);
  while (std::find(is_fixed.begin(), is_fixed.end(), false) != is_fixed.end()) {
    std::vector<int> rising(used.size(), 0);
    for (size_t i = 0; i < rates.size(); ++i)
      for (const Hop& hop : problem.flows[i]) rising[hop.link] += is_fixed[i] ? 0 : 1;
    double step = 1e300;
    for (size_t link = 0; link < used.size(); ++link)
      if (rising[link] > 0) step = std::min(step, (problem.capacities[link] - used[link]) / rising[link]);
    for (size_t link = 0; link < used.size(); ++link) used[link] += step * rising[link];
    for (size_t i = 0; i < rates.size(); ++i) {
      if (is_fixed[i]) continue;
      rates[i] += step;
      for (const Hop& hop : problem.flows[i])
        if (used[hop.link] > problem.capacities[hop.link] - 1e-9) is_fixed[i] = true;
    }
  }
  return rates;
}

// Bertsekas and Gallager's criterion: feasible, and each flow has a full link on which no flow is faster.
void expect_max_min(const Problem& problem, const std::vector<double>& rates, uint64_t key) {
  std::vector<double> used(problem.capacities.size(), 0), fastest(used.size(), 0);
  for (size_t i = 0; i < rates.size(); ++i)
    for (const Hop& hop : problem.flows[i]) {
      used[hop.link] += rates[i];
      fastest[hop.link] = std::max(fastest[hop.link], rates[i]);
    }
  for (size_t link = 0; link < used.size(); ++link) EXPECT_LE(used[link], problem.capacities[link] + 1e-9) << key;
  for (size_t i = 0; i < rates.size(); ++i)
    EXPECT_TRUE(std::any_of(problem.flows[i].begin(), problem.flows[i].end(), [&](const Hop& hop) {
      return used[hop.link] > problem.capacities[hop.link] - 1e-9 && rates[i] > fastest[hop.link] - 1e-9;
    })) << key;
}

TEST(FairShare, IsMaxMinFairOnRandomNetworks) {
  for (uint64_t key = 0; key < 2000; ++key) {
    const Problem problem = random_problem(key);
    FairShare share(problem.capacities);
    std::vector<double> rates;
    for (const auto& flow : problem.flows) share.add(flow);
    share.solve();
    for (size_t i = 0; i < problem.flows.size(); ++i) rates.push_back(share.rate(static_cast<int>(i)));
    const std::vector<double> wanted = by_water_filling(problem);
    for (size_t i = 0; i < rates.size(); ++i) ASSERT_NEAR(rates[i], wanted[i], 1e-9) << key;
    expect_max_min(problem, rates, key);
  }
}

// Flows come and go in any order; each time the rates are, bit for bit, those of a fresh start, and solve() names those
// that changed.
TEST(FairShare, DependsOnWhatIsThereAlone) {
  for (uint64_t key = 0; key < 300; ++key) {
    const Problem problem = random_problem(key);
    FairShare share(problem.capacities);
    std::vector<int> ids(problem.flows.size(), -1);
    std::vector<double> known(problem.flows.size(), 0);
    for (uint64_t turn = 0; turn < 40; ++turn) {
      const size_t i = random_bits(key + 1'000'000, turn) % ids.size();
      if (ids[i] < 0) {
        ids[i] = share.add(problem.flows[i]);
        known[i] = 0;
      } else {
        share.remove(ids[i]);
        ids[i] = -1;
      }
      if (turn % 3 == 1) continue;  // several changes at once, too
      const std::vector<int> changed = share.solve();
      FairShare fresh(problem.capacities);
      std::vector<int> fresh_ids(ids.size(), -1);
      for (size_t k = 0; k < ids.size(); ++k)
        if (ids[k] >= 0) fresh_ids[k] = fresh.add(problem.flows[k]);
      fresh.solve();
      for (size_t k = 0; k < ids.size(); ++k) {
        if (ids[k] < 0) continue;
        ASSERT_EQ(share.rate(ids[k]), fresh.rate(fresh_ids[k])) << key << " " << turn;
        const bool is_named = std::find(changed.begin(), changed.end(), ids[k]) != changed.end();
        ASSERT_EQ(is_named, share.rate(ids[k]) != known[k]) << key << " " << turn;
        known[k] = share.rate(ids[k]);
      }
    }
  }
}

TEST(FairShare, AFlowThatNothingLimitsTakesNoTime) {
  FairShare share({std::numeric_limits<double>::infinity(), 10});
  const int free = share.add(std::vector<Hop>{{0}}), bound = share.add(std::vector<Hop>{{0}, {1}});
  EXPECT_EQ(share.solve().size(), 2u);
  EXPECT_TRUE(std::isinf(share.rate(free)));
  EXPECT_EQ(share.rate(bound), 10);
}

// Messages as they come, all at the start, each on the links that are given.
Workload messages_on(const std::vector<double>& capacities,
                     const std::vector<std::pair<double, std::vector<int>>>& list) {
  Workload workload{.capacities = capacities, .labels = {"message"}};
  Exchange exchange{.name = "message"};
  int rank = 0;
  for (const auto& [bytes, links] : list) {
    Parcel parcel{.from = rank, .to = {rank + 1}, .bytes = bytes};
    rank += 2;
    for (const int link : links) parcel.hops.push_back({link});
    exchange.parcels.push_back(parcel);
  }
  workload.exchanges = {exchange};
  workload.programs = {{{.label = 0, .exchange = 0}}};
  workload.program_of.assign(rank, 0);
  workload.slowness.assign(rank, 1);
  return workload;
}

TEST(Simulate, FlowsOnALinkShareIt) {
  EXPECT_NEAR(simulate(messages_on({1e9}, {{1e6, {0}}})).makespan_s, 1e-3, 1e-12);
  const Simulation two = simulate(messages_on({1e9}, {{1e6, {0}}, {1e6, {0}}}));
  EXPECT_NEAR(two.makespan_s, 2e-3, 1e-12);
  EXPECT_NEAR(two.critical_path.at(0).sharing_s, 1e-3, 1e-12);
  // Of 1 and 3 MB the small one leaves after 2 ms, the other has the link for itself then.
  const Simulation uneven = simulate(messages_on({1e9}, {{1e6, {0}}, {3e6, {0}}}));
  EXPECT_NEAR(uneven.makespan_s, 4e-3, 1e-12);
  EXPECT_NEAR(uneven.ranks[0].communication_s, 2e-3, 1e-12);
  // A flow over two links, one of them shared: 1/3 of the first, and who is alone on the second gets the rest of it.
  const Simulation mixed = simulate(messages_on({1.5e9, 1e9}, {{1e6, {0}}, {1e6, {0, 1}}, {1e6, {0}}, {5e5, {1}}}));
  EXPECT_NEAR(mixed.ranks[0].communication_s, 2e-3, 1e-12);
  EXPECT_NEAR(mixed.ranks[6].communication_s, 1e-3, 1e-12);
}

// What `simulate` does, in small steps of time: an integral instead of events.
double by_small_steps(const Problem& problem, std::vector<double> bytes, double dt) {
  double time = 0;
  while (true) {
    Problem rest{problem.capacities, {}};
    std::vector<size_t> index;
    for (size_t i = 0; i < bytes.size(); ++i)
      if (bytes[i] > 0) rest.flows.push_back(problem.flows[i]), index.push_back(i);
    if (index.empty()) return time;
    const std::vector<double> rates = by_water_filling(rest);
    for (size_t i = 0; i < rates.size(); ++i) bytes[index[i]] -= rates[i] * dt;
    time += dt;
  }
}

TEST(Simulate, AgreesWithAnIntegralInSmallSteps) {
  for (uint64_t key = 0; key < 60; ++key) {
    const Problem problem = random_problem(key);
    std::vector<std::pair<double, std::vector<int>>> list;
    std::vector<double> bytes;
    for (size_t i = 0; i < problem.flows.size(); ++i) {
      bytes.push_back(1 + static_cast<double>(random_bits(key, 1000 + i) % 9));
      std::vector<int> links;
      for (const Hop& hop : problem.flows[i]) links.push_back(hop.link);
      list.emplace_back(bytes.back(), links);
    }
    const double dt = 0.01, wanted = by_small_steps(problem, bytes, dt);
    // The integral lets each flow go on for up to one step after its end.
    EXPECT_NEAR(simulate(messages_on(problem.capacities, list)).makespan_s, wanted,
                dt * static_cast<double>(1 + bytes.size()))
        << key;
  }
}

constexpr Link kLocal{.latency_s = 1e-6, .bytes_per_s = 100e9}, kRemote{.latency_s = 4e-6, .bytes_per_s = 40e9};

// All bytes of a schedule's messages, and no others, go through its ports: counted here from the steps.
TEST(Simulate, ConservesBytes) {
  const Fabric fabric{.layout = Layout::of_sizes({3, 1, 4}),
                      .local = kLocal,
                      .remote = kRemote,
                      .rack_of_node = {0, 1, 1},
                      .uplink = {.latency_s = 1e-6, .bytes_per_s = 20e9}};
  const Network network(fabric);
  for (const Collective collective : {Collective::kAllReduce, Collective::kAllGather, Collective::kAllToAll})
    for (const std::string& name : schedule_names(collective, fabric.layout)) {
      const Schedule schedule = make_schedule(name, collective, fabric.layout);
      const Workload workload = workload_of(exchange_of(schedule, collective, fabric.layout, 8e6, 2), network);
      const MessageShares share_of(schedule, collective, fabric.layout, 2);
      std::map<std::string, double> wanted;
      const auto node = [&](int rank) { return fabric.layout.node_of[rank]; };
      const auto name_of_link = [](const char* what, int index, const char* way) {
        return what + std::to_string(index) + " " + way;
      };
      for (const auto& round : messages_by_round(schedule))
        for (const Message& message : round) {
          const double bytes = share_of(message) * 8e6;
          const bool is_multicast = message.to < 0;
          if (is_multicast || node(message.from) == node(message.to)) {
            wanted[name_of_link("rank", message.from, "out")] += bytes;
            for (int rank = 0; rank < schedule.num_ranks(); ++rank)
              if (rank != message.from && node(rank) == node(message.from) && (is_multicast || rank == message.to))
                wanted[name_of_link("rank", rank, "in")] += bytes;
            continue;
          }
          wanted[name_of_link("node", node(message.from), "out")] += bytes;
          wanted[name_of_link("node", node(message.to), "in")] += bytes;
          const int rack = fabric.rack_of_node[node(message.from)], other = fabric.rack_of_node[node(message.to)];
          if (rack == other) continue;
          wanted[name_of_link("rack", rack, "up")] += bytes;
          wanted[name_of_link("rack", other, "down")] += bytes;
        }
      for (const bool folded : {false, true}) {
        const Simulation result = simulate(workload, {.fold = folded});
        for (size_t link = 0; link < network.links().size(); ++link)
          EXPECT_NEAR(result.link_bytes[link], wanted[network.links()[link].name], 1e-3)
              << name << " " << network.links()[link].name;
      }
    }
}

TEST(Simulate, ManyToOneWaitsForThatOnesPort) {
  for (const int n : {2, 3, 8, 33}) {
    const Fabric fabric = Fabric::one_node(n, kLocal);
    const Schedule gather = make_schedule("direct", Collective::kGather, fabric.layout);
    const Simulation result =
        simulate(workload_of(exchange_of(gather, Collective::kGather, fabric.layout, 1e6 * n), Network(fabric)));
    EXPECT_NEAR(result.makespan_s, kLocal.latency_s + (n - 1) * 1e6 / kLocal.bytes_per_s, 2e-12);
    EXPECT_NEAR(result.critical_path.at(0).sharing_s, (n - 2) * 1e6 / kLocal.bytes_per_s, 4e-12);
  }
}

// `leaves.size()` hosts of four GPUs on NVLink, each with a NIC of 50 GB/s (47 for data).
topology::Topology cluster(const std::vector<std::string>& leaves, double uplink_gbit_per_s = 0) {
  topology::Topology topology;
  std::set<std::string> known;
  for (size_t i = 0; i < leaves.size(); ++i) {
    Host host{.name = "n" + std::to_string(i), .leaf_switch = leaves[i]};
    for (int g = 0; g < 4; ++g) {
      host.gpus.push_back({.index = g, .sm = 90, .num_nvlinks = 18, .nvlink_gb_per_s = 25});
      host.nics.push_back({.name = "mlx5_" + std::to_string(g),
                           .kind = topology::NicKind::kInfiniband,
                           .role = topology::NicRole::kCompute,
                           .ports = {{.gbit_per_s = 400}}});
    }
    topology.hosts.push_back(host);
    if (!leaves[i].empty() && known.insert(leaves[i]).second)
      topology.switches.push_back({leaves[i], 1, {"spine"}, uplink_gbit_per_s});
  }
  if (!known.empty()) topology.switches.push_back({"spine", 2});
  return topology;
}

std::vector<GpuRef> all_gpus(const topology::Topology& topology) {
  std::vector<GpuRef> gpus;
  for (int host = 0; host < static_cast<int>(topology.hosts.size()); ++host)
    for (int gpu = 0; gpu < static_cast<int>(topology.hosts[host].gpus.size()); ++gpu) gpus.push_back({host, gpu});
  return gpus;
}

std::vector<std::string> names_of(const Network& network, const Route& route) {
  std::vector<std::string> names;
  for (const int link : route.links) names.push_back(network.links()[link].name);
  return names;
}

size_t index_of(const Network& network, const std::string& name) {
  const auto& links = network.links();
  const auto found =
      std::find_if(links.begin(), links.end(), [&](const NetworkLink& link) { return link.name == name; });
  EXPECT_NE(found, links.end()) << name;
  return found - links.begin();
}

using Names = std::vector<std::string>;

TEST(Network, SendsThroughTheRanksOwnNicAndAsFarUpAsNeeded) {
  const topology::Topology topology = cluster({"a", "a", "b"}, 3200);
  const Reach reach(topology);
  const Network network(reach, all_gpus(topology));
  EXPECT_EQ(names_of(network, network.route(0, 3)), (Names{"n0/gpu0 nvlink out", "n0/gpu3 nvlink in"}));
  EXPECT_EQ(names_of(network, network.route(1, 6)), (Names{"n0/mlx5_1 out", "n1/mlx5_2 in"}));
  EXPECT_EQ(names_of(network, network.route(1, 9)), (Names{"n0/mlx5_1 out", "a up", "b down", "n2/mlx5_1 in"}));
  EXPECT_DOUBLE_EQ(network.route(1, 6).latency_s, 4e-6);
  EXPECT_DOUBLE_EQ(network.route(1, 9).latency_s, 4e-6 + 2 * 0.3e-6);
  EXPECT_FALSE(network.links()[index_of(network, "a up")].can_limit) << "eight NICs of 47 GB/s cannot fill 400";
  EXPECT_DOUBLE_EQ(network.links()[index_of(network, "n0/mlx5_2 in")].bytes_per_s, 47e9);
}

TEST(Network, NearestNicsAreDealtOut) {
  topology::Topology topology = cluster({"", ""});
  for (Host& host : topology.hosts) {  // GPU i next to NIC 3 - i
    host.gpu_to_nic.assign(4, std::vector<topology::Path>(4, topology::Path::kSys));
    for (int g = 0; g < 4; ++g) host.gpu_to_nic[g][3 - g] = topology::Path::kPix;
  }
  const Reach reach(topology);
  const Network own(reach, all_gpus(topology));
  EXPECT_EQ(names_of(own, own.route(0, 5)), (Names{"n0/mlx5_3 out", "n1/mlx5_2 in"}));
  for (Host& host : topology.hosts) {  // two NICs for four GPUs
    host.nics.resize(2);
    host.gpu_to_nic.clear();
  }
  const Network shared(reach, all_gpus(topology));
  EXPECT_EQ(names_of(shared, shared.route(0, 7)), (Names{"n0/mlx5_0 out", "n1/mlx5_1 in"}));
  EXPECT_EQ(names_of(shared, shared.route(1, 6)), (Names{"n0/mlx5_0 out", "n1/mlx5_1 in"}));
  for (Host& host : topology.hosts) host.gpus.resize(1);  // and two for one
  const Network both(reach, all_gpus(topology));
  EXPECT_EQ(names_of(both, both.route(0, 1)), (Names{"n0/mlx5_0+mlx5_1 out", "n1/mlx5_0+mlx5_1 in"}));
  EXPECT_DOUBLE_EQ(both.links()[both.route(0, 1).links[0]].bytes_per_s, 94e9);
}

TEST(Network, AnIslandHasNoNetworkInside) {
  topology::Topology topology = cluster({"a", "b"});
  for (Host& host : topology.hosts)
    for (topology::Gpu& gpu : host.gpus) gpu.nvlink_domain = "rack";
  const Reach reach(topology);
  const Network network(reach, all_gpus(topology));
  EXPECT_EQ(names_of(network, network.route(0, 7)), (Names{"n0/gpu0 nvlink out", "n1/gpu3 nvlink in"}));
  EXPECT_TRUE(network.route(0, 7).is_local);
}

TEST(Network, WithoutNvlinkOnePcieportServesAll) {
  topology::Topology topology = cluster({"", ""});
  for (Host& host : topology.hosts)
    for (topology::Gpu& gpu : host.gpus) gpu.num_nvlinks = 0, gpu.pcie = {.max_gt_per_s = 16, .max_width = 16};
  const Reach reach(topology);
  const Network network(reach, all_gpus(topology));
  EXPECT_EQ(names_of(network, network.route(0, 1)), (Names{"n0/gpu0 pcie out", "n0/gpu1 pcie in"}));
  EXPECT_EQ(names_of(network, network.route(0, 4)),
            (Names{"n0/gpu0 pcie out", "n0/mlx5_0 out", "n1/gpu0 pcie in", "n1/mlx5_0 in"}));
}

// Rails without a spine: GPU 0 reaches GPU 1 of another host over the neighbour on its rail.
TEST(Network, CrossesRailsInsideTheHost) {
  topology::Topology topology = cluster({"", ""});
  for (int rail = 0; rail < 4; ++rail) {
    topology.switches.push_back({"rail" + std::to_string(rail), 1});
    for (Host& host : topology.hosts) host.nics[rail].leaf_switch = "rail" + std::to_string(rail);
  }
  const Reach reach(topology);
  const Network network(reach, all_gpus(topology));
  EXPECT_EQ(names_of(network, network.route(0, 4)), (Names{"n0/mlx5_0 out", "n1/mlx5_0 in"}));
  EXPECT_EQ(names_of(network, network.route(0, 5)),
            (Names{"n0/gpu0 nvlink out", "n0/gpu1 nvlink in", "n0/mlx5_1 out", "n1/mlx5_1 in"}));
}

TEST(Network, DegradesByName) {
  const topology::Topology topology = cluster({"a", "b"});
  const Reach reach(topology);
  Network network(reach, all_gpus(topology));
  EXPECT_EQ(network.degrade("n0/mlx5_1", 0.5), 2);
  EXPECT_DOUBLE_EQ(network.links()[network.route(1, 5).links[0]].bytes_per_s, 23.5e9);
  EXPECT_EQ(network.degrade("n1", 0.1), 16) << "four GPUs and four NICs, both ways";
  for (const double factor : {0.0, -1.0, std::nan("")}) EXPECT_THROW(network.degrade("n0", factor), Error);
  EXPECT_THROW(network.degrade("n", 0.5), Error);
  EXPECT_THROW(network.degrade("", 0.5), Error);
}

// Two leaves with four hosts each send to each other all at once: the uplinks decide, 4:1 makes it four times as long.
TEST(Network, OversubscribedUplinksHoldUpAllThatCross) {
  for (const double oversubscription : {1.0, 2.0, 4.0}) {
    const topology::Topology topology =
        cluster({"a", "a", "a", "a", "b", "b", "b", "b"}, 4 * 4 * 400 * 0.94 / oversubscription);
    const Reach reach(topology);
    const Network network(reach, all_gpus(topology));
    Exchange pattern{.name = "swap"};
    for (int rank = 0; rank < 32; ++rank)
      pattern.parcels.push_back({.from = rank, .to = {(rank + 16) % 32}, .bytes = 47e6});
    const Simulation result = simulate(workload_of(pattern, network));
    EXPECT_NEAR(result.makespan_s, 4.6e-6 + oversubscription * 1e-3, 2e-12);
    EXPECT_NEAR(result.critical_path.at(0).sharing_s, (oversubscription - 1) * 1e-3, 4e-12);
    EXPECT_DOUBLE_EQ(result.link_bytes[index_of(network, "a up")], 16 * 47e6);
  }
}

}  // namespace
}  // namespace lane::plan
