// The program on GPUs when things go wrong: a status, a sentence, an end in time, and nothing left behind.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "lane/base/file.h"
#include "tests/cli/gpu_program.h"
#include "tests/support/subprocess.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;
using test::count_gpus;
using test::in_child;
using test::kLane;
using test::Outcome;

const std::string kShapes = std::string(LANE_SOURCE_DIR) + "/bench/shapes/";
constexpr std::chrono::milliseconds kTimeout{5000};  // of waits; capturing graphs on the other rank takes its time, too

int64_t free_bytes(int gpu) {
  return in_child([&] { return device_info({DeviceKind::kCuda, gpu}).free_memory_bytes; });
}

std::vector<int> children_of(int pid) {
  std::vector<int> children;
  std::ifstream list("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children");
  for (int child; list >> child;) children.push_back(child);
  return children;
}

// What ranks took on their GPUs comes back, a moment after their processes are gone.
void expect_freed(int gpu, int64_t before) {
  constexpr int64_t kSlack = int64_t{256} << 20;  // a context of somebody else's, such as a monitor
  const auto deadline = Clock::now() + std::chrono::seconds(10);
  int64_t free = 0;
  while ((free = free_bytes(gpu)) < before - kSlack && Clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_GE(free, before - kSlack) << "GPU " << gpu;
}

// Nobody computes on a GPU any more, as far as this machine shows it.
void expect_no_process(const std::vector<int>& pids) {
  if (!file_exists("/usr/bin/nvidia-smi")) return;
  const Outcome list = test::run({"/usr/bin/nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"});
  for (const int pid : pids)
    EXPECT_EQ(("\n" + list.out).find("\n" + std::to_string(pid) + "\n"), std::string::npos) << list.out;
}

std::string many_prompts() {
  std::string many;
  for (int i = 0; i < 20000; ++i) many += "Who are you?\n";
  return many;
}

// Two ranks at a long task; `signal` reaches rank 1 `after` both are ready.
void harm_rank_1(int signal, std::chrono::milliseconds after, const std::string& must_say) {
  if (count_gpus() < 2) GTEST_SKIP() << "needs 2 GPUs; here are " << count_gpus();
  const int64_t before[] = {free_bytes(0), free_bytes(1)};
  std::vector<int> ranks;
  Clock::time_point ready{}, harmed;
  const Outcome outcome =
      test::run({kLane, "generate", "--device", "cuda", "--tp", "2", "--prompts", "/dev/stdin", "--ignore-eos",
                 "--max-tokens", "1000000", "--max-model-len", "1000", "--kv-cache-memory-bytes", "2G"},
                {.input = many_prompts(),
                 .environment = {{"LANE_TIMEOUT_MS", std::to_string(kTimeout.count())}},
                 .limit = std::chrono::seconds(120),
                 .sees_gpus = true,
                 .watch = [&](int pid, const std::string& err) {
                   if (ready == Clock::time_point{}) {
                     if (err.find("Maximum concurrency") == std::string::npos) return true;
                     ready = Clock::now();
                   }
                   if (Clock::now() < ready + after) return true;
                   ranks = children_of(pid);
                   EXPECT_EQ(ranks.size(), 2u);
                   if (ranks.size() == 2) ::kill(ranks[1], signal);
                   harmed = Clock::now();
                   return false;
                 }});
  const auto took = Clock::now() - harmed;
  ASSERT_EQ(ranks.size(), 2u) << outcome.err;
  EXPECT_NE(outcome.status, 0);
  EXPECT_LT(took, kTimeout + std::chrono::seconds(4)) << outcome.err;  // two of them the launcher's patience
  EXPECT_NE(outcome.err.find("rank 1"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find(must_say), std::string::npos) << outcome.err;
  for (const int rank : ranks) EXPECT_NE(::kill(rank, 0), 0) << "an orphan";
  for (const int gpu : {0, 1}) expect_freed(gpu, before[gpu]);
  expect_no_process(ranks);
}

TEST(GpuRanks, AKilledOneEndsTheJobAndIsNamed) { harm_rank_1(SIGKILL, std::chrono::seconds(2), "died"); }
TEST(GpuRanks, OneKilledAtTheFirstStepsEndsTheJob) { harm_rank_1(SIGKILL, std::chrono::milliseconds(0), "died"); }
TEST(GpuRanks, AStoppedOneEndsTheJobAndIsNamed) { harm_rank_1(SIGSTOP, std::chrono::seconds(2), "stopped"); }

TEST(GpuRanks, AModelThatDoesNotFitIsToldBeforeLoading) {
  if (count_gpus() < 1) GTEST_SKIP() << "needs a GPU";
  const auto start = Clock::now();
  const Outcome outcome = test::run({kLane, "bench", "latency", "--device", "cuda", "--model", kShapes + "llama-70b",
                                     "--load-format", "dummy", "--gpu-memory-utilization", "0.2"},
                                    {.sees_gpus = true});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(20));
  for (const char* word : {"GPU 0 (", "has too little memory: a rank needs", "(weights 131.4", "work space ",
                           "KV cache for ", "--gpu-memory-utilization is 0.2", "--tp 2"})
    EXPECT_NE(outcome.err.find(word), std::string::npos) << outcome.err;
}

TEST(GpuRanks, ACacheThatDoesNotFitIsToldByEveryRank) {
  if (count_gpus() < 2) GTEST_SKIP() << "needs 2 GPUs; here are " << count_gpus();
  const Outcome outcome = test::run({kLane, "generate", "--device", "cuda", "--tp", "2", "--prompt", "Who are you?",
                                     "--kv-cache-memory-bytes", "4000G"},
                                    {.sees_gpus = true});
  EXPECT_NE(outcome.status, 0);
  for (const char* word : {"[rank 0/2] error: ", "[rank 1/2] error: ", "has too little memory"})
    EXPECT_NE(outcome.err.find(word), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace lane
