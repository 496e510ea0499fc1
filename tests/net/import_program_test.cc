// `lane bench import` and `lane tune nccl` as their users run them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "lane/base/file.h"
#include "lane/base/json.h"
#include "tests/support/subprocess.h"

namespace lane {
namespace {

using test::Outcome;
const std::string kFolder = std::string(LANE_SOURCE_DIR) + "/tests/net/import/";

Outcome import(std::vector<std::string> arguments, const std::string& input = "") {
  std::vector<std::string> command = {LANE_BINARY, "bench", "import"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return test::run(command, {.input = input});
}

class ImportProgram : public testing::Test {
 protected:
  std::string folder_ = testing::TempDir() + "lane_import_" + std::to_string(::getpid());
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string put(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + "/" + name) << text;
    return folder_ + "/" + name;
  }
};

TEST_F(ImportProgram, ReadsAFileOrStandardInput) {
  const Outcome file = import({kFolder + "era3_all_reduce.txt"});
  EXPECT_EQ(file.status, 0) << file.out << file.err;
  EXPECT_NE(file.out.find("16 ranks on 2 nodes"), std::string::npos) << file.out;
  EXPECT_NE(file.out.find("ok: 14 rows"), std::string::npos) << file.out;
  const Outcome input = import({"-"}, read_file(kFolder + "noise_srun.txt"));
  EXPECT_EQ(input.status, 0) << input.err;
  EXPECT_NE(input.out.find("# standard input: nccl-tests"), std::string::npos);
  EXPECT_EQ(input.out.find('\x1b'), std::string::npos) << "no colour without a terminal";
}

TEST_F(ImportProgram, RejectedRowsAndFailuresAreTold) {
  const Outcome misread = import({kFolder + "misread.txt"});
  EXPECT_EQ(misread.status, 1);
  EXPECT_NE(misread.out.find("misread.txt:19: algbw"), std::string::npos) << misread.out;
  EXPECT_EQ(import({kFolder + "failure.txt"}).status, 1);
  EXPECT_EQ(import({kFolder + "sides_and_failed.txt"}).status, 1);
}

TEST_F(ImportProgram, WrongUsageIsTwo) {
  EXPECT_EQ(import({}).status, 2);
  EXPECT_EQ(import({kFolder + "misread.txt", "--format", "foo"}).status, 2);
  EXPECT_EQ(import({kFolder + "misread.txt", "--noise", "lots"}).status, 2);
  const Outcome platform = import({kFolder + "era3_all_reduce.txt", "--platform", "dgx-9"});
  EXPECT_EQ(platform.status, 2);
  EXPECT_NE(platform.err.find("nd-h100-v5"), std::string::npos) << platform.err;
  EXPECT_EQ(import({folder_ + "/missing.txt"}).status, 1);
}

TEST_F(ImportProgram, ThresholdsOfAPlatform) {
  const std::string file = put("log.txt", read_file(kFolder + "era3_timestamps.txt"));
  const Outcome unfit = import({file, "--platform", "nd-h100-v5"});
  EXPECT_EQ(unfit.status, 1) << "nothing of it was measured on one node";
  EXPECT_NE(unfit.out.find("not measured"), std::string::npos) << unfit.out;
  const std::string entry =
      R"({"schema": 1, "thresholds": [{"platform": "ours", "title": "our cluster", "test": "all_reduce",
    "metric": "busbw_gb_per_s", "nodes": 2, "bytes": 17179869184, "at_least": LIMIT, "source": "us/acceptance"}]})";
  const auto limited = [&](const std::string& limit) {
    std::string text = entry;
    return put("ours.json", text.replace(text.find("LIMIT"), 5, limit));
  };
  const Outcome pass = import({file, "--thresholds", limited("400")});
  EXPECT_EQ(pass.status, 0) << pass.out;
  EXPECT_NE(pass.out.find("us/acceptance"), std::string::npos) << "a figure names its source";
  EXPECT_EQ(import({file, "--thresholds", limited("403")}).status, 1);
}

