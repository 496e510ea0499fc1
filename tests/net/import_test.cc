// What each tool prints, in all its forms and with the noise of launchers: files of our own in tests/net/import.
#include "lane/net/import.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "lane/base/error.h"
#include "lane/base/file.h"

namespace lane::net {
namespace {

const std::string kFolder = std::string(LANE_SOURCE_DIR) + "/tests/net/import/";

std::vector<ImportedRun> read(const std::string& name, const ImportOptions& options = {}) {
  return import_results(read_file(kFolder + name), name, options);
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

bool has_note(const ImportedRun& run, const std::string& part) {
  return std::any_of(run.notes.begin(), run.notes.end(),
                     [&](const std::string& note) { return note.find(part) != std::string::npos; });
}

// Bytes, time out of place, time in place, as the fixture's maker put them in.
struct Expected {
  int64_t bytes;
  double out_us, in_us;
};

void expect_rows(const ImportedRun& run, const std::string& test, int ranks, int nodes,
                 const std::vector<Expected>& rows) {
  EXPECT_EQ(run.num_ranks, ranks);
  EXPECT_EQ(run.num_nodes, nodes);
  EXPECT_TRUE(run.failures.empty());
  ASSERT_EQ(run.rows.size(), 2 * rows.size());
  for (size_t i = 0; i < run.rows.size(); ++i) {
    const Expected& expected = rows[i / 2];
    const ImportedRow& row = run.rows[i];
    const double us = i % 2 == 0 ? expected.out_us : expected.in_us;
    const double n = ranks, factor = test == "all_reduce" ? 2 * (n - 1) / n : (n - 1) / n;
    EXPECT_EQ(row.test, test);
    EXPECT_EQ(row.bytes, expected.bytes);
    EXPECT_EQ(row.in_place, i % 2 == 1);
    EXPECT_DOUBLE_EQ(row.time_us, us);
    EXPECT_DOUBLE_EQ(row.algbw_gb_per_s, static_cast<double>(expected.bytes) / us / 1e3);
    EXPECT_NEAR(row.busbw_gb_per_s, factor * static_cast<double>(expected.bytes) / us / 1e3, 1e-9 * row.busbw_gb_per_s);
  }
}

const std::vector<Expected> kEra2 = {{1024, 26.10, 25.87},
                                     {16384, 28.35, 27.90},
                                     {262144, 41.20, 40.77},
                                     {4194304, 131.5, 130.2},
                                     {67108864, 12345, 12310}};
const std::vector<Expected> kBig = {
    {1024, 38.21, 37.90},       {16384, 41.66, 41.02},        {262144, 58.90, 58.31},     {4194304, 131.7, 130.9},
    {67108864, 562.10, 560.02}, {1073741824, 5402.5, 5399.0}, {17179869184, 80110, 80050}};
const std::vector<Expected> kNoise = {{4096, 75.38, 74.91}, {8192, 76.02, 75.60}, {524288, 142.70, 141.90}};

TEST(ImportNccl, TheFirstLayoutPrintedMilliseconds) {
  const auto runs = read("era1_all_reduce.txt");
  ASSERT_EQ(runs.size(), 1u);
  expect_rows(runs[0], "all_reduce", 4, 1,
              {{65536, 41, 41}, {262144, 61, 60}, {1048576, 118, 118}, {4194304, 353, 350}, {16777216, 1288, 1290}});
  EXPECT_EQ(runs[0].gpus, std::vector<std::string>{"Tesla P100-SXM2-16GB"});
  EXPECT_EQ(runs[0].rows[0].num_wrong, -1) << "a difference is no count";
}

TEST(ImportNccl, TheSecondLayoutHasAsManyColumnsAsTheCollectiveNeeds) {
  expect_rows(read("era2_all_reduce.txt").at(0), "all_reduce", 8, 1, kEra2);
  expect_rows(read("era2_all_gather.txt", {.collective = "all_gather"}).at(0), "all_gather", 8, 1, kEra2);
  const auto unnamed = read("era2_all_gather.txt").at(0);
  EXPECT_EQ(unnamed.rows.at(0).test, "unknown") << "all_gather and alltoall have the same factor";
  EXPECT_TRUE(has_note(unnamed, "--collective"));
}

TEST(ImportNccl, BandwidthsByTheOldDefinitionBecomeThoseOfToday) {
  const auto run = read("era2_old_definition.txt").at(0);
  expect_rows(run, "reduce_scatter", 8, 1, kEra2);
  EXPECT_TRUE(has_note(run, "June 2020"));
}

TEST(ImportNccl, TheThirdLayoutWithAndWithoutTheTestsName) {
  expect_rows(read("era3_all_reduce.txt").at(0), "all_reduce", 16, 2, kBig);
  const auto runs = read("era3_timestamps.txt");
  ASSERT_EQ(runs.size(), 2u) << "two tests in one file";
  expect_rows(runs[0], "all_reduce", 16, 2, kBig);
  expect_rows(runs[1], "all_gather", 16, 2, {kBig.begin(), kBig.begin() + 4});
  EXPECT_EQ(runs[0].version, "2.17.6");
  EXPECT_EQ(runs[0].nccl_version, "2.29.7");
  EXPECT_EQ(runs[0].rows[0].num_wrong, 0);
  EXPECT_EQ(runs[0].rows[0].type, "bfloat16");
}

TEST(ImportNccl, ColumnsOfSingleCalls) {
  const auto run = read("era3_per_iteration.txt").at(0);
  ASSERT_EQ(run.rows.size(), 6u);
  EXPECT_DOUBLE_EQ(run.rows[0].time_us, 19.02);
  EXPECT_DOUBLE_EQ(run.rows[0].min_us, 18.26);
  EXPECT_DOUBLE_EQ(run.rows[0].max_us, 24.73);
  EXPECT_DOUBLE_EQ(run.rows[0].p99_us, 23.77);
  EXPECT_DOUBLE_EQ(run.rows[1].p99_us, 23.77);
}

TEST(ImportNccl, PrefixesOfLaunchersAreNoColumns) {
  for (const char* name : {"noise_srun.txt", "noise_dated.txt", "noise_kubectl.txt", "noise_pdsh.txt",
                           "noise_mpich.txt", "noise_mpich_writes.txt"}) {
    SCOPED_TRACE(name);
    const auto runs = read(name);
    ASSERT_EQ(runs.size(), 1u);
    expect_rows(runs[0], "all_reduce", 16, 2, kNoise);
    EXPECT_TRUE(runs[0].rejected.empty());
  }
}

TEST(ImportNccl, RowsThatLogMessagesCutArePutTogether) {
  const auto runs = read("noise_mpirun_cut.txt");
  ASSERT_EQ(runs.size(), 1u);
  expect_rows(runs[0], "all_reduce", 16, 2, kNoise);
  ASSERT_EQ(runs[0].rejected.size(), 1u);
  EXPECT_EQ(runs[0].rejected[0].line, 36);
  EXPECT_NE(runs[0].rejected[0].reason.find("cut by log messages"), std::string::npos);
  EXPECT_TRUE(has_note(runs[0], "failed to extend /dev/shm"));
  const std::vector<ChosenAlgorithm> chosen = {{"all_reduce", "tree", "ll", 4096, 2},
                                               {"", "tree", "ll", 4096, 0},
                                               {"all_reduce", "tree", "ll", 8192, 2},
                                               {"all_reduce", "nvls_tree", "simple", 524288, 16}};
  EXPECT_EQ(runs[0].chosen, chosen);
}

TEST(ImportNccl, ABlankSideIsToldByItsPlace) {
  const auto run = read("sides_and_failed.txt").at(0);
  ASSERT_EQ(run.rows.size(), 4u);
  EXPECT_TRUE(run.rows[0].in_place);
  EXPECT_EQ(run.rows[0].num_wrong, -1) << "N/A";
  EXPECT_FALSE(run.rows[1].in_place);
  EXPECT_EQ(run.rows[2].num_wrong, 3);
  ASSERT_EQ(run.failures.size(), 1u);
  EXPECT_NE(run.failures[0].find("3 FAILED"), std::string::npos);
}

TEST(ImportNccl, ATestThatFailedSaysSo) {
  const auto run = read("failure.txt").at(0);
  ASSERT_EQ(run.failures.size(), 2u);
  EXPECT_NE(run.failures[0].find("unhandled system error"), std::string::npos);
  EXPECT_EQ(run.rejected.at(0).line, 26);
  EXPECT_TRUE(has_note(run, "did not come to its end"));
}

TEST(ImportNccl, RowsThatContradictThemselvesAreRejectedByLine) {
  const auto run = read("misread.txt").at(0);
  ASSERT_EQ(run.rejected.size(), 2u);
  EXPECT_EQ(run.rejected[0].line, 19);
  EXPECT_NE(run.rejected[0].reason.find("algbw 121.5"), std::string::npos) << run.rejected[0].reason;
  EXPECT_EQ(run.rejected[1].line, 20);
  EXPECT_NE(run.rejected[1].reason.find("busbw 206.81"), std::string::npos) << run.rejected[1].reason;
  EXPECT_EQ(run.rows.size(), 4u);
}

TEST(ImportNccl, ProcessesThatDoNotKnowEachOther) {
  const auto runs = read("no_mpi.txt");
  ASSERT_EQ(runs.size(), 2u);
  for (const ImportedRun& run : runs) {
    EXPECT_EQ(run.num_ranks, 1);
    EXPECT_TRUE(has_note(run, "MPI=1"));
  }
}

TEST(ImportNccl, ARowThatNeverEndsIsGivenUp) {
  std::string text =
      "# size count type redop root time algbw busbw #wrong time algbw busbw #wrong\n"
      "  1024  256  float  sum  -1  20.1  2026-03-04 10:11:12\n";
  for (int i = 0; i < 200000; ++i) text += "1:2\n";
  const auto run = import_results(text, "endless").at(0);
  EXPECT_TRUE(run.rows.empty());
  EXPECT_EQ(run.rejected.size(), 1u);
}

TEST(ImportNccl, AColumnShiftIsCaught) {
  std::string text = read_file(kFolder + "era2_all_reduce.txt");
  const size_t redop = text.find("redop");  // the old layout read by the new one's columns, as fixed indices would
  ASSERT_NE(redop, std::string::npos);
  text.replace(redop, 5, "redop  root");
  const auto run = import_results(text, "shifted").at(0);
  EXPECT_TRUE(run.rows.empty());
  EXPECT_EQ(run.rejected.size(), 5u);
}

TEST(ImportNcclJson, RowsVerdictsAndOnlyTheVariablesOfNetworks) {
  const auto run = read("nccl_tests.json").at(0);
  EXPECT_EQ(run.num_ranks, 8);
  EXPECT_EQ(run.num_nodes, 1);
  EXPECT_EQ(run.nccl_version, "2.30.7");
  ASSERT_EQ(run.rows.size(), 6u);
  EXPECT_EQ(run.rows[0].test, "all_reduce");
  EXPECT_DOUBLE_EQ(run.rows[0].time_us, 19.0);
  EXPECT_NEAR(run.rows[0].busbw_gb_per_s, 16384 / 19.0 / 1e3 * 1.75, 1e-12);
  EXPECT_EQ(run.rows[1].num_wrong, -1);
  const std::map<std::string, std::string> kept = {
      {"FI_PROVIDER", "cxi"}, {"NCCL_ALGO", "Ring"}, {"NCCL_PROTO", "LL"}, {"SLURM_JOB_ID", "77"}, {"UCX_TLS", "rc"}};
  EXPECT_EQ(run.environment, kept);
  EXPECT_EQ(to_json({run}).dump().find("do-not-keep"), std::string::npos);
}

TEST(ImportNcclJson, SingleCallsWithoutTheSkippedOnes) {
  const auto run = read("nccl_tests_per_iteration.json").at(0);
  EXPECT_EQ(run.rows.at(0).samples_us.size(), 20u);
  EXPECT_GT(run.rows[0].p99_us, run.rows[0].p50_us);
}

TEST(ImportNcclJson, NumbersThatAreNone) {
  const auto run = read("nccl_tests_nan.json").at(0);
  EXPECT_EQ(run.rows.size(), 5u);
  EXPECT_EQ(run.rejected.size(), 1u);
  EXPECT_EQ(run.failures.size(), 2u);
}

TEST(ImportNcclJson, AFileWithoutItsEndGivesWhatItHas) {
  const std::string text = read_file(kFolder + "nccl_tests.json");
  const size_t last = text.rfind("\"size\":1048576");
  const auto run = import_results(text.substr(0, last + 30), "torn.json").at(0);
  EXPECT_EQ(run.rows.size(), 4u);
  EXPECT_TRUE(has_note(run, "has no end"));
}

TEST(ImportOsu, CollectivesAndPairs) {
  const auto run = read("osu_allreduce.txt", {.num_ranks = 16}).at(0);
  ASSERT_EQ(run.rows.size(), 4u);
  EXPECT_EQ(run.rows[2].test, "all_reduce");
  EXPECT_EQ(run.rows[2].bytes, 262144);
  EXPECT_DOUBLE_EQ(run.rows[2].time_us, 60.18);
  EXPECT_DOUBLE_EQ(run.rows[2].min_us, 54.16);
  EXPECT_NEAR(run.rows[2].busbw_gb_per_s, 262144 / 60.18 / 1e3 * 1.875, 1e-9);
  EXPECT_EQ(run.memory, "gpu");
  EXPECT_EQ(run.version, "v7.4");

  const auto latency = read("osu_latency.txt").at(0);
  EXPECT_EQ(latency.rows.at(2).test, "osu_latency");
  EXPECT_DOUBLE_EQ(latency.rows[2].time_us, 4.08);
  const auto bandwidth = read("osu_bw.txt").at(0);
  EXPECT_EQ(bandwidth.rows.at(2).test, "osu_bi-directional_bandwidth");
  EXPECT_DOUBLE_EQ(bandwidth.rows[2].algbw_gb_per_s, 46.01288);
  const auto tail = read("osu_tail.txt").at(0);
  EXPECT_DOUBLE_EQ(tail.rows.at(0).p99_us, 3.47);
  EXPECT_EQ(tail.rows[0].num_wrong, 0);
  EXPECT_EQ(tail.rows[1].num_wrong, 1) << "Validation: Fail";
}

TEST(ImportPerftest, BandwidthInBothUnitsAndLatency) {
  const auto gbits = read("perftest_bw.txt").at(0);
  ASSERT_EQ(gbits.rows.size(), 3u);
  EXPECT_EQ(gbits.rows[2].test, "ib_write_bw");
  EXPECT_DOUBLE_EQ(gbits.rows[2].algbw_gb_per_s, 392.6 / 8);
  EXPECT_EQ(gbits.memory, "gpu");
  const auto mib = read("perftest_bw_mib.txt").at(0);
  EXPECT_EQ(mib.rows.at(0).test, "ib_write_bw_bidirectional");
  EXPECT_NEAR(mib.rows[0].algbw_gb_per_s, 89950.1 * 1048576 / 1e9, 1e-9);
  ASSERT_EQ(mib.rejected.size(), 1u) << "its message rate says something else";
  EXPECT_EQ(mib.rejected[0].line, 11);
  const auto latency = read("perftest_lat.txt").at(0);
  EXPECT_EQ(latency.rows.at(0).test, "ib_write_lat");
  EXPECT_DOUBLE_EQ(latency.rows[0].time_us, 2.18);
  EXPECT_DOUBLE_EQ(latency.rows[0].p99_us, 2.60);
}

TEST(ImportPerftest, JsonAndWhatOlderVersionsCallJson) {
  EXPECT_DOUBLE_EQ(read("perftest.json").at(0).rows.at(0).algbw_gb_per_s, 391.97 / 8);
  EXPECT_DOUBLE_EQ(read("perftest_lat.json").at(0).rows.at(0).p99_us, 2.60);
  const auto old = read("perftest_old.json").at(0);
  EXPECT_EQ(old.rows.at(0).test, "ib_send_bw");
  EXPECT_NEAR(old.rows[0].algbw_gb_per_s, 46726.02 * 1048576 / 1e9, 1e-9) << "MiB/s, as its message rate proves";
}

TEST(ImportNvbandwidth, EachCellIsARowAndTheSumGuardsThem) {
  for (const char* name : {"nvbandwidth.txt", "nvbandwidth.json"}) {
    SCOPED_TRACE(name);
    const auto run = read(name).at(0);
    ASSERT_EQ(run.rows.size(), 4u + 12u);
    EXPECT_EQ(run.rows[3].test, "host_to_device_memcpy_ce");
    EXPECT_EQ(run.rows[3].variant, "gpu 3");
    EXPECT_DOUBLE_EQ(run.rows[3].algbw_gb_per_s, 47.10);
    EXPECT_EQ(run.rows[13].variant, "gpu 3 <- gpu 0");
    EXPECT_DOUBLE_EQ(run.rows[13].algbw_gb_per_s, 240.17);
  }
  EXPECT_EQ(read("nvbandwidth.txt").at(0).rejected.size(), 1u);
  EXPECT_EQ(read("nvbandwidth.json").at(0).failures.size(), 1u);
}

TEST(ImportLane, ItsBenchmarkAndWhatImportWrote) {
  const auto run = read("lane_bench.json").at(0);
  ASSERT_EQ(run.rows.size(), 4u);
  EXPECT_EQ(run.rows[1].variant, "ring");
  EXPECT_DOUBLE_EQ(run.rows[1].time_us, 11.0);
  for (const char* name :
       {"noise_mpirun_cut.txt", "nccl_tests_per_iteration.json", "nvbandwidth.txt", "osu_tail.txt"}) {
    const auto first = read(name);
    const auto again = import_results(to_json(first).dump(), name);
    ASSERT_EQ(again.size(), first.size());
    EXPECT_EQ(to_json(again)["runs"][0]["rows"], to_json(first)["runs"][0]["rows"]) << name;
    EXPECT_EQ(again[0].chosen, first[0].chosen);
  }
}

TEST(Import, SaysWhatItCannotRead) {
  EXPECT_NE(message_of([] { import_results("hello\n", "x.txt"); }).find("x.txt: not recognised"), std::string::npos);
  EXPECT_NE(message_of([] { import_results("{\"a\": 1}", "x.json"); }).find("\"results\" is missing"),
            std::string::npos);
  EXPECT_NE(message_of([] { import_results("", "x.txt", {.format = "foo"}); }).find("nvbandwidth-json"),
            std::string::npos);
  EXPECT_NE(message_of([] { import_results("# OSU MPI Latency Test v7\n", "x"); }).find("no results"),
            std::string::npos);
}

TEST(Import, BusFactorsAreThoseOfNcclTests) {
  EXPECT_DOUBLE_EQ(bus_factor("all_reduce", 8), 1.75);
  EXPECT_DOUBLE_EQ(bus_factor("all_gather", 8), 0.875);
  EXPECT_DOUBLE_EQ(bus_factor("broadcast", 8), 1);
  EXPECT_EQ(bus_factor("hypercube", 8), 0);
  EXPECT_EQ(bus_factor("all_reduce", 0), 0);
}

}  // namespace
}  // namespace lane::net
