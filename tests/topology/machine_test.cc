#include "lane/topology/machine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "lane/base/error.h"

namespace lane::topology {
namespace {

// A folder with the kernel files of a host of two NUMA nodes, in a container of 3.5 CPUs and 8 GiB.
class FakeHost : public testing::Test {
 protected:
  std::string root_ = testing::TempDir() + "lane_fake_host_" + std::to_string(::getpid());

  void put(const std::string& path, const std::string& content) {
    const std::filesystem::path full(root_ + path);
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << content;
  }
  void SetUp() override {
    put("/proc/cpuinfo", "processor\t: 0\nmodel name\t: Example CPU 9000\nflags\t\t: avx2\n");
    put("/proc/meminfo", "MemTotal:       67108864 kB\nMemFree:         1000 kB\nMemAvailable:   33554432 kB\n");
    put("/sys/devices/system/node/online", "0-1\n");
    put("/sys/devices/system/node/node0/cpulist", "0-3,8\n");
    put("/sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:       33554432 kB\nNode 0 MemFree: 5 kB\n");
    put("/sys/devices/system/node/node1/cpulist", "4-7\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
};

TEST_F(FakeHost, IsReadFromItsFiles) {
  const Machine machine = discover(root_);
  EXPECT_EQ(machine.cpu_model, "Example CPU 9000");
  EXPECT_EQ(machine.memory_bytes, int64_t{64} << 30);
  EXPECT_EQ(machine.free_memory_bytes, int64_t{32} << 30);
  ASSERT_EQ(machine.numa_nodes.size(), 2u);
  EXPECT_EQ(machine.numa_nodes[0].cpus, (std::vector{0, 1, 2, 3, 8}));
  EXPECT_EQ(machine.numa_nodes[0].memory_bytes, int64_t{32} << 30);
  EXPECT_EQ(machine.numa_nodes[1].memory_bytes, 0) << "its meminfo is missing: unknown, not an error";
}

TEST_F(FakeHost, AContainersLimitsCount) {
  put("/sys/fs/cgroup/cpu.max", "350000 100000\n");
  put("/sys/fs/cgroup/memory.max", std::to_string(int64_t{8} << 30));
  put("/sys/fs/cgroup/memory.current", std::to_string(int64_t{3} << 30));
  Machine machine = discover(root_);
  EXPECT_EQ(machine.cpu_quota, 3.5);
  EXPECT_EQ(machine.memory_bytes, int64_t{8} << 30);
  EXPECT_EQ(machine.free_memory_bytes, int64_t{5} << 30);
  machine.usable_cpus = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(machine.num_threads(), 4);
  put("/sys/fs/cgroup/cpu.max", "max 100000\n");
  put("/sys/fs/cgroup/memory.max", "max\n");
  EXPECT_EQ(discover(root_).cpu_quota, 0);
  EXPECT_EQ(discover(root_).memory_bytes, int64_t{64} << 30);
}

TEST_F(FakeHost, AnEmptyFolderIsAMachineOfUnknowns) {
  const Machine machine = discover(root_ + "/nowhere");
  EXPECT_EQ(machine.memory_bytes, 0);
  EXPECT_TRUE(machine.numa_nodes.empty());
  EXPECT_GE(machine.num_threads(), 1);
}

TEST_F(FakeHost, SurvivesJson) {
  const Machine machine = discover(root_);
  EXPECT_EQ(machine_from_json(to_json(machine), "x.json"), machine);
  EXPECT_THROW(machine_from_json("{\"usable_cpus\": [-1]}", "x.json"), Error);
  EXPECT_THROW(machine_from_json("[]", "x.json"), Error);
}

TEST(CpuList, ReadsRangesAndRefusesNonsense) {
  EXPECT_EQ(parse_cpu_list("0-3,8"), (std::vector{0, 1, 2, 3, 8}));
  EXPECT_EQ(parse_cpu_list("5"), std::vector{5});
  EXPECT_TRUE(parse_cpu_list("").empty());
  for (const char* bad : {"a", "3-1", "1-", "-2", "1,,2", "0-999999999"})
    EXPECT_THROW(parse_cpu_list(bad), Error) << bad;
}

TEST(Discover, ThisMachineHasACpuAndMemory) {
  const Machine machine = discover();
  EXPECT_FALSE(machine.usable_cpus.empty());
  EXPECT_GT(machine.memory_bytes, 0);
}

}  // namespace
}  // namespace lane::topology