TEST_F(ImportProgram, OnlyASlowdownFails) {
  const std::string before = kFolder + "nccl_tests_per_iteration.json";
  const auto times = [&](double by) {
    Json json = parse_json(read_file(before), "x");
    for (Json& result : json["results"])
      for (const std::string side : {"out_of_place", "in_place"}) {
        for (Json& time : result[side + "_per_iter"]["times_us"]) time = time.get<double>() * by;
        result[side]["time"] = result[side]["time"].get<double>() * by;
        for (const char* rate : {"alg_bw", "bus_bw"}) result[side][rate] = result[side][rate].get<double>() / by;
      }
    return put("now.json", json.dump());
  };
  EXPECT_EQ(import({times(1.0), "--baseline", before}).status, 0);
  EXPECT_EQ(import({times(0.9), "--baseline", before}).status, 0) << "faster is healthy";
  const Outcome slower = import({times(1.05), "--baseline", before});
  EXPECT_EQ(slower.status, 1);
  EXPECT_NE(slower.out.find("SLOWER"), std::string::npos) << slower.out;
  EXPECT_EQ(import({times(1.05), "--baseline", before, "--noise", "10%"}).status, 0);
  const Outcome single = import({kFolder + "noise_srun.txt", "--baseline", kFolder + "noise_mpich.txt"});
  EXPECT_EQ(single.status, 2);
  EXPECT_NE(single.err.find("--noise 5%"), std::string::npos) << single.err;
  EXPECT_EQ(import({kFolder + "noise_srun.txt", "--baseline", kFolder + "noise_mpich.txt", "--noise", "5%"}).status, 0);
  const Outcome other = import({kFolder + "noise_srun.txt", "--baseline", before, "--noise", "5%"});
  EXPECT_EQ(other.status, 1) << "nothing in common";
  EXPECT_NE(other.out.find("only in the baseline: all_reduce 16.00 KiB bfloat16"), std::string::npos) << other.out;
}

TEST_F(ImportProgram, ManyRunsAreTheirMediansAndSettingsAreNotMixed) {
  std::vector<std::string> files;
  for (int i = 0; i < 5; ++i) files.push_back(kFolder + "nccl_tests.json");
  const Outcome summary = import(files);
  EXPECT_EQ(summary.status, 0) << summary.err;
  EXPECT_NE(summary.out.find("NCCL_ALGO=Ring NCCL_PROTO=LL, 5 runs"), std::string::npos) << summary.out;
  EXPECT_NE(summary.out.find("        5     19.00 us     19.00 us     19.00 us  all_reduce 16.00 KiB"),
            std::string::npos)
      << summary.out;
  std::string text = read_file(kFolder + "nccl_tests.json");
  text.replace(text.find("NCCL_ALGO=Ring"), 14, "NCCL_ALGO=Tree");
  const Outcome mixed = import({files[0], put("tree.json", text), "--baseline", files[0], "--noise", "1%"});
  EXPECT_EQ(mixed.status, 2);
  EXPECT_NE(mixed.err.find("one setting at a time"), std::string::npos) << mixed.err;
}

TEST_F(ImportProgram, JsonIsABaselineAgainAndThePictureIsOne) {
  const Outcome json = import({kFolder + "nccl_tests.json", "--json", "--svg", folder_ + "/times.svg"});
  EXPECT_EQ(json.status, 0) << json.err;
  EXPECT_EQ(parse_json(json.out, "out")["schema"], 1);
  EXPECT_EQ(json.out.find("do-not-keep"), std::string::npos);
  const std::string baseline = put("baseline.json", json.out);
  EXPECT_EQ(import({kFolder + "nccl_tests.json", "--baseline", baseline, "--noise", "1%"}).status, 0);
  const std::string svg = read_file(folder_ + "/times.svg");
  EXPECT_NE(svg.find("all_reduce of bfloat16 among 8 ranks on 1 node"), std::string::npos);
  EXPECT_NE(svg.find("prefers-color-scheme: dark"), std::string::npos);
}

TEST_F(ImportProgram, TuneSaysHowToMeasure) {
  const Outcome none = test::run({LANE_BINARY, "tune", "nccl"});
  EXPECT_EQ(none.status, 2);
  EXPECT_NE(none.err.find("lane bench nccl --ranks 16"), std::string::npos) << none.err;
  const Outcome lonely = test::run({LANE_BINARY, "tune", "nccl", "--from", kFolder + "nccl_tests.json"});
  EXPECT_EQ(lonely.status, 1) << "a forced run alone";
  EXPECT_NE(lonely.err.find("NCCL's own choice was not measured"), std::string::npos) << lonely.err;
}

TEST_F(ImportProgram, ScriptsAreWrittenForPeopleToStart) {
  const Outcome shown = test::run({LANE_BINARY, "bench", "nccl", "--ranks", "16", "--model", "qwen3-32b"});
  EXPECT_EQ(shown.status, 0) << shown.err;
  EXPECT_NE(shown.out.find("-b 10240 -e 655360 -f 2"), std::string::npos) << "hidden size 5120";
  const std::string path = folder_ + "/run.sh";
  const Outcome written = test::run({LANE_BINARY, "bench", "nccl", "--ranks", "16", "--launcher", "srun", "--hosts",
                                     "n[01-02]", "--for-tune", "--script", path});
  EXPECT_EQ(written.status, 0) << written.err;
  EXPECT_NE(read_file(path).find("--nodelist='n01,n02'"), std::string::npos);
  EXPECT_EQ(test::run({"/bin/bash", path, "-n"}).status, 0);
  EXPECT_EQ(test::run({LANE_BINARY, "bench", "nccl", "--ranks", "1"}).status, 2);
}

}  // namespace
}  // namespace lane
