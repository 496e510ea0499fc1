// `lane place` as its users run it.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "lane/base/file.h"
#include "lane/base/json.h"
#include "tests/support/subprocess.h"

namespace lane {
namespace {

using test::Outcome;

const std::string kSamples = std::string(LANE_SOURCE_DIR) + "/tests/place/samples/";

Outcome place(std::vector<std::string> arguments) {
  std::vector<std::string> command{LANE_BINARY, "place"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return test::run(command);
}

class PlaceProgram : public testing::Test {
 protected:
  std::string folder_ = testing::TempDir() + "lane_place_" + std::to_string(::getpid());
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
};

TEST_F(PlaceProgram, PrintsATableAndWhatItCosts) {
  const Outcome result = place({"--topology", kSamples + "tree.conf", "--tp", "16", "--replicas", "3"});
  ASSERT_EQ(result.status, 0) << result.err;
  for (const char* part : {"ranks", "n[01-02]", "leaf", "this placement", "optimal: proved", "hosts in their order",
                           "random order, mean", "replica 0 stage 0", "all-reduces of 256.00 KiB"})
    EXPECT_NE(result.out.find(part), std::string::npos) << part << "\n" << result.out;
  EXPECT_EQ(result.out.find('\x1b'), std::string::npos) << "no colour without a terminal";
  EXPECT_NE(result.err.find("assumed: 8 x NVIDIA H100"), std::string::npos) << result.err;
}

TEST_F(PlaceProgram, ReadsAllFormats) {
  for (const char* name :
       {"tree.conf", "block.conf", "topology.yaml", "ibnetdiscover.txt", "cluster.csv", "hostfile"}) {
    const Outcome result = place({"--topology", kSamples + name, "--tp", "8", "--pp", "2", "--json"});
    ASSERT_EQ(result.status, 0) << name << ": " << result.err;
    EXPECT_EQ(parse_json(result.out, "output")["ranks"].size(), 16u) << name;
  }
  const Outcome list = place({"--topology", "n[1-4]", "--gpu", "a100", "--tp", "8", "--replicas", "4", "--json"});
  EXPECT_EQ(list.status, 0) << list.err;
}

TEST_F(PlaceProgram, ATopologyCanBeSavedAndGivenAgain) {
  const std::string file = folder_ + "/topology.json";
  const Outcome first = place({"--topology", kSamples + "cluster.csv", "--tp", "8", "--json", "--save-topology", file});
  ASSERT_EQ(first.status, 0) << first.err;
  const Outcome second = place({"--topology", file, "--tp", "8", "--json"});
  ASSERT_EQ(second.status, 0) << second.err;
  EXPECT_EQ(second.out, first.out);
}

TEST_F(PlaceProgram, ExitStatusesTellUsageFromWhatDoesNotFit) {
  const Outcome full = place({"--topology", "n[1-2]", "--tp", "8", "--replicas", "3"});
  EXPECT_EQ(full.status, 1);
  EXPECT_NE(full.err.find("needs 3 groups of 8 GPUs"), std::string::npos) << full.err;
  EXPECT_TRUE(full.out.empty()) << "nothing half-placed: " << full.out;
  EXPECT_EQ(place({"--tp", "8"}).status, 2) << "no topology";
  EXPECT_EQ(place({"--topology", "n1", "--tp", "0"}).status, 2);
  EXPECT_EQ(place({"--topology", "n1", "--spread", "--pack"}).status, 2);
  EXPECT_EQ(place({"--topology", "n1", "--format", "xml"}).status, 2);
  EXPECT_EQ(place({"--topology", folder_ + "/none", "--tp", "8"}).status, 1);
  EXPECT_EQ(place({"--help"}).status, 0);
}

TEST_F(PlaceProgram, FreeAndExcludedHosts) {
  const Outcome result = place({"--topology", "n[1-4]", "--free", "n[1-2]; n3:0-3; n4", "--exclude", "n1", "--tp", "8",
                                "--replicas", "2", "--format", "env"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out.find("HOST=n1"), std::string::npos);
  EXPECT_EQ(result.out.find("HOST=n3"), std::string::npos) << "four GPUs are too few for eight ranks";
  std::ofstream(folder_ + "/free") << "n[1-2]\n";
  EXPECT_EQ(place({"--topology", "n[1-4]", "--free", folder_ + "/free", "--tp", "8", "--replicas", "2"}).status, 0);
  EXPECT_EQ(place({"--topology", "n[1-4]", "--free", folder_ + "/free", "--tp", "8", "--replicas", "3"}).status, 1);
}

// The script, run with a stand-in for srun that does as --distribution=arbitrary says.
TEST_F(PlaceProgram, TheSlurmScriptGivesEachTaskItsGpus) {
  const std::string script = folder_ + "/job.sh", bin = folder_ + "/bin";
  std::filesystem::create_directories(bin);
  std::ofstream(bin + "/srun")
      << "#!/bin/bash\n"
         "while [[ $1 == --* ]]; do case $1 in --ntasks=*) export SLURM_NTASKS=${1#*=};; esac; "
         "shift; done\n"
         "declare -A used\n"
         "task=0\n"
         "while read -r host; do\n"
         "  SLURM_PROCID=$task SLURM_LOCALID=${used[$host]:-0} SLURMD_NODENAME=$host \"$@\"\n"
         "  used[$host]=$((${used[$host]:-0} + 1)); task=$((task + 1))\n"
         "done <\"$SLURM_HOSTFILE\"\n";
  ::chmod((bin + "/srun").c_str(), 0755);
  const std::vector<std::string> job = {
      "--topology", kSamples + "ibnetdiscover.txt", "--tp", "4", "--pp", "2", "--replicas", "4"};
  std::vector<std::string> arguments = job;
  for (const char* word : {"--format", "slurm", "-o"}) arguments.emplace_back(word);
  arguments.push_back(script);
  ASSERT_EQ(place(arguments).status, 0);
  const Outcome run = test::run(
      {"/bin/bash", script, "bash", "-c",
       "echo HOST=$SLURMD_NODENAME RANK=$RANK WORLD_SIZE=$WORLD_SIZE LOCAL_RANK=$LOCAL_RANK "
       "CUDA_DEVICE_ORDER=$CUDA_DEVICE_ORDER CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES NCCL_IB_HCA=$NCCL_IB_HCA"},
      {.environment = {{"PATH", bin + ":" + std::getenv("PATH")}}});
  ASSERT_EQ(run.status, 0) << run.err;
  arguments = job;
  for (const char* word : {"--format", "env"}) arguments.emplace_back(word);
  std::string expected;
  std::istringstream lines(place(arguments).out);
  for (std::string line; std::getline(lines, line);)
    if (!line.starts_with("#")) expected += line + "\n";
  EXPECT_EQ(run.out, expected) << "the same as --format env says";
  EXPECT_NE(expected.find("RANK=31"), std::string::npos) << expected;
}

}  // namespace
}  // namespace lane
