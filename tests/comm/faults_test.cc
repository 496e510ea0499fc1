// What happens to a job of processes when one of them fails: every other one ends in time, with a line that names it,
// and nothing is left behind.
#include <dirent.h>
#include <gtest/gtest.h>

#include "tests/comm/spawned.h"

namespace lane {
namespace {

using std::chrono::milliseconds;

constexpr int kTimeoutMs = 1500;

int num_leftovers() {
  int count = 0;
  DIR* folder = ::opendir("/dev/shm");
  if (folder == nullptr) return 0;
  while (const dirent* entry = ::readdir(folder)) count += std::string(entry->d_name).find("lane") != std::string::npos;
  ::closedir(folder);
  return count;
}

// A job of `num_ranks` in which `victim` does what the scenario says.
Spawned::Result run_job(const std::string& scenario, int num_ranks, int victim, const std::string& input = "") {
  Spawned job({LANE_RANK_MAIN, scenario, std::to_string(num_ranks), std::to_string(victim), std::to_string(kTimeoutMs)},
              {"LANE_TIMEOUT_MS=" + std::to_string(kTimeoutMs)}, input);
  const Spawned::Result result = job.wait();
  EXPECT_TRUE(result.ended) << "a process is left:\n" << result.text;
  EXPECT_EQ(num_leftovers(), 0);
  return result;
}

int count(const std::string& text, const std::string& wanted) {
  int count = 0;
  for (size_t at = text.find(wanted); at != std::string::npos; at = text.find(wanted, at + 1)) ++count;
  return count;
}

// All ranks but the victim failed, each with a line that contains `words` and the victim's name.
void expect_survivors_say(const Spawned::Result& result, int num_ranks, int victim, const std::string& words) {
  const std::string name = "rank " + std::to_string(victim) + " (pid ";
  for (int rank = 0; rank < num_ranks; ++rank) {
    if (rank == victim) continue;
    const std::string start = "rank " + std::to_string(rank) + " failed";
    const size_t at = result.text.find(start);
    ASSERT_NE(at, std::string::npos) << "nothing from rank " << rank << ":\n" << result.text;
    const std::string line = result.text.substr(at, result.text.find('\n', at) - at);
    EXPECT_NE(line.find(name), std::string::npos) << line;
    EXPECT_NE(line.find(words), std::string::npos) << line;
  }
}

TEST(Job, RunsAndOnlyRankZeroHasInput) {
  for (const int num_ranks : {1, 2, 5}) {
    const auto result = run_job("ok", num_ranks, -1, "input");
    EXPECT_EQ(result.status, 0) << result.text;
    EXPECT_EQ(count(result.text, " done"), num_ranks) << result.text;
    EXPECT_EQ(count(result.text, "rank 0 of " + std::to_string(num_ranks) + " done, with input"), 1) << result.text;
    EXPECT_EQ(count(result.text, "with input"), 1) << result.text;
  }
}

TEST(Fault, Killed) {
  for (const int victim : {0, 1, 2}) {
    const auto result = run_job("kill", 3, victim);
    EXPECT_EQ(result.status, 128 + SIGKILL) << result.text;
    expect_survivors_say(result, 3, victim, "died after #51");
    EXPECT_EQ(count(result.text, "\n"), 2) << "one line per survivor:\n" << result.text;
    EXPECT_LT(result.seconds, kTimeoutMs * 1e-3) << "a death is noticed, not waited for";
  }
}

TEST(Fault, KilledInTheMiddleOfAMessage) {
  const auto result = run_job("kill_in_message", 3, 1);
  EXPECT_EQ(result.status, 128 + SIGKILL) << result.text;
  expect_survivors_say(result, 3, 1, "died");
}

TEST(Fault, Stopped) {
  for (const int victim : {0, 2}) {
    const auto result = run_job("stop", 3, victim);
    EXPECT_EQ(result.status, 1) << result.text;
    expect_survivors_say(result, 3, victim, "");
    EXPECT_EQ(count(result.text, "stopped?"), 2) << result.text;
    EXPECT_LT(result.seconds, kTimeoutMs * 1e-3 + 1) << "the launcher ends the stopped one";
  }
}

TEST(Fault, Throws) {
  const auto result = run_job("throw", 3, 1);
  EXPECT_EQ(result.status, 1) << result.text;
  expect_survivors_say(result, 3, 1, "gave up: layer 3 is missing");
  EXPECT_LT(result.seconds, kTimeoutMs * 1e-3);
}

TEST(Fault, ExitsWithoutAWord) {
  const auto result = run_job("exit", 3, 2);
  EXPECT_EQ(result.status, 1) << result.text;
  expect_survivors_say(result, 3, 2, "died after #51");
}

TEST(Fault, LeavesWhileOthersWait) {
  for (const int victim : {0, 1}) {
    const auto result = run_job("leave", 3, victim);
    EXPECT_EQ(result.status, 1) << result.text;
    expect_survivors_say(result, 3, victim, "has left the job");
  }
}

TEST(Fault, IsElsewhere) {
  const auto result = run_job("elsewhere", 2, 1);
  EXPECT_EQ(result.status, 1) << result.text;
  expect_survivors_say(result, 2, 1, "which is after #51, in all_reduce #52, step 1");
  EXPECT_EQ(count(result.text, "killed, because it did not end"), 1) << result.text;
}

TEST(Fault, CallsSomethingElse) {
  auto result = run_job("wrong_size", 3, 1);
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(count(result.text, "of 308 B of float32 (sum)"), 3) << result.text;
  EXPECT_EQ(count(result.text, "of 4000 B of float32 (sum)"), 3) << result.text;

  result = run_job("wrong_dtype", 3, 1);
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(count(result.text, "of 4000 B of bfloat16 (sum)"), 3) << result.text;

  result = run_job("wrong_collective", 3, 2);
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(count(result.text, "barrier #52"), 3) << result.text;

  result = run_job("wrong_algorithm", 2, 1);
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(count(result.text, "with another algorithm than rank"), 2) << result.text;
}

TEST(Fault, SlowIsNotDead) {
  const auto result = run_job("slow", 3, 1);
  EXPECT_EQ(result.status, 0) << result.text;
  EXPECT_EQ(count(result.text, " done"), 3) << result.text;
}

TEST(Interrupt, ReachesRankZeroWhichEndsAll) {
  for (const int number : {SIGINT, SIGTERM}) {
    Spawned job({LANE_RANK_MAIN, "interrupt", "3", "-1"});
    ASSERT_TRUE(job.read_until("ready", milliseconds(20'000))) << job.text();
    ::kill(job.pid(), number);
    const auto result = job.wait();
    ASSERT_TRUE(result.ended) << result.text;
    EXPECT_EQ(result.status, 0) << result.text;
    EXPECT_EQ(count(result.text, " ended"), 3) << result.text;
  }
}

TEST(Launcher, TakesItsRanksAlong) {
  Spawned job({LANE_RANK_MAIN, "interrupt", "3", "-1"});
  ASSERT_TRUE(job.read_until("ready", milliseconds(20'000))) << job.text();
  ::kill(job.pid(), SIGKILL);
  const auto result = job.wait();
  EXPECT_TRUE(result.ended) << "its ranks live on:\n" << result.text;
  EXPECT_EQ(result.status, 128 + SIGKILL);
}

}  // namespace
}  // namespace lane
