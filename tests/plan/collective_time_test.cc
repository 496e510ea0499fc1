#include "lane/plan/collective_time.h"

#include <gtest/gtest.h>

#include <numeric>

#include "lane/base/error.h"
#include "lane/plan/measured_times.h"
#include "lane/topology/presets.h"

namespace lane::plan {
namespace {

using topology::GpuRef;
using topology::Topology;

std::vector<GpuRef> gpus(int num_hosts, int per_host, int stride = 1) {
  std::vector<GpuRef> ranks;
  for (int host = 0; host < num_hosts; ++host)
    for (int gpu = 0; gpu < per_host; ++gpu) ranks.push_back({host * stride, gpu});
  return ranks;
}

double sum(const ByTier& by_tier) { return std::accumulate(by_tier.begin(), by_tier.end(), 0.0); }

// The steps of the schedules, counted one by one, are the judge of the closed formulas.
TEST(AlphaBeta, AgreesWithTheStepsOfTheSchedules) {
  for (const int hosts : {1, 2, 3, 4, 6, 8}) {
    const Topology cluster = topology::preset("h100-dgx-ndr", hosts);
    const Reach reach(cluster);
    for (const int per_host : {1, 2, 4, 8}) {
      const auto ranks = gpus(hosts, per_host);
      if (ranks.size() < 2) continue;
      const GroupShape shape = shape_of(reach, ranks);
      const Fabric fabric = reach.fabric(ranks);
      const bool two_levels = hosts > 1 && per_host > 1;
      for (const char* flat : {"one_shot", "two_shot", "ring", "recursive_doubling", "halving_doubling"}) {
        const std::string name = two_levels ? std::string("hier:two_shot/") + flat : flat;
        const Cost steps =
            cost(make_schedule(name, Collective::kAllReduce, fabric.layout), Collective::kAllReduce, fabric);
        for (const int64_t bytes : {0, 4096, 1 << 20, 1 << 26}) {
          const auto by_tier = alpha_beta_by_tier(name, shape, bytes);
          ASSERT_TRUE(by_tier) << name;
          EXPECT_NEAR(sum(*by_tier) - kKernelStart, steps.at(bytes), 1e-9 * steps.at(bytes) + 1e-15)
              << name << " on " << hosts << " x " << per_host << ", " << bytes << " bytes";
        }
      }
    }
  }
}

TEST(AlphaBeta, AgreesAcrossRacksToo) {
  Topology cluster = topology::preset("perlmutter-a100-slingshot", 16);  // four hosts a switch
  for (topology::Switch& one : cluster.switches)
    if (one.level == 1) one.uplink_gbit_per_s = 400;
  const Reach reach(cluster);
  for (const int per_host : {1, 4}) {
    const auto ranks = gpus(16, per_host);
    const GroupShape shape = shape_of(reach, ranks);
    EXPECT_EQ(shape.islands_within[0], 4);
    EXPECT_EQ(shape.widest(), Tier::kSpine);
    const Fabric fabric = reach.fabric(ranks);
    for (const char* flat : {"one_shot", "two_shot", "ring", "recursive_doubling", "halving_doubling"}) {
      const std::string name = per_host > 1 ? std::string("hier:two_shot/") + flat : flat;
      const Cost steps =
          cost(make_schedule(name, Collective::kAllReduce, fabric.layout), Collective::kAllReduce, fabric);
      for (const int64_t bytes : {4096, 1 << 20, 1 << 26})
        EXPECT_NEAR(sum(*alpha_beta_by_tier(name, shape, bytes)) - kKernelStart, steps.at(bytes),
                    1e-9 * steps.at(bytes))
            << name << ", " << bytes << " bytes";
    }
  }
}

TEST(AlphaBeta, HasNothingForSchedulesThatDoNotFit) {
  const GroupShape one{.num_ranks = 4, .ranks_per_island = 4};
  EXPECT_FALSE(alpha_beta("hier:two_shot/ring", one, 1));
  EXPECT_FALSE(alpha_beta("double_tree", one, 1));
}

TEST(CollectiveTimes, TakeATableWhereThereIsOne) {
  const Topology cluster = topology::preset("h100-dgx-ndr", 2);
  const Reach reach(cluster);
  const GroupShape eight = shape_of(reach, gpus(1, 8)), sixteen = shape_of(reach, gpus(2, 8));
  CollectiveTimes times, nccl(Collectives::kNccl), tables(Collectives::kMeasured);
  EXPECT_EQ(times.all_reduce(eight, 256 << 10).total.basis, Basis::kMeasured);
  EXPECT_EQ(times.all_reduce(eight, 256 << 10).algorithm, "nccl");
  EXPECT_EQ(tables.all_reduce(eight, 256 << 10).algorithm, "trtllm") << "the fastest of the tables";
  EXPECT_EQ(nccl.all_reduce(sixteen, 4096).total.basis, Basis::kExtrapolated);
  EXPECT_EQ(nccl.all_reduce(sixteen, 4096).algorithm, "nccl tree/ll");
  EXPECT_GT(nccl.all_reduce(sixteen, 4096).total.high_s, 2.5 * nccl.all_reduce(sixteen, 4096).total.seconds)
      << "published runs took up to 2.9 times the model";
  EXPECT_THROW(tables.all_reduce(sixteen, 4096), Error);
  EXPECT_EQ(times.all_reduce(GroupShape{}, 4096).total.seconds, 0) << "alone";
}

TEST(CollectiveTimes, OnH200LanesKernelsAreKnownAndFaster) {
  const Topology cluster = topology::preset("h200-dgx-ndr", 1);
  const Reach reach(cluster);
  CollectiveTimes times;
  const CollectiveCost& cost = times.all_reduce(shape_of(reach, gpus(1, 4)), 256 << 10);
  EXPECT_EQ(cost.algorithm, "lane");
  EXPECT_EQ(cost.total.basis, Basis::kMeasured);
  EXPECT_NEAR(cost.total.seconds, 4.23e-6, 0.01e-6);
  EXPECT_DOUBLE_EQ(cost.by_tier[static_cast<size_t>(Tier::kNvlink)], cost.total.seconds);
}

TEST(CollectiveTimes, TiersAddUp) {
  const Topology cluster = topology::preset("perlmutter-a100-slingshot", 160);
  const Reach reach(cluster);
  for (const Collectives from : {Collectives::kNccl, Collectives::kLane, Collectives::kAlphaBeta}) {
    CollectiveTimes times(from);
    for (const int hosts : {2, 4, 8, 160})
      for (const int64_t bytes : {1 << 10, 1 << 18, 1 << 26}) {
        const CollectiveCost& cost = times.all_reduce(shape_of(reach, gpus(hosts, 4)), bytes);
        EXPECT_NEAR(sum(cost.by_tier), cost.total.seconds, 1e-12);
        EXPECT_LE(cost.total.low_s, cost.total.seconds);
        EXPECT_GE(cost.total.high_s, cost.total.seconds);
        const Tier widest = hosts > 128 ? Tier::kCore : hosts > 4 ? Tier::kSpine : Tier::kLeaf;
        for (const Tier tier : {Tier::kLeaf, Tier::kSpine, Tier::kCore})
          if (tier >= widest) {
            EXPECT_EQ(cost.by_tier[static_cast<size_t>(tier)] > 0, tier == widest) << hosts << cost.algorithm;
          }
      }
  }
}

TEST(CollectiveTimes, PackingNearerIsNotSlower) {
  const Topology cluster = topology::preset("perlmutter-a100-slingshot", 64);
  const Reach reach(cluster);
  CollectiveTimes times(Collectives::kLane);
  const GroupShape spread = shape_of(reach, gpus(8, 4, 8));  // every eighth host: each on another switch
  EXPECT_EQ(spread.islands_within[0], 1);
  const double far_s = times.all_reduce(spread, 1 << 18).total.seconds;
  // A short way may hide behind a sender's other messages.
  EXPECT_LE(times.all_reduce(packed(spread, Tier::kLeaf), 1 << 18).total.seconds, far_s);
  EXPECT_LT(times.all_reduce(packed(spread, Tier::kNvlink), 1 << 18).total.seconds,
            times.all_reduce(packed(spread, Tier::kLeaf), 1 << 18).total.seconds);
}

TEST(CollectiveTimes, ADomainOfManyHostsIsOneNode) {
  const Topology rack = topology::preset("gb200-nvl72");
  const Reach reach(rack);
  const GroupShape shape = shape_of(reach, gpus(18, 4));
  EXPECT_EQ(shape.num_islands, 1);
  CollectiveTimes times(Collectives::kNccl);
  EXPECT_EQ(times.all_reduce(shape, 1 << 18).total.source, "NCCL's model, scaled to 4 GB200 as measured");
}

TEST(Messages, GrowWithDistance) {
  const Topology cluster = topology::preset("perlmutter-a100-slingshot", 16);
  const Reach reach(cluster);
  const double near = message_time(reach, {0, 0}, {0, 1}, 1 << 16).total.seconds;
  const double leaf = message_time(reach, {0, 0}, {1, 0}, 1 << 16).total.seconds;
  const double spine = message_time(reach, {0, 0}, {15, 0}, 1 << 16).total.seconds;
  EXPECT_LT(near, leaf);
  EXPECT_LT(leaf, spine);
  EXPECT_EQ(message_time(reach, {0, 0}, {0, 0}, 1 << 16).total.seconds, 0);
}

TEST(Collectives, HaveNames) {
  for (const char* name : {"auto", "nccl", "lane", "measured", "alpha-beta"})
    EXPECT_EQ(name_of(*collectives_of(name)), name);
  EXPECT_FALSE(collectives_of("magic"));
}

}  // namespace
}  // namespace lane::plan
