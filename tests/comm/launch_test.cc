#include "lane/comm/launch.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "lane/base/error.h"
#include "lane/comm/launch/slurm.h"
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
                             "SLURM_STEP_TASKS_PER_NODE",
                             "SLURM_STEP_NODELIST",
                             "SLURM_NODELIST",
                             "SLURM_NODEID",
                             "GROUP_WORLD_SIZE",
                             "LANE_JOB",
                             "LANE_HOST",
                             "LANE_RENDEZVOUS"})
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
  EXPECT_EQ(seat->rendezvous, "");
}

// "host:" and a port that comes from the job's name.
void expect_rendezvous(const std::string& rendezvous, const std::string& host) {
  ASSERT_TRUE(rendezvous.starts_with(host + ":")) << rendezvous;
  const int port = std::stoi(rendezvous.substr(host.size() + 1));
  EXPECT_GE(port, 20000);
  EXPECT_LT(port, 32000);
}

TEST_F(LaunchedRankTest, SlurmOnSeveralHosts) {
  set_all({{"SLURM_PROCID", "5"},
           {"SLURM_NTASKS", "7"},
           {"SLURM_LOCALID", "1"},
           {"SLURM_JOB_ID", "12"},
           {"SLURM_STEP_ID", "3"},
           {"SLURM_NODEID", "2"},
           {"SLURM_STEP_NUM_NODES", "4"},
           {"SLURM_STEP_TASKS_PER_NODE", "2(x3),1"},
           {"SLURM_STEP_NODELIST", "n[07-09],x"}});
  auto seat = launched_rank();
  ASSERT_TRUE(seat);
  EXPECT_EQ(seat->local_rank, 1);
  EXPECT_EQ(seat->local_size, 2);
  EXPECT_EQ(seat->num_hosts, 4);
  expect_rendezvous(seat->rendezvous, "n07");
  const std::string before = seat->rendezvous;
  EXPECT_EQ(launched_rank()->rendezvous, before) << "all ranks come to the same port";
  set("SLURM_STEP_ID", "4");
  EXPECT_NE(launched_rank()->rendezvous, before) << "another step has another port";
  set("SLURM_NODEID", "4");
  expect_error(ErrorCode::kInvalidArgument, "SLURM_NODEID=4 and SLURM_STEP_TASKS_PER_NODE=2(x3),1 contradict");
  set_all({{"SLURM_NODEID", "3"}, {"SLURM_LOCALID", "0"}});
  EXPECT_EQ(launched_rank()->local_size, 1);
  set("SLURM_STEP_NODELIST", "n[07-");
  expect_error(ErrorCode::kInvalidArgument, "\"n[07-\" is no list of hosts");
  set("LANE_RENDEZVOUS", "h:1");
  EXPECT_EQ(launched_rank()->rendezvous, "h:1");
}

TEST(Slurm, Hostlists) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(expand_hostlist("a"), Names({"a"}));
  EXPECT_EQ(expand_hostlist("a[01-03,7]b,c"), Names({"a01b", "a02b", "a03b", "a7b", "c"}));
  EXPECT_EQ(expand_hostlist("r[1-2]n[0-1],z"), Names({"r1n0", "r1n1", "r2n0", "r2n1", "z"}));
  EXPECT_EQ(expand_hostlist("n[9-11]"), Names({"n9", "n10", "n11"}));
  EXPECT_EQ(expand_hostlist("n[099-101].x"), Names({"n099.x", "n100.x", "n101.x"}));
  for (const char* wrong :
       {"", ",", "a,", "a[", "a[1", "a[]", "a[2-1]", "a[1-]", "a[x]", "a[1-99999999999]", "a[1-999999]b[1-999999]"})
    EXPECT_THROW(expand_hostlist(wrong), Error) << wrong;
  EXPECT_EQ(expand_tasks_per_node("2(x3),1"), std::vector<int>({2, 2, 2, 1}));
  EXPECT_EQ(expand_tasks_per_node("4"), std::vector<int>({4}));
  for (const char* wrong : {"", "x", "2(x", "2(x)", "2(x0)", "2(3)", "2(x99999999999)"})
    EXPECT_THROW(expand_tasks_per_node(wrong), Error) << wrong;
}

