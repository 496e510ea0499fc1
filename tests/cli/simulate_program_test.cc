// `lane plan simulate` as its users run it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "lane/base/file.h"
#include "lane/base/json.h"
#include "tests/support/subprocess.h"

namespace lane {
namespace {

using test::Outcome;

Outcome simulate(std::vector<std::string> arguments) {
  const std::vector<std::string> head = {LANE_BINARY, "plan", "simulate"};
  arguments.insert(arguments.begin(), head.begin(), head.end());
  return test::run(arguments, {});
}

Json json_of(std::vector<std::string> arguments) {
  arguments.push_back("--json");
  const Outcome outcome = simulate(arguments);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return parse_json(outcome.out, "standard output");
}

const std::vector<std::string> kStep = {"--preset", "h100-dgx-ndr", "--nodes", "4",          "--tp", "8", "--pp",
                                        "2",        "--batch",      "16",      "--replicas", "2"};

std::vector<std::string> with(std::vector<std::string> arguments, const std::vector<std::string>& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(PlanSimulate, PrintsAStepAndWritesItsTrace) {
  const std::string folder = testing::TempDir() + "lane_simulate_" + std::to_string(::getpid());
  std::filesystem::create_directories(folder);
  const Outcome outcome = simulate(with(kStep, {"--trace", folder + "/t.json", "--csv", folder + "/l.csv"}));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  for (const char* words : {"simulated", "by formula", "critical path", "all-reduce", "stage 1", "busiest links"})
    EXPECT_NE(outcome.out.find(words), std::string::npos) << outcome.out;
  double end_us = 0;
  const Json trace = parse_json(read_file(folder + "/t.json"), "t.json");
  for (const Json& event : trace["traceEvents"])
    if (event["ph"] == "X") end_us = std::max(end_us, event["ts"].get<double>() + event["dur"].get<double>());
  const double step_us = json_of(kStep)["simulated_s"].get<double>() * 1e6;
  EXPECT_GT(end_us, 0.95 * step_us) << "the tokens are still on their way back";
  EXPECT_LE(end_us, step_us + 1e-3);
  EXPECT_NE(read_file(folder + "/l.csv").find("\"n01/gpu0 nvlink out\","), std::string::npos);
  std::filesystem::remove_all(folder);
}

TEST(PlanSimulate, TroubleCostsTime) {
  const double even = json_of(kStep)["simulated_s"];
  EXPECT_GT(json_of(with(kStep, {"--slow", "3:1.5"}))["simulated_s"], 1.2 * even);
  EXPECT_GT(json_of(with(kStep, {"--cut-link", "n02/gpu1:0.01"}))["simulated_s"], 1.01 * even);
  EXPECT_EQ(json_of(with(kStep, {"--one-by-one"}))["simulated_s"], even);
}

TEST(PlanSimulate, RefusesWhatCannotBe) {
  const auto refused = [](const std::vector<std::string>& arguments, const std::string& words) {
    const Outcome outcome = simulate(arguments);
    EXPECT_NE(outcome.status, 0);
    EXPECT_NE(outcome.err.find(words), std::string::npos) << outcome.err;
  };
  refused({}, "--preset NAME");
  refused(with(kStep, {"--slow", "32:2"}), "ranks 0 to 31");
  refused(with(kStep, {"--slow", "1:0"}), "RANK:FACTOR");
  refused(with(kStep, {"--cut-link", "n99:0.5"}), "n01/gpu0 nvlink out");
  refused(with(kStep, {"--ranks", "4"}), "--collective");
  refused({"--preset", "h100-dgx-ndr", "--nodes", "1", "--tp", "16"}, "16 ranks");
}

}  // namespace
}  // namespace lane
