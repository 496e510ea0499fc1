#include "lane/plan/reach.h"

#include <gtest/gtest.h>

namespace lane::plan {
namespace {

using topology::GpuRef;
using topology::Host;
using topology::NicKind;
using topology::NicRole;
using topology::Path;
using topology::Topology;

// `leaves.size()` hosts of two GPUs on NVLink and a NIC a GPU.
Topology cluster(const std::vector<std::string>& leaves) {
  Topology topology;
  for (size_t i = 0; i < leaves.size(); ++i) {
    Host host{.name = "n" + std::to_string(i), .leaf_switch = leaves[i]};
    for (int g = 0; g < 2; ++g) {
      host.gpus.push_back({.index = g, .sm = 90, .num_nvlinks = 18, .nvlink_gb_per_s = 25});
      host.nics.push_back({.name = "mlx5_" + std::to_string(g),
                           .kind = NicKind::kInfiniband,
                           .role = NicRole::kCompute,
                           .ports = {{.gbit_per_s = 400}}});
    }
    topology.hosts.push_back(host);
  }
  return topology;
}

TEST(Reach, TiersGoByTheSwitchThatJoins) {
  Topology topology = cluster({"a", "a", "b", "c"});
  topology.switches = {{"a", 1, {"s"}},   {"b", 1, {"s"}},   {"c", 1, {"t"}},
                       {"s", 2, {"top"}}, {"t", 2, {"top"}}, {"top", 3}};
  topology::check(topology, "test");
  const Reach reach(topology);
  EXPECT_EQ(reach.tier({0, 0}, {0, 0}), Tier::kSelf);
  EXPECT_EQ(reach.tier({0, 0}, {0, 1}), Tier::kNvlink);
  EXPECT_EQ(reach.tier({0, 0}, {1, 1}), Tier::kLeaf);
  EXPECT_EQ(reach.tier({0, 0}, {2, 0}), Tier::kSpine);
  EXPECT_EQ(reach.tier({0, 0}, {3, 0}), Tier::kCore);
  EXPECT_EQ(reach.switch_level(0, 3), 3);
  EXPECT_EQ(reach.leaf_group(0), reach.leaf_group(1));
  EXPECT_NE(reach.leaf_group(1), reach.leaf_group(2));
  EXPECT_DOUBLE_EQ(reach.switch_latency_s(3), 4 * 0.3e-6);
}

TEST(Reach, RailsMakeAllHostsNeighbours) {
  Topology topology = cluster({"", "", ""});
  topology.switches = {{"rail0", 1}, {"rail1", 1}};
  for (Host& host : topology.hosts)
    for (int g = 0; g < 2; ++g) host.nics[g].rail = g, host.nics[g].leaf_switch = "rail" + std::to_string(g);
  const Reach reach(topology);
  EXPECT_EQ(reach.tier({0, 0}, {2, 1}), Tier::kLeaf);
}

TEST(Reach, AnNvlinkDomainSpansHosts) {
  Topology topology = cluster({"", "", ""});
  for (int host : {0, 1})
    for (topology::Gpu& gpu : topology.hosts[host].gpus) gpu.nvlink_domain = "rack1";
  const Reach reach(topology);
  EXPECT_EQ(reach.tier({0, 0}, {1, 1}), Tier::kNvlink);
  EXPECT_EQ(reach.tier({0, 0}, {2, 1}), Tier::kLeaf);
  const Fabric fabric = reach.fabric(std::vector<GpuRef>{{0, 0}, {1, 0}, {2, 0}, {2, 1}});
  EXPECT_EQ(fabric.layout.node_of, (std::vector{0, 0, 1, 1}));
}

TEST(Reach, AFabricTakesTheSlowestOfAKind) {
  Topology topology = cluster({"a", "a", "b"});
  topology.switches = {{"a", 1, {"s"}, 400}, {"b", 1, {"s"}, 400}, {"s", 2}};
  topology.hosts[1].nics.pop_back();
  const Reach reach(topology);
  const Fabric near = reach.fabric(std::vector<GpuRef>{{0, 0}, {0, 1}, {1, 0}, {1, 1}});
  EXPECT_EQ(near.layout.node_of, (std::vector{0, 0, 1, 1}));
  EXPECT_TRUE(near.rack_of_node.empty());
  EXPECT_DOUBLE_EQ(near.local.bytes_per_s, 18 * 25e9 * 0.69);
  EXPECT_DOUBLE_EQ(near.remote.bytes_per_s, 50e9 * 0.94);
  EXPECT_DOUBLE_EQ(near.remote.latency_s, 4e-6);
  const Fabric half = reach.fabric(std::vector<GpuRef>{{0, 0}, {2, 0}});
  EXPECT_DOUBLE_EQ(half.remote.bytes_per_s, 50e9 * 0.94) << "one of two GPUs has one of two NICs";
  const Fabric far = reach.fabric(std::vector<GpuRef>{{0, 0}, {0, 1}, {2, 0}, {2, 1}});
  EXPECT_EQ(far.rack_of_node, (std::vector{0, 1}));
  EXPECT_DOUBLE_EQ(far.uplink.bytes_per_s, 50e9) << "the leaf's uplink is narrower than two NICs";
  EXPECT_DOUBLE_EQ(far.uplink.latency_s, 0.6e-6);
  EXPECT_DOUBLE_EQ(far.uplink.message_s, far.remote.message_s);
}

TEST(Reach, WithoutNvlinkAHostIsJoinedByPcie) {
  Topology topology = cluster({"", ""});
  for (topology::Gpu& gpu : topology.hosts[0].gpus)
    gpu.num_nvlinks = 0, gpu.pcie.max_gt_per_s = 16, gpu.pcie.max_width = 16;
  const Reach reach(topology);
  EXPECT_EQ(reach.tier({0, 0}, {0, 1}), Tier::kNode);
  EXPECT_DOUBLE_EQ(reach.fabric(std::vector<GpuRef>{{0, 0}, {0, 1}}).local.bytes_per_s, 24e9);
  topology.hosts[0].gpu_to_gpu = {{Path::kSelf, Path::kNvlink}, {Path::kNvlink, Path::kSelf}};
  EXPECT_EQ(reach.tier({0, 0}, {0, 1}), Tier::kNvlink) << "the matrix says so";
}

TEST(Reach, NicsOfOtherUsesDoNotCount) {
  Topology topology = cluster({"", ""});
  topology.hosts[0].nics.push_back(
      {.name = "storage", .kind = NicKind::kRoce, .role = NicRole::kStorage, .ports = {{.gbit_per_s = 200}}});
  const Reach reach(topology);
  EXPECT_DOUBLE_EQ(reach.network(0).bytes_per_s, 100e9 * 0.94);
  topology.hosts[0].nics.clear();
  EXPECT_GT(reach.network(0).latency_s, 10e-6) << "nothing is known: sockets";
}

}  // namespace
}  // namespace lane::plan
