// Whole machines, from their files: no false alarm on the healthy, and the right one on the damaged.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/doctor/machines.h"
#include "tests/support/fake_root.h"

namespace lane::doctor::test {
namespace {

using lane::test::FakeRoot;
using Strings = std::vector<std::string>;

std::vector<Finding> findings_on(const std::string& machine, const std::string& overlay = "") {
  return examine(inventory::take_inventory(FakeRoot(machine, overlay).path()), llama_70b(16));
}

// Not one warning, and what is noted is exactly this. All facts of these machines are known, so nothing is unknown.
const std::map<std::string, Strings> kHealthy = {
    {"a800", {"note gpu-nic-order"}},
    {"consumer_pair", {"note no-nvlink", "note no-fabric", "note open-files", "note cpu-governor"}},
    {"dgx2", {}},
    {"dgx_a100", {}},
    {"dgx_h100", {"note nvls-multicast"}},
    {"dual_port", {"note nvls-multicast"}},
    {"efa_b200", {"note nvls-multicast"}},
    {"gb200_nvl72", {"note nvls-multicast", "note gpu-far-from-nics"}},
    {"h100x4_nv6", {}},
    {"h200x4_vm", {"note nvls-multicast", "note no-fabric", "note shm-small"}},
    {"h20_sriov", {"note nvls-multicast"}},
    {"hgx_h100_amd", {"note nvls-multicast"}},
    {"hgx_h100_reversed", {"note nvls-multicast", "note gpu-nic-order"}},
    {"laptop", {}},
    {"pcie_only", {"note no-nvlink"}},
    {"slingshot_gh200", {"note gpu-far-from-nics"}}};

TEST(Machines, HealthyOnesRaiseNoAlarm) {
  for (const std::string& name : FakeRoot::machines()) {
    ASSERT_TRUE(kHealthy.contains(name)) << name << " is a new machine: say what is expected of it";
    const std::vector<Finding> findings = findings_on(name);
    EXPECT_EQ(troubles(findings), kHealthy.at(name)) << name;
    EXPECT_EQ(exit_status(findings, true), 0) << name;
  }
}

// What sysfs alone says, without NVML and without the calls of a running system: then some things cannot be told, but
// nothing is made up.
TEST(Machines, WithoutADriverOnlyTheUnknownIsAdded) {
  for (const std::string& name : FakeRoot::machines()) {
    const std::vector<Finding> findings = findings_on(name, "lane-bundle.json !\ntext !\n");
    for (const Finding& finding : findings) {
      EXPECT_NE(finding.verdict, Verdict::kWarning) << name << ": " << finding.id << ": " << finding.what;
      EXPECT_NE(finding.verdict, Verdict::kFatal) << name << ": " << finding.id << ": " << finding.what;
    }
    const int status = exit_status(findings, false);
    EXPECT_EQ(status, name == "laptop" ? 0 : 3) << name;
  }
}

const std::string kGpu1 = "sys/devices/pci0000:37/0000:37:01.0/0000:38:00.0/0000:39:01.0/0000:43:00.0";
const std::string kNic0 = "sys/devices/pci0000:15/0000:15:01.0/0000:16:00.0/0000:17:00.0/0000:18:00.0";
const std::string kPort0 = kNic0 + "/infiniband/mlx5_0/ports/1";

struct Damage {
  const char* name;
  std::string overlay;
  Strings expected;  // beside the note of the healthy machine
  int status;
};
void PrintTo(const Damage& damage, std::ostream* out) { *out << damage.name; }
class DgxH100 : public testing::TestWithParam<Damage> {};

TEST_P(DgxH100, HasExactlyThis) {
  const std::vector<Finding> findings = findings_on("dgx_h100", GetParam().overlay);
  Strings said = troubles(findings);
  std::erase(said, "note nvls-multicast");
  EXPECT_EQ(said, GetParam().expected);
  EXPECT_EQ(exit_status(findings, false), GetParam().status);
}

INSTANTIATE_TEST_SUITE_P(
    Damaged, DgxH100,
    testing::Values(
        Damage{"a GPU with half its lanes", kGpu1 + "/current_link_width = 8\n", {"warning pcie-downgraded"}, 1},
        Damage{"a NIC a generation down",
               kNic0 + "/current_link_speed = 16.0 GT/s PCIe\n",
               {"warning pcie-downgraded"},
               1},
        Damage{"an idle GPU", kGpu1 + "/current_link_speed = 2.5 GT/s PCIe\n", {"note pcie-downgraded"}, 0},
        Damage{"a port down",
               kPort0 + "/state = 1: DOWN\n" + kPort0 + "/phys_state = 2: Polling\n",
               {"warning nic-port-down"},
               1},
        Damage{"a port that nobody manages", kPort0 + "/state = 2: INIT\n", {"warning nic-port-down"}, 1},
        Damage{"a port with half its lanes", kPort0 + "/rate = 200 Gb/sec (2X NDR)\n", {"warning nic-port-slow"}, 1},
        Damage{"counted errors", kPort0 + "/counters/link_downed = 5\n", {"note nic-error-counters"}, 0},
        Damage{"ACS", "@bridge pci0000:15 0000:15:01.0 acs=1d00\n", {"warning acs-on"}, 1},
        Damage{"a translating IOMMU", "@iommu dmar0 type=DMA-FQ\n", {"warning iommu-translates"}, 1},
        Damage{"NUMA balancing", "proc/sys/kernel/numa_balancing = 1\n", {"warning numa-balancing"}, 1},
        Damage{"a slow governor",
               "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor = ondemand\n",
               {"note cpu-governor"},
               0},
        Damage{
            "another firmware", kNic0 + "/infiniband/mlx5_0/fw_ver = 28.36.1010\n", {"note nic-firmware-differs"}, 0},
        Damage{"no peermem, but DMA-BUF", "sys/module/nvidia_peermem !\nsys/kernel/mm/memory_peers !\n", {}, 0},
        Damage{"no GPUDirect",
               "sys/module/nvidia_peermem !\nsys/kernel/mm/memory_peers !\n@closed_driver 580.95.05\n",
               {"warning gpudirect-rdma"},
               1}));

TEST(Machines, AMachineWithoutFabricManager) {
  const std::vector<Finding> findings = findings_on("dgx_h100", "proc/2102 !\n");
  EXPECT_EQ(find(findings, "fabric-manager")->verdict, Verdict::kOk) << "its GPUs have joined";
}

TEST(Machines, CollectedAndReadElsewhereTheySayTheSame) {
  const std::string file = testing::TempDir() + "lane_doctor_bundle_" + std::to_string(::getpid()) + ".tar.zst";
  const FakeRoot root("hgx_h100_reversed", "");
  inventory::collect_bundle(file, root.path());
  const inventory::BundleRoot bundle(file);
  EXPECT_EQ(troubles(examine(inventory::take_inventory(bundle.path()), llama_70b(16))),
            kHealthy.at("hgx_h100_reversed"));
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace lane::doctor::test
