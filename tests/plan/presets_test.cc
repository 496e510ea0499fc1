#include "lane/topology/presets.h"

#include <gtest/gtest.h>

#include "lane/base/error.h"
#include "lane/plan/gpu_peaks.h"
#include "lane/plan/reach.h"

namespace lane::plan {
namespace {

using topology::Topology;

TEST(Presets, AreValidAtEverySize) {
  for (const topology::PresetInfo& info : topology::presets())
    for (const int hosts : {0, 1, 2, 5, 33, 257}) {
      if (info.num_hosts == 1 && info.name == "laptop" && hosts > 1) continue;
      const Topology cluster = topology::preset(info.name, hosts);
      EXPECT_EQ(static_cast<int>(cluster.hosts.size()), hosts == 0 ? info.num_hosts : hosts);
      EXPECT_NO_THROW(topology::check(cluster, std::string(info.name)));
      const Topology again = topology::topology_from_json(topology::to_json(cluster), "again");
      EXPECT_TRUE(again == cluster) << info.name;
      EXPECT_NO_THROW(gpu_peaks(cluster.hosts[0].gpus[0].name)) << info.name;
      EXPECT_EQ(gpu_peaks(cluster.hosts[0].gpus[0].name).memory_bytes, cluster.hosts[0].gpus[0].memory_bytes);
    }
}

TEST(Presets, HaveTheDatasheetsRates) {
  const Topology h100 = topology::preset("h100-dgx-ndr");
  const Reach reach(h100);
  EXPECT_EQ(reach.num_nics(0), 8);
  EXPECT_NEAR(reach.network(0).bytes_per_s, 8 * 50e9 * 0.94, 1e6);  // 3.2 Tb/s a node
  EXPECT_NEAR(reach.nvlink({0, 0}).bytes_per_s, 18 * 26.5625e9 * 0.69, 1e6);
  const Topology aws = topology::preset("h100-efa");
  EXPECT_NEAR(Reach(aws).network(0).bytes_per_s, 3200e9 / 8 * 0.94, 1e6);
  const Topology perlmutter = topology::preset("perlmutter-a100-slingshot");
  EXPECT_NEAR(Reach(perlmutter).network(0).bytes_per_s, 4 * 25e9 * 0.94, 1e6);
}

TEST(Presets, HaveTheirTiers) {
  const Topology h100 = topology::preset("h100-dgx-ndr", 160);
  const Reach reach(h100);
  EXPECT_EQ(reach.tier({0, 0}, {0, 7}), Tier::kNvlink);
  EXPECT_EQ(reach.tier({0, 0}, {31, 7}), Tier::kLeaf);
  EXPECT_EQ(reach.tier({0, 0}, {32, 0}), Tier::kSpine);
  EXPECT_EQ(reach.tier({0, 0}, {128, 0}), Tier::kCore);
  const Topology rack = topology::preset("gb200-nvl72", 36);
  const Reach racks(rack);
  EXPECT_EQ(racks.tier({0, 0}, {17, 3}), Tier::kNvlink);
  EXPECT_EQ(racks.tier({0, 0}, {18, 0}), Tier::kLeaf);
  const Topology l40s = topology::preset("l40s-pcie");
  EXPECT_EQ(Reach(l40s).tier({0, 0}, {0, 7}), Tier::kNode);
}

TEST(Presets, RefuseWhatTheyAreNot) {
  EXPECT_THROW(topology::preset("h100"), Error);
  EXPECT_THROW(topology::preset("laptop", 2), Error);
  EXPECT_THROW(topology::preset("h100-dgx-ndr", -1), Error);
  EXPECT_THROW(topology::preset("h100-dgx-ndr", 1 << 20), Error);
}

}  // namespace
}  // namespace lane::plan
