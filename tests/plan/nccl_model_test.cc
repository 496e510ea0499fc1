#include "lane/plan/nccl_model.h"

#include <gtest/gtest.h>

#include <set>

#include "lane/base/error.h"

namespace lane::plan {
namespace {

using enum NcclAlgorithm;
using enum NcclProtocol;

NcclGroup hopper(int num_ranks, int num_nodes, bool amd_cpu = false) {
  return typical_channels({.num_ranks = num_ranks, .num_nodes = num_nodes, .sm = 90, .amd_cpu = amd_cpu}, 8, 48);
}

double all_reduce_us(const NcclGroup& group, NcclAlgorithm algorithm, NcclProtocol protocol, int64_t bytes) {
  return nccl_time_us(group, Collective::kAllReduce, algorithm, protocol, bytes);
}

// What NCCL itself logged on 24 H100 of three nodes with Intel CPUs (nccl issue 1453: its bus bandwidths tell 24
// ranks).
TEST(NcclModel, IsExactToWhatNcclLogged) {
  NcclGroup group = hopper(24, 3);
  group.one_nic = true;
  EXPECT_NEAR(all_reduce_us(group, kTree, kLl, 128), 25.214764, 1e-4);
  EXPECT_NEAR(all_reduce_us(group, kTree, kLl, 4096), 25.874907, 1e-4);
  EXPECT_NEAR(all_reduce_us(group, kTree, kLl, 8192), 26.549810, 1e-4);
}

TEST(NcclModel, LatenciesFollowFromItsConstants) {
  const auto latency = [](const NcclGroup& group, NcclAlgorithm algorithm, NcclProtocol protocol) {
    return nccl_latency_us(group, Collective::kAllReduce, algorithm, protocol);
  };
  EXPECT_NEAR(latency(hopper(8, 1), kRing, kLl), 6.6 + 14 * 0.6, 1e-9);
  EXPECT_NEAR(latency(hopper(8, 1), kRing, kSimple), 8.4 + 14 * 3.4, 1e-9);
  EXPECT_NEAR(latency(hopper(16, 2), kTree, kLl), 6.8 + 2 * (7 * 0.6 + 5), 1e-9);
  EXPECT_NEAR(latency(hopper(16, 2), kTree, kSimple), 8.4 + 2 * (7 * 4.0 + 14), 1e-9);
  EXPECT_NEAR(latency(hopper(16, 2), kRing, kLl), 6.6 + 28 * 1.0 + 2 * 2.7, 1e-9);
  EXPECT_NEAR(latency(hopper(16, 2, true), kRing, kLl), 6.6 + 28 * 2.0 + 2 * 2.7, 1e-9);
  EXPECT_NEAR(latency(hopper(16, 2, true), kRing, kSimple), 8.4 + 28 * 6.0 + 2 * 14.0, 1e-9);
  EXPECT_NEAR(latency(hopper(1024, 128), kTree, kLl), 6.8 + 2 * (7 * 0.6 + 7 * 5), 1e-9);
  EXPECT_NEAR(latency(hopper(64, 8), kNvlsTree, kSimple), 25 + 2 * 3 * 20.9, 1e-9);
  EXPECT_NEAR(latency(hopper(4, 4), kRing, kLl), 6.6 + 6 * 5.0, 1e-9) << "a GPU a node pays a tree's network latency";
}

TEST(NcclModel, ChoosesLatencyForSmallAndBandwidthForLarge) {
  const NcclGroup one = hopper(8, 1);
  EXPECT_EQ(nccl_choices(one, Collective::kAllReduce, 8192).front().protocol, kLl);
  EXPECT_EQ(nccl_choices(one, Collective::kAllReduce, 8192).front().algorithm, kRing);
  EXPECT_EQ(nccl_choices(one, Collective::kAllReduce, 1 << 28).front().protocol, kSimple);
  const NcclGroup many = hopper(64, 8);
  EXPECT_EQ(nccl_choices(many, Collective::kAllReduce, 8192).front().algorithm, kTree);
  EXPECT_EQ(nccl_choices(many, Collective::kAllReduce, 8192).front().protocol, kLl);
  EXPECT_EQ(nccl_choices(many, Collective::kAllReduce, 8192).front().channels, 24);
}

TEST(NcclModel, OffersOnlyWhatNcclWould) {
  const auto names = [](const NcclGroup& group, Collective collective) {
    std::set<std::string> names;
    for (const NcclChoice& choice : nccl_choices(group, collective, 65536))
      names.insert(std::string(name_of(choice.algorithm)));
    return names;
  };
  NcclGroup group = hopper(16, 2);
  EXPECT_EQ(names(group, Collective::kAllReduce), (std::set<std::string>{"ring", "tree"}));
  group.nvls = true;
  EXPECT_EQ(names(group, Collective::kAllReduce), (std::set<std::string>{"nvls_tree", "ring", "tree"}));
  EXPECT_EQ(names(group, Collective::kAllGather), (std::set<std::string>{"ring"}));
  EXPECT_EQ(names(hopper(8, 8), Collective::kReduceScatter), (std::set<std::string>{"pat", "ring"}));
  EXPECT_LT(nccl_time_us(group, Collective::kAllGather, kTree, kLl, 1024), 0);
  EXPECT_THROW(nccl_choices({.num_ranks = 1}, Collective::kAllReduce, 1024), Error);
}

TEST(NcclModel, MoreBytesNeverTakeLessOnARing) {
  const NcclGroup group = hopper(32, 4);
  for (const NcclProtocol protocol : {kLl, kLl128, kSimple}) {
    double last = 0;
    for (int64_t bytes = 1; bytes < int64_t{1} << 34; bytes *= 2) {
      const double us = all_reduce_us(group, kRing, protocol, bytes);
      EXPECT_GT(us, last);
      last = us;
    }
  }
}

TEST(NcclModel, AggregatedTreesPayTheirLatencyOnce) {
  const NcclGroup group = hopper(16, 2);
  const double one = nccl_time_us(group, Collective::kAllReduce, kTree, kLl, 1024, 1);
  EXPECT_DOUBLE_EQ(nccl_time_us(group, Collective::kAllReduce, kTree, kLl, 1024, 8), one);
  EXPECT_GT(nccl_time_us(group, Collective::kAllReduce, kTree, kLl, 1024, 9), one + 25);
  EXPECT_GT(nccl_time_us(group, Collective::kAllReduce, kRing, kLl, 1024, 2),
            nccl_time_us(group, Collective::kAllReduce, kRing, kLl, 1024, 1) + 39);
}

}  // namespace
}  // namespace lane::plan
