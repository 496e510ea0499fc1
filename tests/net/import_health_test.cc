#include "lane/net/import_health.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "lane/base/error.h"
#include "lane/base/file.h"

namespace lane::net {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

ImportedRun all_reduce(int64_t bytes, double busbw, int ranks = 8, int nodes = 1) {
  ImportedRun run{.source = "x", .tool = "nccl-tests", .num_ranks = ranks, .num_nodes = nodes};
  run.rows.push_back({.test = "all_reduce", .bytes = bytes, .time_us = 1, .busbw_gb_per_s = busbw});
  return run;
}

const HealthCheck& check_of(const std::vector<HealthCheck>& checks, const std::string& title) {
  for (const HealthCheck& check : checks)
    if (check.threshold.title == title) return check;
  throw std::runtime_error("no check " + title);
}

std::vector<HealthCheck> check(const std::vector<ImportedRun>& runs, const std::string& platform, int num_nics = 0) {
  return check_health(runs, shipped_thresholds(), platform, num_nics);
}

TEST(Thresholds, ThoseOfTheDossierAndEachWithItsSource) {
  const std::vector<Threshold> thresholds = shipped_thresholds();
  std::multiset<double> figures;
  for (const Threshold& threshold : thresholds) {
    figures.insert(threshold.at_least + threshold.at_most);
    EXPECT_NE(threshold.source.find('/'), std::string::npos) << "owner/repository";
  }
  const std::multiset<double> published = {460, 380, 48,  335, 431, 360, 193, 25,  208, 228, 180, 21, 238,
                                           18,  720, 300, 4.2, 46,  60,  150, 250, 250, 160, 476, 367};
  EXPECT_EQ(figures, published);
}

TEST(Thresholds, ErrorsNameTheEntryAndTheField) {
  const auto message = [](const std::string& entry) {
    try {
      parse_thresholds("{\"schema\": 1, \"thresholds\": [" + entry + "]}", "t.json");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const std::string good =
      R"({"platform": "p", "test": "all_reduce", "metric": "time_us", "at_most": 20, "source": "us/ours")";
  EXPECT_EQ(message(good + "}"), "no error");
  EXPECT_NE(message(good + R"(, "busbw": 1})").find("threshold 1: \"busbw\" is no field"), std::string::npos);
  EXPECT_NE(message(good + R"(, "at_least": 1})").find("one of \"at_least\" and \"at_most\""), std::string::npos);
  EXPECT_NE(message(R"({"platform": "p"})").find("\"test\" is missing"), std::string::npos);
  EXPECT_THROW(parse_thresholds("{\"schema\": 2}", "t.json"), Error);
}

TEST(Health, PassFailAndNotMeasured) {
  auto checks = check({all_reduce(16 * kGiB, 475)}, "nd-h100-v5");
  EXPECT_EQ(check_of(checks, "Azure ND H100 v5").health, Health::kPass);
  EXPECT_DOUBLE_EQ(check_of(checks, "Azure ND H100 v5").measured, 475);
  EXPECT_EQ(check_of(checks, "Azure ND H100 v5, GPU to GPU").health, Health::kNotMeasured);
  EXPECT_EQ(check_of(check({all_reduce(16 * kGiB, 459.9)}, "nd-h100-v5"), "Azure ND H100 v5").health, Health::kFail);
  EXPECT_EQ(check_of(check({all_reduce(8 * kGiB, 475)}, "nd-h100-v5"), "Azure ND H100 v5").health, Health::kNotMeasured)
      << "another size";
  EXPECT_EQ(check_of(check({all_reduce(16 * kGiB, 475, 16, 2)}, "nd-h100-v5"), "Azure ND H100 v5").health,
            Health::kNotMeasured)
      << "two nodes";
}

TEST(Health, WhatIsNotKnownIsNeverAPass) {
  const auto nodes = check_of(check({all_reduce(16 * kGiB, 475, 8, 0)}, "nd-h100-v5"), "Azure ND H100 v5");
  EXPECT_EQ(nodes.health, Health::kUnknown);
  EXPECT_NE(nodes.why.find("--nodes"), std::string::npos);

  ImportedRun run = all_reduce(16 * kGiB, 478);
  const auto unproven = check_of(check({run}, "hgx-h100"), "DGX or HGX H100, NVLink SHARP");
  EXPECT_EQ(unproven.health, Health::kUnknown);
  EXPECT_NE(unproven.why.find("NCCL_DEBUG_SUBSYS=TUNING"), std::string::npos);
  run.chosen = {{"all_reduce", "nvls", "simple", 16 * kGiB, 16}};
  EXPECT_EQ(check_of(check({run}, "hgx-h100"), "DGX or HGX H100, NVLink SHARP").health, Health::kPass);
  EXPECT_EQ(check_of(check({run}, "hgx-h100"), "DGX or HGX H100, ring").health, Health::kNotMeasured);

  ImportedRun ring = all_reduce(kGiB, 380, 16, 2);
  ring.environment["NCCL_ALGO"] = "Ring";
  EXPECT_EQ(check_of(check({ring}, "h100-ndr"), "one NDR NIC in a ring of 2 nodes").health, Health::kUnknown);
  EXPECT_EQ(check_of(check({ring}, "h100-ndr", 8), "one NDR NIC in a ring of 2 nodes").health, Health::kPass);
}

TEST(Health, ForcedRunsCountOnlyWhereThatIsAskedFor) {
  ImportedRun forced = all_reduce(16 * kGiB, 18.5);
  forced.environment = {{"NCCL_P2P_DISABLE", "1"}, {"NCCL_SHM_DISABLE", "1"}};
  const auto checks = check({forced}, "nd-a100-v4");
  EXPECT_EQ(check_of(checks, "Azure ND A100 v4").health, Health::kNotMeasured);
  EXPECT_EQ(check_of(checks, "Azure ND A100 v4, NCCL forced over InfiniBand").health, Health::kPass);
}

TEST(Health, OfAMatrixTheWorstCellCounts) {
  const std::string file = std::string(LANE_SOURCE_DIR) + "/tests/net/import/nvbandwidth.txt";
  const auto checks = check(import_results(read_file(file), file), "nd-h100-v5");
  const HealthCheck& peers = check_of(checks, "Azure ND H100 v5, GPU to GPU");
  EXPECT_EQ(peers.health, Health::kFail);
  EXPECT_EQ(peers.variant, "gpu 3 <- gpu 0");
  EXPECT_DOUBLE_EQ(peers.measured, 240.17);
  EXPECT_EQ(check_of(checks, "Azure ND H100 v5, host to GPU").variant, "gpu 3");
}

TEST(Health, LatencyAndMemoryOfPerftest) {
  const std::string folder = std::string(LANE_SOURCE_DIR) + "/tests/net/import/";
  auto runs = import_results(read_file(folder + "perftest_lat.txt"), "lat");
  for (const ImportedRun& run : import_results(read_file(folder + "perftest_bw.txt"), "bw")) runs.push_back(run);
  EXPECT_EQ(check_of(check(runs, "h100-ndr"), "H100 with NDR, p99 of a write").health, Health::kPass);
  const HealthCheck rdma = check_of(check(runs, "nd-h100-v5"), "Azure ND H100 v5, GPUDirect RDMA");
  EXPECT_EQ(rdma.health, Health::kPass);
  EXPECT_DOUBLE_EQ(rdma.measured, 392.6);
  for (ImportedRun& run : runs) run.memory.clear();
  EXPECT_EQ(check_of(check(runs, "nd-h100-v5"), "Azure ND H100 v5, GPUDirect RDMA").health, Health::kNotMeasured);
}

}  // namespace
}  // namespace lane::net
