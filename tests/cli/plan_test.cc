// `lane plan` as its users run it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <numeric>

#include "lane/base/file.h"
#include "lane/base/json.h"
#include "tests/support/subprocess.h"

namespace lane {
namespace {

using test::Outcome;

Outcome plan(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {LANE_BINARY, "plan"});
  return test::run(arguments);
}

Json json_of(std::vector<std::string> arguments) {
  arguments.emplace_back("--json");
  const Outcome outcome = plan(std::move(arguments));
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return parse_json(outcome.out, "standard output");
}

TEST(Plan, PrintsWhereAStepsTimeGoes) {
  const Outcome outcome = plan({"--model", "llama-3-70b", "--preset", "h100-dgx-ndr", "--nodes", "2", "--tp", "16",
                                "--batch", "16", "--input-len", "2048", "--output-len", "256"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  for (const char* part : {"TP 16 x PP 1 x 1 replica = 16 of 16 H100", "decode step", "prefill", "matmul", "attention",
                           "all-reduce nvlink", "all-reduce leaf", "datasheet", "extrapolated",
                           "memory of a rank: weights 8.37 GiB", "first token after", "tokens/s while decoding",
                           "More than one NVLink domain costs", "takes most of a decode step"})
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part << "\n" << outcome.out;
  EXPECT_EQ(outcome.out.find('\x1b'), std::string::npos);
}

TEST(Plan, JsonAddsUp) {
  const Json json = json_of({"--model", "llama-3-70b", "--preset", "perlmutter-a100-slingshot", "--nodes", "16", "--tp",
                             "4", "--pp", "8", "--replicas", "2", "--batch", "8"});
  EXPECT_EQ(json["schema"], 1);
  EXPECT_EQ(json["num_gpus"], 64);
  EXPECT_EQ(json["plan"], (Json{{"tensor", 4}, {"pipeline", 8}, {"replicas", 2}}));
  for (const char* phase : {"decode", "prefill"}) {
    double sum = 0;
    for (const Json& row : json[phase]["rows"]) {
      sum += row["seconds"].get<double>();
      EXPECT_LE(row["low_s"], row["high_s"]);
      EXPECT_FALSE(row["class"].get<std::string>().empty());
    }
    const double total = json[phase]["total"]["seconds"];
    EXPECT_NEAR(sum, total, 1e-9 * total) << phase;
  }
  EXPECT_DOUBLE_EQ(json["tokens_per_s"]["total"], 2 * json["tokens_per_s"]["replica"].get<double>());
  EXPECT_LE(json["memory"]["total_bytes"], json["memory"]["available_bytes"]);
}

TEST(Plan, TakesAConfigAndATopologyFile) {
  const std::string folder = testing::TempDir() + "lane_plan_" + std::to_string(::getpid());
  std::filesystem::create_directories(folder);
  const std::string file = folder + "/two.json";
  write_file(file, R"({"schema": 1, "name": "two", "hosts": [{"names": "n[1-2]", "gpus": [
    {"index": 0, "name": "NVIDIA H200", "sm": 90, "memory_bytes": 150000000000, "num_nvlinks": 18},
    {"index": 1, "name": "NVIDIA H200", "sm": 90, "memory_bytes": 150000000000, "num_nvlinks": 18}],
    "nics": [{"name": "mlx5_0", "kind": "infiniband", "ports": [{"gbit_per_s": 400}]}]}]})");
  const std::string config = std::string(LANE_SOURCE_DIR) + "/models/demo/config.json";
  const Json json = json_of({"--config", config, "--topology", file, "--tp", "2"});
  EXPECT_EQ(json["topology"], "two");
  EXPECT_EQ(json["gpu"], "H200");
  EXPECT_EQ(json["decode"]["all_reduce"]["algorithm"], "lane") << "measured on two H200";
  write_file(folder + "/doctor.json", "{\"findings\": [], \"topology\": " + read_file(file) + "}");
  EXPECT_EQ(json_of({"--config", config, "--topology", folder + "/doctor.json", "--tp", "2"})["topology"], "two");
  std::filesystem::remove_all(folder);
}

TEST(Plan, SweepsAndDraws) {
  const std::string file = testing::TempDir() + "lane_sweep_" + std::to_string(::getpid()) + ".svg";
  const Outcome outcome = plan(
      {"--model", "llama-3-8b", "--preset", "a100-dgx-hdr", "--nodes", "2", "--batch", "8", "--sweep", "--svg", file});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("plans fit"), std::string::npos) << outcome.out;
  EXPECT_NE(read_file(file).find("</svg>"), std::string::npos);
  std::filesystem::remove(file);
  const Json json = json_of({"--model", "llama-3-8b", "--preset", "a100-dgx-hdr", "--sweep"});
  EXPECT_GT(json["plans"].size(), 20u);
  EXPECT_TRUE(json["plans"][0]["is_best"]);
}

TEST(Plan, SaysWhatIsWrong) {
  const auto fails = [](std::vector<std::string> arguments, const std::string& words) {
    const Outcome outcome = plan(std::move(arguments));
    EXPECT_NE(outcome.status, 0);
    EXPECT_NE(outcome.err.find(words), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  };
  const std::vector<std::string> model = {"--model", "llama-3-70b"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), model.begin(), model.end());
    return more;
  };
  fails(with({}), "give one of --topology FILE");
  fails(with({"--preset", "dgx-9000"}), "h100-dgx-ndr");
  fails(with({"--preset", "h100-dgx-ndr", "--tp", "1"}), "does not fit");
  fails(with({"--preset", "h100-dgx-ndr", "--tp", "64"}), "there are 32 free GPUs");
  fails(with({"--preset", "h100-dgx-ndr", "--tp", "6"}), "legal tensor-parallel sizes");
  fails(with({"--preset", "h100-dgx-ndr", "--tp", "16", "--collectives", "measured"}), "no table has an all-reduce");
  fails(with({"--topology", "/nowhere.json"}), "/nowhere.json");
  fails(with({"--preset", "h100-dgx-ndr", "--svg", "x.svg"}), "--sweep");
  fails({"--preset", "h100-dgx-ndr"}, "--model is missing");
}

TEST(Plan, ItsSubcommandsStayWhatTheyWere) {
  EXPECT_EQ(plan({"schedule", "--list", "--nodes", "2", "--ranks-per-node", "2"}).status, 0);
  EXPECT_NE(plan({"--help"}).out.find("docs/planning.md"), std::string::npos);
}

}  // namespace
}  // namespace lane
