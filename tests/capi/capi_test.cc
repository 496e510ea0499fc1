// The C interface, from a C program whose ranks are processes; and the examples.
#include <gtest/gtest.h>

#include <cstdlib>

#include "lane/capi/lane.h"
#include "tests/comm/spawned.h"

namespace lane {
namespace {

std::string new_job() {
  static int number = 0;
  return "capi/" + std::to_string(::getpid()) + "/" + std::to_string(++number);
}

// Variables that a launcher of the test run itself may have set would make ranks of processes that are none.
class CInterface : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_RANK",
                             "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "SLURM_STEP_ID", "LANE_JOB"})
      ::unsetenv(name);
  }
};

// A rank of a job that the launcher's variables tell of.
Spawned start(const std::string& scenario, int rank, int size, const std::string& job) {
  return Spawned({LANE_C_RANK, scenario},
                 {"RANK=" + std::to_string(rank), "WORLD_SIZE=" + std::to_string(size), "LANE_JOB=" + job});
}

std::vector<Spawned::Result> run_ranks(const std::string& scenario, int size) {
  const std::string job = new_job();
  std::vector<Spawned> ranks;
  for (int rank = 0; rank < size; ++rank) ranks.push_back(start(scenario, rank, size, job));
  std::vector<Spawned::Result> results;
  for (Spawned& rank : ranks) results.push_back(rank.wait(std::chrono::seconds(60)));
  return results;
}

// All ranks but the last, which is the one that did something, returned this status with this sentence.
void expect_same_failure(const std::vector<Spawned::Result>& results, lane_status_t status, const std::string& words,
                         int num_told) {
  std::string first;
  for (int rank = 0; rank < num_told; ++rank) {
    const Spawned::Result& result = results[rank];
    EXPECT_EQ(result.status, 0) << result.text;
    const std::string start = "rank " + std::to_string(rank) + ": ";
    const size_t at = result.text.find(start);
    ASSERT_NE(at, std::string::npos) << result.text;
    const std::string said = result.text.substr(at + start.size());
    EXPECT_EQ(said.rfind("status " + std::to_string(status) + ": ", 0), 0u) << said;
    EXPECT_NE(said.find(words), std::string::npos) << said;
    if (rank == 0) first = said.substr(0, said.find('\n'));
    EXPECT_EQ(said.substr(0, said.find('\n')), first);
  }
}

TEST_F(CInterface, EveryCall) {
  for (const int size : {2, 3})
    for (const Spawned::Result& result : run_ranks("all", size)) EXPECT_EQ(result.status, 0) << result.text;
}

TEST_F(CInterface, ExplicitOptions) {
  const std::string job = new_job();
  const auto start = [&](const char* rank) { return Spawned({LANE_C_RANK, "options", rank, "2", job}); };
  Spawned first = start("0"), second = start("1");
  for (Spawned* rank : {&first, &second}) {
    const auto result = rank->wait();
    EXPECT_EQ(result.status, 0) << result.text;
  }
}

TEST_F(CInterface, WrongArguments) {
  const auto result = Spawned({LANE_C_RANK, "wrong_arguments"}).wait();
  EXPECT_EQ(result.status, 0) << result.text;
  EXPECT_EQ(result.text, "") << "the library prints nothing";
}

TEST_F(CInterface, AWrongArgumentOfOneRankLeavesTheGroupAsItWas) {
  for (const Spawned::Result& result : run_ranks("local_error", 3)) EXPECT_EQ(result.status, 0) << result.text;
}

TEST_F(CInterface, WithoutCudaVectorsOnGpusAreRefused) {
  if (LANE_HAS_CUDA) GTEST_SKIP() << "this build has CUDA";
  for (const int size : {1, 2})
    for (const Spawned::Result& result : run_ranks("without_cuda", size)) EXPECT_EQ(result.status, 0) << result.text;
}

TEST_F(CInterface, ARankThatDoesNotCome) {
  const auto result = start("missing", 0, 2, new_job()).wait();
  EXPECT_EQ(result.status, 0) << result.text;
  EXPECT_NE(result.text.find("rank 1 of 2 did not come"), std::string::npos) << result.text;
}

TEST_F(CInterface, OthersCalledSomethingElse) {
  for (const char* scenario : {"count", "dtype", "op"}) {
    SCOPED_TRACE(scenario);
    expect_same_failure(run_ranks(scenario, 3), LANE_INVALID_ARGUMENT, "rank 2", 3);
  }
}

TEST_F(CInterface, APeerIsLost) {
  const auto killed = run_ranks("killed", 3);
  expect_same_failure(killed, LANE_PEER_LOST, "rank 2", 2);
  EXPECT_EQ(killed[2].status, 128 + SIGKILL);
  EXPECT_LT(killed[0].seconds, 10) << "a death is noticed, not waited for";
  expect_same_failure(run_ranks("left", 3), LANE_PEER_LOST, "rank 2", 2);
  expect_same_failure(run_ranks("gives_up", 3), LANE_PEER_LOST, "gave up: layer 3 is missing", 2);
}

TEST_F(CInterface, Examples) {
  for (const char* example : {LANE_EXAMPLE, LANE_EXAMPLE_C}) {
    const auto result = Spawned({example}).wait();
    EXPECT_EQ(result.status, 0);
    EXPECT_EQ(result.text, "rank 0 of 1: the sum of element 10 is 10\n");
  }
}

TEST_F(CInterface, ExamplesUnderMpirun) {
  if (std::system("command -v mpirun >/dev/null 2>&1") != 0) GTEST_SKIP() << "no mpirun here";
  for (const char* example : {LANE_EXAMPLE, LANE_EXAMPLE_C}) {
    const auto result = Spawned({"mpirun", "--oversubscribe", "-n", "2", example},
                                {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"})
                            .wait();
    EXPECT_EQ(result.status, 0) << result.text;
    for (const char* line : {"rank 0 of 2: the sum of element 10 is 30", "rank 1 of 2: the sum of element 10 is 30"})
      EXPECT_NE(result.text.find(line), std::string::npos) << result.text;
  }
}

}  // namespace
}  // namespace lane
