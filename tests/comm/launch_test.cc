#include "lane/comm/launch.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "lane/base/error.h"
#include "tests/comm/spawned.h"

namespace lane {
namespace {

// Sets variables for one test and hides those that a launcher of the test run itself may have set.
class LaunchedRankTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"RANK",
                             "WORLD_SIZE",
                             "LOCAL_RANK",
                             "LOCAL_WORLD_SIZE",
                             "MASTER_ADDR",
                             "MASTER_PORT",
                             "TORCHELASTIC_RUN_ID",
                             "TORCHELASTIC_RESTART_COUNT",
                             "OMPI_COMM_WORLD_RANK",
                             "OMPI_COMM_WORLD_SIZE",
                             "OMPI_COMM_WORLD_LOCAL_RANK",
                             "OMPI_COMM_WORLD_LOCAL_SIZE",
                             "OMPI_MCA_ess_base_jobid",
                             "OMPI_MCA_orte_hnp_uri",
                             "PMIX_NAMESPACE",
                             "PMI_RANK",
                             "PMI_SIZE",
                             "PMI_JOBID",
                             "PMI_PORT",
                             "MPI_LOCALRANKID",
                             "MPI_LOCALNRANKS",
                             "SLURM_PROCID",
                             "SLURM_NTASKS",
                             "SLURM_LOCALID",
                             "SLURM_JOB_ID",
                             "SLURM_STEP_ID",
                             "SLURM_STEP_NUM_NODES",
                             "LANE_JOB"})
      set(name, nullptr);
  }
  void TearDown() override {
    for (const auto& [name, value] : before_)
      value.empty() ? ::unsetenv(name.c_str()) : ::setenv(name.c_str(), value.c_str(), 1);
  }
  void set(const char* name, const char* value) {
    const char* old = std::getenv(name);
    before_.insert(before_.begin(), {name, old ? old : ""});
    value ? ::setenv(name, value, 1) : ::unsetenv(name);
  }
  void set_all(std::initializer_list<std::pair<const char*, const char*>> variables) {
    for (const auto& [name, value] : variables) set(name, value);
  }
  void expect_error(ErrorCode code, const std::string& words) {
    try {
      launched_rank();
      FAIL() << "wanted: " << words;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  }

 private:
  std::vector<std::pair<std::string, std::string>> before_;
};

TEST_F(LaunchedRankTest, NobodyLaunchedThis) {
  EXPECT_FALSE(launched_rank());
  set_all({{"SLURM_JOB_ID", "12"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}});
  EXPECT_FALSE(launched_rank()) << "a batch script is not a rank";
  set_all({{"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "1"}});
  EXPECT_FALSE(launched_rank()) << "nor is a shell of srun --pty";
}

TEST_F(LaunchedRankTest, Torchrun) {
  set_all({{"RANK", "2"},
           {"WORLD_SIZE", "4"},
           {"LOCAL_RANK", "2"},
           {"LOCAL_WORLD_SIZE", "4"},
           {"MASTER_ADDR", "localhost"},
           {"MASTER_PORT", "29500"},
           {"TORCHELASTIC_RUN_ID", "abc"}});
  const auto seat = launched_rank();
  ASSERT_TRUE(seat);
  EXPECT_EQ(seat->rank, 2);
  EXPECT_EQ(seat->size, 4);
  EXPECT_EQ(seat->local_rank, 2);
  EXPECT_EQ(seat->local_size, 4);
  EXPECT_EQ(seat->launcher, "torchrun");
  EXPECT_EQ(seat->job, "torchrun/abc/localhost/29500");
}

TEST_F(LaunchedRankTest, Lane) {
  set_all({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LANE_JOB", "xyz"}});
  const auto seat = launched_rank();
  ASSERT_TRUE(seat);
  EXPECT_EQ(seat->launcher, "lane");
  EXPECT_EQ(seat->job, "xyz");
  EXPECT_EQ(seat->local_size, 2);
}

TEST_F(LaunchedRankTest, OpenMpiInsideASlurmJob) {
  set_all({{"OMPI_COMM_WORLD_RANK", "3"},
           {"OMPI_COMM_WORLD_SIZE", "4"},
           {"OMPI_COMM_WORLD_LOCAL_RANK", "3"},
           {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
           {"PMIX_NAMESPACE", "77.1"},
           {"SLURM_PROCID", "0"},
           {"SLURM_NTASKS", "9"},
           {"SLURM_STEP_ID", "0"}});
  const auto seat = launched_rank();
  ASSERT_TRUE(seat);
  EXPECT_EQ(seat->rank, 3);
  EXPECT_EQ(seat->launcher, "Open MPI");
  EXPECT_EQ(seat->job, "Open MPI/77.1");
}

TEST_F(LaunchedRankTest, Mpich) {
  set_all({{"PMI_RANK", "0"},
           {"PMI_SIZE", "2"},
           {"MPI_LOCALRANKID", "0"},
           {"MPI_LOCALNRANKS", "2"},
           {"PMI_PORT", "host:4711"}});
  const auto seat = launched_rank();
  ASSERT_TRUE(seat);
  EXPECT_EQ(seat->launcher, "PMI");
  EXPECT_EQ(seat->job, "PMI/host:4711");
}

TEST_F(LaunchedRankTest, Slurm) {
  set_all({{"SLURM_PROCID", "1"},
           {"SLURM_NTASKS", "2"},
           {"SLURM_LOCALID", "1"},
           {"SLURM_JOB_ID", "12"},
           {"SLURM_STEP_ID", "3"},
           {"SLURM_STEP_NUM_NODES", "1"}});
  const auto seat = launched_rank();
  ASSERT_TRUE(seat);
  EXPECT_EQ(seat->launcher, "Slurm");
  EXPECT_EQ(seat->job, "Slurm/12/3");
  set("SLURM_STEP_NUM_NODES", "2");
  expect_error(ErrorCode::kUnsupported, "several hosts");
}

TEST_F(LaunchedRankTest, SeveralHosts) {
  set_all({{"RANK", "5"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "4"}, {"LANE_JOB", "x"}});
  expect_error(ErrorCode::kUnsupported, "torchrun started 8 ranks on several hosts");
}

TEST_F(LaunchedRankTest, Contradictions) {
  set("RANK", "1");
  expect_error(ErrorCode::kInvalidArgument, "RANK is set but WORLD_SIZE is not");
  set("WORLD_SIZE", "1");
  expect_error(ErrorCode::kInvalidArgument, "RANK=1 and WORLD_SIZE=1 contradict each other");
  set("WORLD_SIZE", "two");
  expect_error(ErrorCode::kInvalidArgument, "WORLD_SIZE=two");
  set("WORLD_SIZE", "2");
  expect_error(ErrorCode::kInvalidArgument, "nothing names the job");
  set_all({{"LANE_JOB", "x"}, {"LOCAL_RANK", "3"}});
  expect_error(ErrorCode::kInvalidArgument, "local rank 3 of 2");
}

TEST_F(LaunchedRankTest, MpirunForReal) {
  if (std::system("command -v mpirun >/dev/null 2>&1") != 0) GTEST_SKIP() << "no mpirun here";
  Spawned job({"mpirun", "--oversubscribe", "-n", "3", LANE_RANK_MAIN, "ok", "3", "-1"},
              {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"});
  const auto result = job.wait();
  EXPECT_EQ(result.status, 0) << result.text;
  for (const char* line : {"rank 0 of 3 done", "rank 1 of 3 done", "rank 2 of 3 done"})
    EXPECT_NE(result.text.find(line), std::string::npos) << result.text;
}

}  // namespace
}  // namespace lane
