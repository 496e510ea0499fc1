// Collectives: the simulator against closed formulas and against cost(), which counts the same steps in another way.
//
// Both are exact about a round in which all ports are busy alike and all ranks are in step. They differ by design where
// - a rank starts several messages: cost() adds the charges to the transfer, here the first bytes leave meanwhile;
// - ranks are not alike: cost() lets all wait for the slowest of a round, here a rank goes on when it can. Mostly that
// is
//   earlier; but what it sends ahead takes its fair share of ports that others need more. With rendezvous, nothing is
//   sent ahead of its receiver.
// - messages of a round differ in their ways: max-min fair shares do not always keep the busiest port busy.
#include "lane/plan/simulate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "lane/base/random.h"
#include "lane/plan/cost.h"

namespace lane::plan {
namespace {

constexpr Collective kCollectives[] = {Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather,
                                       Collective::kBroadcast, Collective::kGather,        Collective::kAllToAll};
constexpr Link kLocal{.latency_s = 1e-6, .bytes_per_s = 100e9}, kRemote{.latency_s = 4e-6, .bytes_per_s = 40e9};
constexpr double kSizes[] = {0, 8, 1e5, 1.6e7};

Simulation run(const std::string& name, Collective collective, const Fabric& fabric, double bytes,
               bool rendezvous = false, bool folded = true) {
  const Schedule schedule = make_schedule(name, collective, fabric.layout);
  const Network network(fabric);
  Workload workload = workload_of(exchange_of(schedule, collective, fabric.layout, bytes), network);
  if (rendezvous) workload.exchanges[0].eager_bytes = 0;
  return simulate(workload, {.fold = folded});
}

double priced(const std::string& name, Collective collective, const Fabric& fabric, double bytes) {
  const Schedule schedule = make_schedule(name, collective, fabric.layout);
  return cost(schedule, collective, fabric).at(static_cast<int64_t>(bytes));
}

// A round ends up to two picoseconds late: a rate and a latency are rounded.
double rounding(const std::string& name, Collective collective, const Fabric& fabric) {
  return 2e-12 * (1 + make_schedule(name, collective, fabric.layout).num_rounds());
}

bool is_power_of_two(int n) { return std::has_single_bit(static_cast<unsigned>(n)); }

// Those whose rounds keep all ranks busy alike, for this number of ranks.
bool keeps_step(const std::string& name, int n) {
  if (name.starts_with("double_tree:")) return false;  // pieces enter and leave the trees at different times
  const bool always =
      name.find("shot") != std::string::npos || name.starts_with("direct") || name == "ring" || name == "bruck";
  return always || is_power_of_two(n);
}

TEST(SimulateCollective, EqualsCostOnOneNodeWhereRanksKeepStep) {
  int count = 0;
  for (int n = 2; n <= 24; ++n)
    for (const Collective collective : kCollectives)
      for (const std::string& name : schedule_names(collective, Layout::one_node(n))) {
        if (!keeps_step(name, n)) continue;
        const Fabric fabric = Fabric::one_node(n, kLocal);
        for (const double bytes : kSizes) {
          EXPECT_NEAR(run(name, collective, fabric, bytes).makespan_s, priced(name, collective, fabric, bytes),
                      rounding(name, collective, fabric))
              << name_of(collective) << " " << name << " " << n << " " << bytes;
          ++count;
        }
      }
  EXPECT_GT(count, 1000);
}

TEST(SimulateCollective, EqualsCostOnNodesWhereRanksKeepStep) {
  int count = 0;
  for (const int nodes : {2, 4, 8})
    for (const int g : {1, 2, 4})
      for (const Collective collective : kCollectives) {
        const Fabric fabric{Layout::uniform(nodes, g), kLocal, kRemote};
        for (const std::string& name : schedule_names(collective, fabric.layout)) {
          if (!name.starts_with("hier:") || name.find("double_tree:") != std::string::npos) continue;
          for (const double bytes : kSizes) {
            EXPECT_NEAR(run(name, collective, fabric, bytes).makespan_s, priced(name, collective, fabric, bytes),
                        rounding(name, collective, fabric))
                << name_of(collective) << " " << name << " " << nodes << " x " << g << " " << bytes;
            ++count;
          }
        }
      }
  EXPECT_GT(count, 500);
}

TEST(SimulateCollective, IsNoSlowerThanCostIfNothingIsSentAheadOfItsReceiver) {
  int num_less = 0;
  for (int n = 2; n <= 24; ++n)
    for (const Collective collective : kCollectives)
      for (const std::string& name : schedule_names(collective, Layout::one_node(n))) {
        if (name == "double_tree:16") continue;  // unlike messages in one round
        for (const double message_s : {0.0, 2e-7}) {
          Fabric fabric = Fabric::one_node(n, kLocal);
          fabric.local.message_s = message_s;
          const double wanted = priced(name, collective, fabric, 1.6e7);
          const double got = run(name, collective, fabric, 1.6e7, true).makespan_s;
          EXPECT_LE(got, wanted + rounding(name, collective, fabric)) << name_of(collective) << " " << name << " " << n;
          if (got < 0.99 * wanted) ++num_less;
        }
      }
  EXPECT_GT(num_less, 10) << "ranks do run ahead";
}

// Recursive doubling of three: rank 2 gives its vector to rank 0, then 0 and 1 exchange, then 2 gets the sum. Rank 1
// may send from the start, halves the rate at which 0 gets what it waits for, and gains nothing by it.
TEST(SimulateCollective, WhoRunsAheadCanBeInTheWay) {
  const Fabric fabric = Fabric::one_node(3, kLocal);
  const double s = 1.6e7 / kLocal.bytes_per_s, a = kLocal.latency_s;
  EXPECT_NEAR(priced("recursive_doubling", Collective::kAllReduce, fabric, 1.6e7), 3 * (a + s), 1e-11);
  EXPECT_NEAR(run("recursive_doubling", Collective::kAllReduce, fabric, 1.6e7, true).makespan_s, 3 * (a + s), 1e-11);
  const Simulation eager = run("recursive_doubling", Collective::kAllReduce, fabric, 1.6e7);
  // 0 has both vectors after 2 s + a; then it sends to 1, which has had nothing of round 2 until then, and to 2.
  EXPECT_NEAR(eager.makespan_s, 4 * s + 2 * a, 1e-11);
}

// The formulas of Thakur, Rabenseifner and Gropp, of LogGP, and NVRAR's.
TEST(SimulateCollective, AgreesWithClosedFormulas) {
  const double a = kLocal.latency_s;
  const auto all_reduce = [](const std::string& name, const Fabric& fabric, double bytes) {
    return run(name, Collective::kAllReduce, fabric, bytes).makespan_s;
  };
  for (const int n : {2, 4, 8, 16, 32}) {
    const Fabric fabric = Fabric::one_node(n, kLocal);
    const int lg = std::bit_width(static_cast<unsigned>(n)) - 1;
    for (const double bytes : kSizes) {
      const double s = bytes / kLocal.bytes_per_s, tolerance = 1e-12 * 4 * n;
      EXPECT_NEAR(all_reduce("recursive_doubling", fabric, bytes), lg * (a + s), tolerance);
      EXPECT_NEAR(all_reduce("halving_doubling", fabric, bytes), 2 * lg * a + 2 * (n - 1.0) / n * s, tolerance);
      EXPECT_NEAR(all_reduce("ring", fabric, bytes), 2 * (n - 1) * (a + s / n), tolerance);
      EXPECT_NEAR(all_reduce("one_shot", fabric, bytes), a + (n - 1) * s, tolerance);
      EXPECT_NEAR(all_reduce("two_shot", fabric, bytes), 2 * a + 2 * (n - 1.0) / n * s, tolerance);
    }
    // LogGP: k messages of a byte or less from one rank end at L + (k - 1) g.
    Fabric charged = fabric;
    charged.local.message_s = 3e-7;
    EXPECT_NEAR(run("direct", Collective::kBroadcast, charged, 0).makespan_s, a + (n - 2) * 3e-7, 1e-12 * n);
  }
  for (const int nodes : {2, 4, 8, 16})
    for (const int g : {1, 2, 4, 8}) {
      const Fabric fabric{Layout::uniform(nodes, g), kLocal, kRemote};
      const double s = 1e6 / kLocal.bytes_per_s, t = 1e6 / kRemote.bytes_per_s;
      const int lg = std::bit_width(static_cast<unsigned>(nodes)) - 1;
      EXPECT_NEAR(all_reduce("hier:two_shot/recursive_doubling", fabric, 1e6),
                  (g == 1 ? 0 : 2 * (a + (g - 1.0) / g * s)) + lg * (kRemote.latency_s + t), 1e-11);
    }
}

// A rank that starts a message while the one before is on its way: charges and bytes overlap, unlike in cost().
TEST(SimulateCollective, ChargesOverlapWithBytes) {
  Fabric fabric = Fabric::one_node(5, kLocal);
  fabric.local.message_s = 1e-6;
  const auto broadcast = [&](double bytes) { return run("direct", Collective::kBroadcast, fabric, bytes).makespan_s; };
  EXPECT_NEAR(broadcast(1e4), 1e-6 + 3e-6 + 1e-7, 1e-11) << "each has left when the next starts";
  EXPECT_NEAR(broadcast(1e6), 1e-6 + 4e-5, 1e-11) << "the port is never idle";
  EXPECT_NEAR(priced("direct", Collective::kBroadcast, fabric, 1e6), 1e-6 + 3e-6 + 4e-5, 1e-11);
}

void expect_same(const Simulation& a, const Simulation& b, const std::string& what) {
  EXPECT_EQ(a.makespan_s, b.makespan_s) << what;
  for (size_t rank = 0; rank < a.ranks.size(); ++rank) {
    EXPECT_EQ(a.ranks[rank].compute_s, b.ranks[rank].compute_s) << what;
    EXPECT_EQ(a.ranks[rank].communication_s, b.ranks[rank].communication_s) << what << " " << rank;
    EXPECT_EQ(a.ranks[rank].idle_s, b.ranks[rank].idle_s) << what << " " << rank;
  }
  for (size_t link = 0; link < a.link_bytes.size(); ++link)
    EXPECT_NEAR(a.link_bytes[link], b.link_bytes[link], 1e-9 * a.link_bytes[link]) << what;
}

// To the picosecond, for all schedules on even and uneven layouts.
TEST(Fold, ChangesNothing) {
  std::vector<Fabric> fabrics;
  for (const int n : {2, 3, 6, 8}) fabrics.push_back(Fabric::one_node(n, {1e-6, 100e9, 2e-7}));
  fabrics.push_back({Layout::uniform(3, 3), kLocal, kRemote});
  fabrics.push_back({Layout::uniform(4, 2), kLocal, kRemote, {0, 0, 1, 1}, {1e-6, 50e9}});
  fabrics.push_back({Layout::uniform(4, 4), {1e-6, 100e9, 1e-7}, {3e-6, 70e9, 3e-7}});
  fabrics.push_back({Layout::of_sizes({4, 1, 3}), kLocal, kRemote, {0, 1, 1}, {1e-6, 30e9}});
  for (const Fabric& fabric : fabrics)
    for (const Collective collective : kCollectives)
      for (const std::string& name : schedule_names(collective, fabric.layout))
        for (const double bytes : {0.0, 12345.0, 1e7})
          expect_same(run(name, collective, fabric, bytes, false, true),
                      run(name, collective, fabric, bytes, false, false), name);
}

TEST(Fold, LeavesOneRankOfAThousandThatKeepStep) {
  const Fabric fabric{Layout::uniform(128, 8), kLocal, kRemote};
  const Schedule schedule = make_schedule("hier:two_shot/recursive_doubling", Collective::kAllReduce, fabric.layout);
  const Folded folded =
      fold(workload_of(exchange_of(schedule, Collective::kAllReduce, fabric.layout, 1e6), Network(fabric)));
  EXPECT_EQ(folded.workload.num_ranks(), 1);
  EXPECT_LE(folded.workload.capacities.size(), 4u) << "ports of ranks and of nodes, out and in";
}

// Ranks meet at random, compute for random times, share random links: whatever the labels of ranks and links, the same
// happens, and folding does not change it.
Workload random_workload(uint64_t key, int num_ranks, int num_links) {
  uint64_t draw = 0;
  const auto below = [&](uint64_t limit) { return static_cast<int>(random_bits(key, draw++) % limit); };
  Workload workload{.labels = {"work", "talk"}};
  for (int link = 0; link < num_links; ++link) workload.capacities.push_back(1e9 * (1 + below(3)));
  for (int e = 0; e < 3; ++e) {
    Exchange exchange{.name = "talk"};
    for (int i = 0; i < 2 * num_ranks; ++i) {
      const int from = below(num_ranks), to = (from + 1 + below(num_ranks - 1)) % num_ranks;
      Parcel parcel{.round = below(3), .from = from, .to = {to}, .bytes = 1e3 * below(4), .latency_s = 1e-7 * below(3)};
      parcel.hops = {{below(num_links)}};
      exchange.parcels.push_back(parcel);
    }
    workload.exchanges.push_back(exchange);
  }
  workload.programs = {{}, {}};
  for (auto& program : workload.programs)
    for (const int e : {0, 1, 2, 1, 0}) {
      program.push_back({0, -1, 1e-6 * below(5)});
      program.push_back({1, e, 0});
    }
  for (int rank = 0; rank < num_ranks; ++rank) {
    workload.program_of.push_back(below(2));
    workload.slowness.push_back(1 + below(2));
  }
  return workload;
}

TEST(Simulate, IsTheSameUnderOtherNumbers) {
  for (uint64_t key = 0; key < 200; ++key) {
    const int num_ranks = 2 + static_cast<int>(key % 9), num_links = 1 + static_cast<int>(key % 5);
    const Workload workload = random_workload(key, num_ranks, num_links);
    std::vector<int> rank_to(num_ranks), link_to(num_links);
    std::iota(rank_to.begin(), rank_to.end(), 0);
    std::iota(link_to.begin(), link_to.end(), 0);
    for (auto* list : {&rank_to, &link_to})
      for (size_t i = list->size() - 1; i > 0; --i)
        std::swap((*list)[i], (*list)[random_bits(key, 5000 + i) % (i + 1)]);
    Workload other = workload;
    for (int rank = 0; rank < num_ranks; ++rank) {
      other.program_of[rank_to[rank]] = workload.program_of[rank];
      other.slowness[rank_to[rank]] = workload.slowness[rank];
    }
    for (int link = 0; link < num_links; ++link) other.capacities[link_to[link]] = workload.capacities[link];
    for (Exchange& exchange : other.exchanges) {
      for (Parcel& parcel : exchange.parcels) {
        parcel.from = rank_to[parcel.from];
        for (int& to : parcel.to) to = rank_to[to];
        for (Hop& hop : parcel.hops) hop.link = link_to[hop.link];
      }
      std::reverse(exchange.parcels.begin(), exchange.parcels.end());
    }
    const Simulation plain = simulate(workload, {.fold = false}), relabelled = simulate(other, {.fold = false});
    expect_same(simulate(workload), plain, std::to_string(key));
    EXPECT_EQ(plain.makespan_s, relabelled.makespan_s) << key;
    for (int rank = 0; rank < num_ranks; ++rank)
      EXPECT_EQ(plain.ranks[rank].idle_s, relabelled.ranks[rank_to[rank]].idle_s) << key;
    double path = 0;
    for (const PathPart& part : plain.critical_path) path += part.total_s();
    EXPECT_NEAR(path, plain.makespan_s, 1e-12) << key;
    for (const RankTime& rank : plain.ranks)
      EXPECT_NEAR(rank.compute_s + rank.communication_s + rank.idle_s, plain.makespan_s, 1e-12) << key;
  }
}

TEST(Simulate, APlanThatWaitsForNobodyIsABug) {
  Workload workload{.labels = {"talk"}};
  workload.exchanges = {{.name = "talk", .parcels = {{.from = 0, .to = {1}, .bytes = 1}}}};
  workload.programs = {{}, {{.label = 0, .exchange = 0}}};
  workload.program_of = {0, 1};
  workload.slowness = {1, 1};
  EXPECT_ANY_THROW(simulate(workload));
}

}  // namespace
}  // namespace lane::plan
