// Several ranks as processes of this machine: same answers, and an end to every failure.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "lane/base/file.h"
#include "lane/base/json.h"
#include "tests/support/subprocess.h"

namespace lane {
namespace {

using test::Outcome;

const std::string kLane = LANE_BINARY;

std::vector<std::string> generate(std::vector<std::string> more) {
  more.insert(more.begin(), {kLane, "generate", "--threads", "1"});
  return more;
}

Json token_ids(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  Json ids = Json::array();
  const Json all = parse_json(outcome.out, "standard output");
  for (const Json& result : all["results"]) ids.push_back(result["token_ids"]);
  return ids;
}

// Children of `pid`, by number; ranks are started in order.
std::vector<int> children_of(int pid) {
  std::vector<int> children;
  std::ifstream list("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children");
  for (int child; list >> child;) children.push_back(child);
  return children;
}

bool alive(int pid) { return ::kill(pid, 0) == 0; }

const std::vector<std::string> kPrompts = {"--prompt", "What is 17 + 25?", "--prompt", "Spell the word lantern.",
                                           "--prompt", "Who are you?"};

TEST(Ranks, AnswerAsOneDoes) {
  std::vector<std::string> arguments = kPrompts;
  arguments.push_back("--json");
  const Json one = token_ids(test::run(generate(arguments)));
  for (const char* ranks : {"2", "4"}) {
    std::vector<std::string> more = arguments;
    more.insert(more.end(), {"--tp", ranks});
    EXPECT_EQ(token_ids(test::run(generate(more))), one) << ranks << " ranks";
  }
}

TEST(Ranks, TheBreakdownAndTheTraceCoverAllOfThem) {
  const std::string trace = testing::TempDir() + "lane_ranks_trace_" + std::to_string(::getpid());
  const Outcome outcome =
      test::run(generate({"--prompt", "Who are you?", "--tp", "2", "--breakdown", "--trace", trace}));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("over 2 ranks"), std::string::npos) << outcome.err;
  const Json events = parse_json(read_file(trace), trace)["traceEvents"];
  for (const int rank : {0, 1}) {
    bool communicates = false;
    for (const Json& event : events) communicates |= event["pid"] == rank && event.value("cat", "") == "communication";
    EXPECT_TRUE(communicates) << "rank " << rank;
  }
  std::filesystem::remove(trace);
}

TEST(Ranks, ABenchmarkLeavesItsWarmUpOutOnAllOfThem) {
  const Outcome outcome =
      test::run({kLane, "bench", "latency", "--threads", "1", "--tp", "2", "--batch-size", "1", "--input-len", "4",
                 "--output-len", "5", "--num-iters-warmup", "2", "--num-iters", "3", "--json"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json numbers = parse_json(outcome.out, "standard output");
  EXPECT_EQ(numbers["num_ranks"], 2);
  EXPECT_EQ(numbers["breakdown"]["decode"]["num_steps"], 3 * 4);
  EXPECT_EQ(numbers["breakdown"]["prefill"]["num_steps"], 3);
}

TEST(Ranks, JoinAWorldThatMpirunStarted) {
  if (!file_exists("/usr/bin/mpirun")) GTEST_SKIP() << "no mpirun on this machine";
  std::vector<std::string> arguments = kPrompts;
  arguments.push_back("--json");
  const Json one = token_ids(test::run(generate(arguments)));
  std::vector<std::string> command = {"/usr/bin/mpirun", "--oversubscribe", "-np", "2"};
  for (const std::string& word : generate(arguments)) command.push_back(word);
  EXPECT_EQ(token_ids(test::run(
                command, {.environment = {{"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}}})),
            one);
}

TEST(Ranks, JoinAWorldThatTorchrunWouldStart) {
  // Two ranks by hand, with the variables of torchrun; a thread runs rank 1.
  const std::map<std::string, std::string> common = {
      {"WORLD_SIZE", "2"},
      {"LOCAL_WORLD_SIZE", "2"},
      {"MASTER_ADDR", "127.0.0.1"},
      {"MASTER_PORT", std::to_string(20000 + ::getpid() % 20000)},
      {"TORCHELASTIC_RUN_ID", "lane-test-" + std::to_string(::getpid())}};
  const auto start = [&](const char* rank) {
    std::map<std::string, std::string> environment = common;
    environment["RANK"] = environment["LOCAL_RANK"] = rank;
    return test::run(generate({"--prompt", "Who are you?", "--json"}), {.environment = environment});
  };
  Outcome second;
  std::thread other([&] { second = start("1"); });
  const Outcome first = start("0");
  other.join();
  EXPECT_EQ(second.status, 0) << second.err;
  EXPECT_EQ(second.out, "");
  EXPECT_EQ(token_ids(first), token_ids(test::run(generate({"--prompt", "Who are you?", "--json"}))));
}

// Runs two ranks on a long task, does `harm` to rank 1 once both are at work, and checks that all is over in time.
void harm_rank_1(int signal, const std::string& must_say) {
  std::vector<int> ranks;
  std::chrono::steady_clock::time_point harmed;
  const Outcome outcome = test::run(generate({"--prompt", "Who are you?", "--ignore-eos", "--max-tokens", "1000000",
                                              "--max-model-len", "1000", "--tp", "2", "--prompts", "/dev/stdin"}),
                                    {.input =
                                         [] {
                                           std::string many;
                                           for (int i = 0; i < 2000; ++i) many += "Who are you?\n";
                                           return many;
                                         }(),
                                     .environment = {{"LANE_TIMEOUT_MS", "1500"}},
                                     .limit = std::chrono::seconds(60),
                                     .watch =
                                         [&](int pid, const std::string& err) {
                                           if (err.find("Maximum concurrency") == std::string::npos)
                                             return true;  // not at work yet
                                           ranks = children_of(pid);
                                           EXPECT_EQ(ranks.size(), 2u);
                                           if (ranks.size() == 2) ::kill(ranks[1], signal);
                                           harmed = std::chrono::steady_clock::now();
                                           return false;
                                         }});
  EXPECT_NE(outcome.status, 0);
  EXPECT_LT(std::chrono::steady_clock::now() - harmed, std::chrono::seconds(10)) << outcome.err;
  EXPECT_NE(outcome.err.find("rank 1"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(must_say), std::string::npos) << outcome.err;
  for (const int rank : ranks) EXPECT_FALSE(alive(rank)) << "an orphan";
}

TEST(Ranks, AKilledRankEndsTheJobAndIsNamed) { harm_rank_1(SIGKILL, "died"); }
TEST(Ranks, AStoppedRankEndsTheJobAndIsNamed) { harm_rank_1(SIGSTOP, "stopped"); }

TEST(Ranks, KillingTheLauncherLeavesNoOrphan) {
  std::vector<int> ranks;
  const Outcome outcome =
      test::run(generate({"--prompt", "Who are you?", "--ignore-eos", "--max-tokens", "900", "--tp", "2"}),
                {.watch = [&](int pid, const std::string& err) {
                  if (err.find("Maximum concurrency") == std::string::npos) return true;
                  ranks = children_of(pid);
                  ::kill(pid, SIGKILL);
                  return false;
                }});
  EXPECT_EQ(outcome.status, 128 + SIGKILL);
  ASSERT_EQ(ranks.size(), 2u);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while ((alive(ranks[0]) || alive(ranks[1])) && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_FALSE(alive(ranks[0]) || alive(ranks[1]));
}

TEST(Ranks, AnInterruptKeepsWhatIsFinished) {
  const std::string output = testing::TempDir() + "lane_interrupted_" + std::to_string(::getpid());
  std::string prompts = "{\"prompt\": \"What is 3 + 4?\"}\n";
  for (int i = 0; i < 400; ++i)
    prompts += "{\"prompt\": \"Who are you?\", \"ignore_eos\": true, \"max_tokens\": 900}\n";
  const Outcome outcome = test::run(generate({"--prompts", "-", "--output", output, "--tp", "2"}),
                                    {.input = prompts, .watch = [&](int pid, const std::string&) {
                                       if (!file_exists(output) || read_file(output).empty()) return true;
                                       ::kill(pid, SIGINT);  // the first answer is there
                                       return false;
                                     }});
  EXPECT_EQ(outcome.status, 130) << outcome.err;
  std::ifstream file(output);
  int num_lines = 0;
  for (std::string line; std::getline(file, line); ++num_lines) EXPECT_NO_THROW(parse_json(line, output));
  EXPECT_GE(num_lines, 1);
  EXPECT_LT(num_lines, 401);
  std::filesystem::remove(output);
}

}  // namespace
}  // namespace lane
