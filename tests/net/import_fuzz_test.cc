// Damaged files: an error or rows, never a crash and nothing that lasts.
#include <gtest/gtest.h>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/random.h"
#include "lane/net/import.h"
#include "lane/net/import_health.h"

namespace lane::net {
namespace {

constexpr int kMutations = 10000;

// One to four damages: a byte, a piece gone, a piece twice, a piece of another place, an odd word.
std::string damaged(const std::string& text, uint64_t key) {
  static const char* kWords[] = {"nan",       "inf",         "-1",   "1e999", "99999999999999999999",
                                 "N/A",       "\n",          "{",    "]",     "\"",
                                 "#",         " NCCL INFO ", "0: ",  "\\",    ",",
                                 "<stdout>:", "0",           "-0.0", "\t",    "size"};
  std::string out = text;
  const uint64_t count = 1 + random_bits(key, 0) % 4;
  for (uint64_t i = 0; i < count && !out.empty(); ++i) {
    const uint64_t kind = random_bits(key, 10 * i + 1) % 5;
    const size_t at = random_bits(key, 10 * i + 2) % out.size();
    const size_t length = std::min<size_t>(1 + random_bits(key, 10 * i + 3) % 60, out.size() - at);
    if (kind == 0) out[at] = static_cast<char>(random_bits(key, 10 * i + 4));
    if (kind == 1) out.erase(at, random_bits(key, 10 * i + 5) % 8 == 0 ? out.size() : length);
    if (kind == 2) out.insert(at, out.substr(at, length));
    if (kind == 3) out.insert(random_bits(key, 10 * i + 6) % out.size(), out.substr(at, length));
    if (kind == 4) out.insert(at, kWords[random_bits(key, 10 * i + 7) % std::size(kWords)]);
  }
  return out;
}

void fuzz(const std::vector<std::string>& files, const std::string& format) {
  const std::string folder = std::string(LANE_SOURCE_DIR) + "/tests/net/import/";
  std::vector<std::string> texts;
  for (const std::string& file : files) texts.push_back(read_file(folder + file).substr(0, 6000));
  int num_read = 0;
  for (int i = 0; i < kMutations; ++i) {
    const std::string text =
        damaged(texts[static_cast<size_t>(i) % texts.size()], hash_name(format, static_cast<uint64_t>(i)));
    try {
      for (const ImportedRun& run : import_results(text, "damaged", {.format = i % 2 == 0 ? format : "auto"}))
        for (const ImportedRow& row : run.rows) {
          ASSERT_GE(row.time_us, 0) << text;
          ASSERT_GE(row.bytes, 0) << text;
          ASSERT_TRUE(row.algbw_gb_per_s >= 0) << text;
          ++num_read;
        }
    } catch (const Error& error) {
      ASSERT_TRUE(error.code() == ErrorCode::kCorruptData || error.code() == ErrorCode::kInvalidArgument)
          << error.what();
    }
  }
  EXPECT_GT(num_read, kMutations / 10) << "most files are damaged a little only";
}

TEST(ImportFuzz, NcclText) {
  fuzz({"era1_all_reduce.txt", "era2_all_gather.txt", "era3_timestamps.txt", "era3_per_iteration.txt",
        "noise_mpirun_cut.txt", "noise_mpich_writes.txt", "noise_srun.txt", "noise_dated.txt", "sides_and_failed.txt"},
       "nccl-tests");
}
TEST(ImportFuzz, NcclJson) { fuzz({"nccl_tests.json", "nccl_tests_nan.json"}, "nccl-tests-json"); }
TEST(ImportFuzz, Osu) { fuzz({"osu_allreduce.txt", "osu_latency.txt", "osu_bw.txt", "osu_tail.txt"}, "osu"); }
TEST(ImportFuzz, Perftest) { fuzz({"perftest_bw.txt", "perftest_bw_mib.txt", "perftest_lat.txt"}, "perftest"); }
TEST(ImportFuzz, PerftestJson) { fuzz({"perftest.json", "perftest_lat.json", "perftest_old.json"}, "perftest-json"); }
TEST(ImportFuzz, Nvbandwidth) { fuzz({"nvbandwidth.txt"}, "nvbandwidth"); }
TEST(ImportFuzz, NvbandwidthJson) { fuzz({"nvbandwidth.json"}, "nvbandwidth-json"); }
TEST(ImportFuzz, LaneBench) { fuzz({"lane_bench.json"}, "lane-bench"); }

TEST(ImportFuzz, WhatImportWrote) {
  const std::string folder = std::string(LANE_SOURCE_DIR) + "/tests/net/import/";
  const std::string text = to_json(import_results(read_file(folder + "noise_mpirun_cut.txt"), "x")).dump(1);
  for (int i = 0; i < kMutations; ++i) try {
      import_results(damaged(text, hash_name("lane-import", static_cast<uint64_t>(i))), "damaged",
                     {.format = "lane-import"});
    } catch (const Error& error) {
      ASSERT_TRUE(error.code() == ErrorCode::kCorruptData || error.code() == ErrorCode::kInvalidArgument)
          << error.what();
    }
}

TEST(ImportFuzz, Thresholds) {
  const std::string text = read_file(std::string(LANE_SOURCE_DIR) + "/lane/net/thresholds.json");
  for (int i = 0; i < kMutations; ++i) try {
      parse_thresholds(damaged(text, hash_name("thresholds", static_cast<uint64_t>(i))), "damaged");
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kCorruptData) << error.what();
    }
}

}  // namespace
}  // namespace lane::net
