// Two ranks on two GPUs, started by whatever starts ranks: the tokens of `--tp 2`.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <future>
#include <map>
#include <optional>
#include <sstream>

#include "lane/base/json.h"
#include "tests/cli/gpu_program.h"
#include "tests/support/subprocess.h"

namespace lane {
namespace {

using test::count_gpus;
using test::kLane;
using test::Outcome;
using Environment = std::map<std::string, std::string>;

constexpr std::chrono::seconds kLimit{120};

std::optional<std::string> find_in_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');)
    if (::access((folder + "/" + program).c_str(), X_OK) == 0) return folder + "/" + program;
  return std::nullopt;
}

class GpuLaunchers : public testing::Test {
 protected:
  void SetUp() override {
    if (count_gpus() < 2) GTEST_SKIP() << "needs 2 GPUs; here are " << count_gpus();
  }
};

std::vector<std::string> generate(std::vector<std::string> before = {}) {
  for (const char* word :
       {kLane.c_str(), "generate", "--device", "cuda", "--json", "--max-tokens", "24", "--max-model-len", "256",
        "--kv-cache-memory-bytes", "64M", "--prompt", "What is 17 + 25?", "--prompt", "Spell the word lantern."})
    before.push_back(word);
  return before;
}

Json token_ids(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  if (outcome.status != 0) return {};
  const Json all = parse_json(outcome.out, "standard output");
  EXPECT_EQ(all["num_ranks"], 2) << outcome.err;
  EXPECT_NE(outcome.err.find("ranks: 2 on "), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("a GPU each"), std::string::npos) << outcome.err;
  Json ids = Json::array();
  for (const Json& result : all["results"]) ids.push_back(result["token_ids"]);
  return ids;
}

Json tokens_of_tp_2() {
  std::vector<std::string> command = generate();
  command.insert(command.end(), {"--tp", "2"});
  const Json ids = token_ids(test::run(command, {.limit = kLimit, .sees_gpus = true}));
  EXPECT_EQ(ids.size(), 2u);
  for (const Json& each : ids) EXPECT_FALSE(each.empty());
  return ids;
}

// What `command`, which starts two ranks, prints.
Json tokens_of(const std::vector<std::string>& command, const Environment& environment = {}) {
  return token_ids(test::run(command, {.environment = environment, .limit = kLimit, .sees_gpus = true}));
}

// Two ranks side by side, each with its own variables.
Json tokens_of_ranks(const Environment& first, const Environment& second) {
  const auto start = [](const Environment& environment) {
    return test::run(generate(), {.environment = environment, .limit = kLimit, .sees_gpus = true});
  };
  std::future<Outcome> other = std::async(std::launch::async, start, second);
  const Outcome outcome = start(first);
  const Outcome silent = other.get();
  EXPECT_EQ(silent.status, 0) << silent.err;
  EXPECT_EQ(silent.out, "");
  return token_ids(outcome);
}

// What srun sets for a step of two tasks on one node.
Environment srun_variables(const std::string& rank) {
  return {{"SLURM_JOB_ID", std::to_string(::getpid())},
          {"SLURM_STEP_ID", "0"},
          {"SLURM_STEP_NUM_NODES", "1"},
          {"SLURM_STEP_TASKS_PER_NODE", "2"},
          {"SLURM_NTASKS", "2"},
          {"SLURM_NODEID", "0"},
          {"SLURM_PROCID", rank},
          {"SLURM_LOCALID", rank}};
}

TEST_F(GpuLaunchers, Mpirun) {
  const auto mpirun = find_in_path("mpirun");
  if (!mpirun) GTEST_SKIP() << "no mpirun on this machine";
  const Environment as_root = {{"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}};
  EXPECT_EQ(tokens_of(generate({*mpirun, "-np", "2"}), as_root), tokens_of_tp_2());
}

TEST_F(GpuLaunchers, Torchrun) {
  const auto torchrun = find_in_path("torchrun");
  if (!torchrun) GTEST_SKIP() << "no torchrun on this machine";
  EXPECT_EQ(tokens_of(generate({*torchrun, "--standalone", "--nproc-per-node", "2", "--no-python"})), tokens_of_tp_2());
}

TEST_F(GpuLaunchers, Srun) { EXPECT_EQ(tokens_of_ranks(srun_variables("0"), srun_variables("1")), tokens_of_tp_2()); }

// As under `srun --gpus-per-task=1`: each task sees its own GPU alone, as number 0.
TEST_F(GpuLaunchers, SrunThatShowsEachRankOneGpu) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible != nullptr) GTEST_SKIP() << "CUDA_VISIBLE_DEVICES=" << visible << " is there already";
  Environment ranks[] = {srun_variables("0"), srun_variables("1")};
  for (const int rank : {0, 1}) ranks[rank]["CUDA_VISIBLE_DEVICES"] = std::to_string(rank);
  EXPECT_EQ(tokens_of_ranks(ranks[0], ranks[1]), tokens_of_tp_2());
}

}  // namespace
}  // namespace lane