TEST_F(LaunchedRankTest, SeveralHosts) {
  set_all({{"RANK", "5"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "4"}, {"LANE_JOB", "x"}});
  expect_error(ErrorCode::kInvalidArgument, "set LANE_RENDEZVOUS to host:port");
  set("MASTER_ADDR", "fd00::2");
  expect_rendezvous(launched_rank()->rendezvous, "[fd00::2]");
  set_all({{"MASTER_ADDR", "n1"}, {"MASTER_PORT", "29500"}});
  auto seat = launched_rank();
  expect_rendezvous(seat->rendezvous, "n1");
  EXPECT_FALSE(seat->rendezvous.ends_with(":29500")) << "torchrun holds that port itself";
  EXPECT_EQ(seat->local_rank, 1);
  EXPECT_EQ(seat->local_size, 4);
  set("LANE_RENDEZVOUS", "n2:77");
  EXPECT_EQ(launched_rank()->rendezvous, "n2:77");
}

TEST_F(LaunchedRankTest, OpenMpiOnSeveralHosts) {
  set_all({{"OMPI_COMM_WORLD_RANK", "3"},
           {"OMPI_COMM_WORLD_SIZE", "4"},
           {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
           {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
           {"PMIX_NAMESPACE", "77.1"}});
  expect_error(ErrorCode::kInvalidArgument, "Open MPI started 4 ranks on several hosts");
  set("OMPI_MCA_orte_hnp_uri", "7654.0;tcp://127.0.0.1,10.1.2.3,172.17.0.1:43211");
  expect_rendezvous(launched_rank()->rendezvous, "10.1.2.3");
  set("OMPI_MCA_orte_hnp_uri", "7654.0;tcp://127.0.0.1:43211");
  expect_error(ErrorCode::kInvalidArgument, "set LANE_RENDEZVOUS");
}

TEST_F(LaunchedRankTest, EmulatedHostsMeetOverTheNetwork) {
  set_all({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LANE_JOB", "x"}});
  EXPECT_EQ(launched_rank()->rendezvous, "");
  set("LANE_HOST", "a");
  expect_rendezvous(launched_rank()->rendezvous, "127.0.0.1");
  EXPECT_EQ(launched_rank()->local_size, 2) << "they do share the machine's cores";
}

TEST(Hosts, Lists) {
  const auto hosts = parse_hosts("a:2,user@b,[fd00::2]:3");
  ASSERT_EQ(hosts.size(), 3U);
  EXPECT_EQ(hosts[0].name, "a");
  EXPECT_EQ(hosts[0].num_ranks, 2);
  EXPECT_EQ(hosts[1].name, "user@b");
  EXPECT_EQ(hosts[1].num_ranks, 1);
  EXPECT_EQ(hosts[2].name, "[fd00::2]");
  EXPECT_EQ(hosts[2].num_ranks, 3);
  for (const char* wrong : {"", "a,", "a:0", "a:x", "a:-1", ":2", "a:2,a:1", "-oProxyCommand=x"})
    EXPECT_THROW(parse_hosts(wrong), Error) << wrong;
  const auto file = parse_host_file("# ours\na slots=4\n\n  b:2 # the other\nc\n", "hosts");
  ASSERT_EQ(file.size(), 3U);
  EXPECT_EQ(file[0].name, "a");
  EXPECT_EQ(file[0].num_ranks, 4);
  EXPECT_EQ(file[1].num_ranks, 2);
  EXPECT_EQ(file[2].num_ranks, 1);
  EXPECT_THROW(parse_host_file("# nobody\n", "hosts"), Error);
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

TEST_F(LaunchedRankTest, MpirunOverEmulatedHosts) {
  if (std::system("command -v mpirun >/dev/null 2>&1") != 0) GTEST_SKIP() << "no mpirun here";
  std::vector<std::string> command = {"mpirun", "--oversubscribe"};
  for (const char* host : {"a", "b", "a", "b"}) {
    if (command.size() > 2) command.emplace_back(":");
    for (const std::string& word :
         {std::string("-n"), std::string("1"), std::string("-x"), std::string("LANE_HOST=") + host,
          std::string(LANE_RANK_MAIN), std::string("ok"), std::string("4"), std::string("-1")})
      command.push_back(word);
  }
  Spawned job(command, {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1", "LANE_SECRET=between us"});
  const auto result = job.wait();
  EXPECT_EQ(result.status, 0) << result.text;
  for (const char* line : {"rank 0 of 4 done", "rank 1 of 4 done", "rank 2 of 4 done", "rank 3 of 4 done"})
    EXPECT_NE(result.text.find(line), std::string::npos) << result.text;
}

}  // namespace
}  // namespace lane
