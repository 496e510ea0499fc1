#include <gtest/gtest.h>

#include <cmath>

#include "lane/base/random.h"
#include "tests/doctor/machines.h"

namespace lane::doctor::test {
namespace {

using Strings = std::vector<std::string>;

Strings troubles_of(const Inventory& inventory, int tensor = 16) {
  return troubles(examine(inventory, llama_70b(tensor)));
}

Finding only(const Inventory& inventory, const std::string& id, Verdict verdict, int tensor = 16) {
  const std::vector<Finding> findings = examine(inventory, llama_70b(tensor));
  EXPECT_EQ(troubles(findings), Strings{std::string(name_of(verdict)) + " " + id});
  const Finding* found = find(findings, id);
  if (found == nullptr) return {};
  EXPECT_FALSE(found->what.empty());
  EXPECT_FALSE(found->evidence.empty()) << id;
  if (verdict == Verdict::kWarning || verdict == Verdict::kFatal) {
    EXPECT_FALSE(found->fix.empty()) << id;
    EXPECT_FALSE(found->undo.empty()) << id;
    EXPECT_FALSE(found->cost_why.empty()) << id;
  }
  return *found;
}

TEST(Healthy, AnHgxH100HasNothingToSay) {
  const std::vector<Finding> findings = examine(hgx_h100(), llama_70b(16));
  EXPECT_EQ(troubles(findings), Strings{});
  EXPECT_EQ(exit_status(findings, true), 0);
  EXPECT_GT(findings.size(), 20u);
}

TEST(Healthy, ALaptopIsNoWarning) {
  EXPECT_EQ(troubles_of(laptop(), 1), Strings{});
  EXPECT_EQ(exit_status(examine(laptop(), llama_70b(1)), true), 0);
}

TEST(Healthy, AHostOfWhichNothingIsKnownIsNeverFine) {
  Inventory blind = hgx_h100();
  blind.facts.clear();
  for (Gpu& gpu : host_of(blind).gpus) gpu.pcie = {}, gpu.num_nvlinks = gpu.max_nvlinks = -1;
  for (Nic& nic : host_of(blind).nics) nic.pcie = {}, nic.ports.clear(), nic.firmware.clear();
  host_of(blind).gpu_to_nic.clear();
  const std::vector<Finding> findings = examine(blind, llama_70b(16));
  EXPECT_EQ(exit_status(findings, false), 3);
  for (const char* id : {"pcie-downgraded", "nvlink-missing", "fabric-manager", "gpu-far-from-nics", "nic-port-down",
                         "nic-error-counters", "gpudirect-rdma", "acs-on", "iommu-translates", "memlock", "shm-small",
                         "open-files", "stack-size", "nvidia-driver", "gpu-memory-errors", "nvswitch-fabric"}) {
    ASSERT_NE(find(findings, id), nullptr) << id;
    EXPECT_EQ(find(findings, id)->verdict, Verdict::kUnknown) << id;
    EXPECT_FALSE(find(findings, id)->fix.empty()) << id << " must say what it needs";
  }
  for (const Finding& finding : with(findings, Verdict::kOk)) EXPECT_EQ(finding.id, "no-fabric");
  EXPECT_EQ(troubles(examine({}, llama_70b(1))), Strings{});  // not even a host
}

// The traps of which other tools are known to fall into one or the other.

TEST(Traps, SysBetweenSockets) {
  Inventory machine = hgx_h100();
  ASSERT_EQ(host_of(machine).gpu_to_nic[0][7], Path::kSys);
  EXPECT_EQ(troubles_of(machine), Strings{});
}

TEST(Traps, AnInactiveBlueFieldPortAndOneWithTwoLanes) {
  Inventory machine = hgx_h100();
  Nic dpu = infiniband("mlx5_8", "0000:50:00.0", 0);
  dpu.kind = NicKind::kRoce;
  dpu.role = NicRole::kManagement;
  dpu.model = "MT41692";
  dpu.board_id = "MT_0000000884";
  dpu.ports = {{1, "DOWN", "Polling", 40, "4X QDR", {}}};
  host_of(machine).nics.push_back(dpu);
  dpu.name = "mlx5_9";
  dpu.ports = {{1, "ACTIVE", "LinkUp", 200, "2X NDR", {}}};
  host_of(machine).nics.push_back(dpu);
  for (auto& row : host_of(machine).gpu_to_nic) row.resize(10, Path::kNode);
  EXPECT_EQ(troubles_of(machine), Strings{});

  // Not even where its role is not known: it has no sibling.
  host_of(machine).nics[8].role = host_of(machine).nics[9].role = NicRole::kUnknown;
  host_of(machine).nics[9].board_id = "MT_0000000999";
  const std::vector<Finding> findings = examine(machine, llama_70b(16));
  EXPECT_EQ(with(findings, Verdict::kWarning).size(), 0u);
  EXPECT_EQ(with(findings, Verdict::kFatal).size(), 0u);
}

TEST(Traps, VirtualFunctionsBondsAndStorage) {
  Inventory machine = hgx_h100();
  for (int i = 0; i < 16; ++i) {
    Nic function = infiniband("mlx5_" + std::to_string(20 + i), "0000:60:00." + std::to_string(i), 0);
    function.is_virtual_function = true;
    function.ports = {{1, "DOWN", "Disabled", 10, "4X SDR", {}}};
    function.pcie = {};
    host_of(machine).nics.push_back(function);
  }
  Nic bond = infiniband("mlx5_bond_0", "0000:70:00.0", 0);
  bond.kind = NicKind::kRoce;
  bond.role = NicRole::kUnknown;
  bond.ports = {{1, "DOWN", "Disabled", 25, "1X EDR", {}}};
  host_of(machine).nics.push_back(bond);
  Nic storage = infiniband("mlx5_40", "0000:71:00.0", 0);
  storage.role = NicRole::kStorage;
  storage.ports = {{1, "DOWN", "Polling", 100, "4X EDR", {}}};
  host_of(machine).nics.push_back(storage);
  for (auto& row : host_of(machine).gpu_to_nic) row.resize(host_of(machine).nics.size(), Path::kPix);
  EXPECT_EQ(troubles_of(machine), Strings{});
}

TEST(Traps, IdleGpusAtGen1AreANote) {
  Inventory machine = hgx_h100();
  for (int i = 0; i < 8; ++i) host_of(machine).gpus[i].pcie.gt_per_s = i == 3 ? 32 : 2.5;
  EXPECT_EQ(only(machine, "pcie-downgraded", Verdict::kNote).evidence.size(), 7u);
  host_of(machine).gpus[5].is_busy = true;  // one that works and is still slow is no such case
  EXPECT_EQ(troubles_of(machine), (Strings{"warning pcie-downgraded", "note pcie-downgraded"}));
}

TEST(Traps, DmaBufWithoutPeermemAndTheOtherWayRound) {
  Inventory machine = hgx_h100();
  set(machine, "nvidia.peermem", "absent");
  EXPECT_EQ(troubles_of(machine), Strings{});
  set(machine, "nvidia.peermem", "loaded");
  set(machine, "nvidia.dmabuf", "no");
  EXPECT_EQ(troubles_of(machine), Strings{});
  forget(machine, "nvidia.dmabuf", "needs ibv_reg_dmabuf_mr");
  EXPECT_EQ(troubles_of(machine), Strings{});
}

TEST(Traps, SlingshotHasNoMlx5AndIsAFabric) {
  Inventory machine = hgx_h100();
  Host& host = host_of(machine);
  host.nics.resize(4);
  for (int i = 0; i < 4; ++i) {
    host.nics[i].name = "cxi" + std::to_string(i);
    host.nics[i].kind = NicKind::kSlingshot;
    host.nics[i].model = host.nics[i].board_id = host.nics[i].firmware = "";
    host.nics[i].ports = {{1, "ACTIVE", "", 200, "", {}}};
  }
  for (auto& row : host.gpu_to_nic) row.assign(4, Path::kPhb);
  set(machine, "lib.libfabric", "1.22.0");
  const std::vector<Finding> findings = examine(machine, llama_70b(16));
  EXPECT_EQ(troubles(findings), (Strings{"note gpu-far-from-nics"}));
  EXPECT_NE(find(findings, "no-fabric")->what.find("4 network cards"), std::string::npos);
  set(machine, "lib.libfabric", "");
  EXPECT_EQ(troubles_of(machine), (Strings{"warning libfabric-missing", "note gpu-far-from-nics"}));
}

TEST(Traps, AZeroClusterIsNoRack) {
  Inventory machine = hgx_h100();  // its UUIDs are all zero
  EXPECT_EQ(find(examine(machine, llama_70b(16)), "imex"), nullptr);
  for (Gpu& gpu : host_of(machine).gpus) gpu.nvlink_domain = "3f9a.0";
  set(machine, "nvidia.imex", "running");
  EXPECT_EQ(troubles_of(machine), Strings{});
  set(machine, "nvidia.imex", "absent");
  only(machine, "imex", Verdict::kWarning);
}

TEST(Traps, AVirtualMachineHidesThings) {
  Inventory machine = hgx_h100();
  set(machine, "os.virtualization", "kvm");
  for (Gpu& gpu : host_of(machine).gpus) gpu.pcie = {};
  machine.facts.erase("iommu.mode");
  set(machine, "nvidia.fabric_manager", "absent");  // it runs outside; the GPUs have joined
  for (const Nic& nic : host_of(machine).nics) set(machine, "pci.ats." + nic.pci_id, "on");
  EXPECT_EQ(troubles_of(machine), (Strings{"unknown pcie-downgraded"}));
  set(machine, "pci.ats.0000:32:00.0", "off");
  EXPECT_EQ(troubles_of(machine).front(), "warning ats-off");
}

TEST(Faults, PcieWidth) {
  Inventory machine = hgx_h100();
  host_of(machine).gpus[3].pcie.width = 8;
  const Finding gpu = only(machine, "pcie-downgraded", Verdict::kWarning);
  EXPECT_NE(gpu.what.find("GPU 3 (0000:13:00.0) runs at 32.0 GT/s x8 of 32.0 GT/s x16"), std::string::npos) << gpu.what;
  EXPECT_GT(gpu.cost_us, 0);
  EXPECT_EQ(only(machine, "pcie-downgraded", Verdict::kWarning, 8).cost_us, 0) << "all-reduces stay on NVLink";

  machine = hgx_h100();
  host_of(machine).nics[2].pcie = {16, 32, 16, 16};
  EXPECT_EQ(only(machine, "pcie-downgraded", Verdict::kWarning).cost_us, gpu.cost_us) << "half the rate either way";
  machine = hgx_h100();
  host_of(machine).nics[2].pcie = {16, 32, 4, 16};
  EXPECT_GT(only(machine, "pcie-downgraded", Verdict::kWarning).cost_us, gpu.cost_us);

  machine = l40s_box();
  host_of(machine).gpus[0].pcie.width = 8;
  const std::vector<Finding> findings = examine(machine, llama_70b(8));
  EXPECT_GT(find(findings, "pcie-downgraded")->cost_us, 0) << "without NVLink all of it goes over PCIe";
}

TEST(Faults, NvlinksMissing) {
  Inventory machine = hgx_h100();
  host_of(machine).gpus[6].num_nvlinks = 14;
  set(machine, "gpu.6.nvlink.3", "inactive");
  set(machine, "gpu.6.nvlink.4", "active");
  const Finding finding = only(machine, "nvlink-missing", Verdict::kWarning);
  EXPECT_NE(finding.what.find("14 of 18"), std::string::npos);
  EXPECT_EQ(finding.evidence.back().value, "inactive: 3");
  EXPECT_GT(finding.cost_us, 0);

  // All alike, but fewer than the kind has.
  for (Gpu& gpu : host_of(machine).gpus) gpu.num_nvlinks = 16;
  EXPECT_EQ(troubles_of(machine), Strings(8, "warning nvlink-missing"));
  for (Gpu& gpu : host_of(machine).gpus) gpu.name = "NVIDIA H800", gpu.num_nvlinks = 8;
  EXPECT_EQ(troubles_of(machine), Strings{});
  for (Gpu& gpu : host_of(machine).gpus) gpu.name = "NVIDIA H100 80GB HBM3", gpu.num_nvlinks = 0;
  EXPECT_EQ(troubles_of(machine), Strings(8, "warning nvlink-missing")) << "that is no PCIe box";
}

TEST(Faults, FabricManager) {
  Inventory machine = hgx_h100();
  set(machine, "nvidia.fabric_manager", "absent");
  EXPECT_EQ(troubles_of(machine), Strings{}) << "the GPUs have joined: somebody manages them";
  for (int i = 0; i < 8; ++i) set(machine, "gpu." + std::to_string(i) + ".fabric_state", "in progress");
  EXPECT_EQ(troubles_of(machine), (Strings{"fatal fabric-manager", "fatal nvswitch-fabric"}));
  EXPECT_EQ(exit_status(examine(machine, llama_70b(16)), false), 2);
  set(machine, "os.virtualization", "container");
  EXPECT_EQ(find(examine(machine, llama_70b(16)), "fabric-manager")->verdict, Verdict::kUnknown);
}

TEST(Faults, PcieOnlyBoxesAreTheirOwnClass) {
  const Finding finding = only(l40s_box(), "no-nvlink", Verdict::kNote, 8);
  // 16 x 8192 x 2 bytes: 426.0 µs where NVLink takes 19.1, 160 times a step.
  EXPECT_NEAR(finding.cost_us, 160 * (426.0 - 19.1), 1);
  EXPECT_NE(finding.cost_why.find("22 times as long"), std::string::npos) << finding.cost_why;
}

TEST(Faults, MulticastByVersionOfNccl) {
  Inventory machine = hgx_h100();
  for (const char* version : {"2.27.3", "2.28.9", "2.29.2"}) {
    set(machine, "lib.nccl", version);
    EXPECT_NE(only(machine, "nvls-multicast", Verdict::kNote).fix.find("NCCL_NVLS_ENABLE=0"), std::string::npos);
  }
  forget(machine, "lib.nccl", "no libnccl.so.2");
  only(machine, "nvls-multicast", Verdict::kNote);
  for (Gpu& gpu : host_of(machine).gpus) gpu.sm = 80, gpu.name = "NVIDIA A100-SXM4-80GB", gpu.num_nvlinks = 12;
  EXPECT_EQ(find(examine(machine, llama_70b(16)), "nvls-multicast"), nullptr) << "A100 has no multicast";
}

TEST(Faults, GpusFarFromTheirNics) {
  Inventory machine = hgx_h100();
  for (Path& path : host_of(machine).gpu_to_nic[5])
    if (path == Path::kPix) path = Path::kNode;
  const Finding finding = only(machine, "gpu-far-from-nics", Verdict::kWarning);
  EXPECT_EQ(finding.evidence.size(), 1u);
  EXPECT_NE(finding.what.find("1 of 8"), std::string::npos);
  // One round of 256 KiB / 8 between two hosts, two copies at 48 GB/s, 160 times.
  EXPECT_NEAR(finding.cost_us, 160 * 2 * (262144 / 8.0) / 48e9 * 1e6, 1);
  host_of(machine).gpu_to_nic[5][5] = Path::kPxb;
  EXPECT_EQ(troubles_of(machine), Strings{});
  host_of(machine).gpu_to_nic[5].assign(8, Path::kUnknown);
  only(machine, "gpu-far-from-nics", Verdict::kUnknown);
}

TEST(Faults, ReversedNicsAreANoteWithTheTable) {
  Inventory machine = hgx_h100();
  auto& matrix = host_of(machine).gpu_to_nic;
  std::reverse(matrix.begin(), matrix.begin() + 4);
  const Finding finding = only(machine, "gpu-nic-order", Verdict::kNote);
  ASSERT_EQ(finding.evidence.size(), 8u);
  EXPECT_EQ(finding.evidence[0].value, "NCCL_IB_HCA==mlx5_3");
  EXPECT_EQ(finding.evidence[7].value, "NCCL_IB_HCA==mlx5_7");
  // Gaps in the names are no shuffle: DGX H100's compute cards are mlx5_0, 3, 4, 5, 6, 9, 10, 11.
  machine = hgx_h100();
  const int names[] = {0, 3, 4, 5, 6, 9, 10, 11};
  for (int i = 0; i < 8; ++i) host_of(machine).nics[i].name = "mlx5_" + std::to_string(names[i]);
  EXPECT_EQ(troubles_of(machine), Strings{});
}

TEST(Faults, PortsDown) {
  Inventory machine = hgx_h100();
  host_of(machine).nics[4].ports[0].state = "DOWN";
  host_of(machine).nics[4].ports[0].phys_state = "Polling";
  const Finding finding = only(machine, "nic-port-down", Verdict::kWarning);
  EXPECT_EQ(finding.evidence[0].value, "DOWN, Polling");
  EXPECT_GT(finding.cost_us, 0);
  host_of(machine).nics[4].ports[0].state = "INIT";
  EXPECT_NE(only(machine, "nic-port-down", Verdict::kWarning).fix.find("subnet manager"), std::string::npos);
  for (Nic& nic : host_of(machine).nics) nic.ports[0].state = "DOWN";
  EXPECT_EQ(troubles_of(machine), Strings(8, "fatal nic-port-down"));
}

TEST(Faults, PortsSlowerThanTheirSiblings) {
  Inventory machine = hgx_h100();
  host_of(machine).nics[1].ports[0].gbit_per_s = 200;
  host_of(machine).nics[1].ports[0].speed_name = "2X NDR";
  const Finding finding = only(machine, "nic-port-slow", Verdict::kWarning);
  EXPECT_EQ(finding.evidence[0].value, "200 Gb/sec (2X NDR)");
  EXPECT_GT(finding.cost_us, 0);
  for (Nic& nic : host_of(machine).nics) nic.ports[0].gbit_per_s = 200;  // HDR everywhere is no fault
  EXPECT_EQ(troubles_of(machine), Strings{});
  for (Nic& nic : host_of(machine).nics) nic.ports[0].gbit_per_s = 800;
  EXPECT_EQ(troubles_of(machine), Strings{});
}

TEST(Faults, CountersAreNotes) {
  Inventory machine = hgx_h100();
  host_of(machine).nics[1].ports[0].counters = {{"link_downed", 3}, {"port_xmit_data", 99}, {"symbol_error", 0}};
  EXPECT_EQ(only(machine, "nic-error-counters", Verdict::kNote).evidence[0].value, "link_downed 3");
}

TEST(Faults, Firmware) {
  Inventory machine = hgx_h100();
  host_of(machine).nics[1].firmware = "28.39.1002";
  only(machine, "nic-firmware-differs", Verdict::kNote);
}

TEST(Faults, GpuDirect) {
  Inventory machine = hgx_h100();
  set(machine, "nvidia.peermem", "absent");
  set(machine, "nvidia.dmabuf", "no");
  const Finding finding = only(machine, "gpudirect-rdma", Verdict::kWarning);
  EXPECT_NEAR(finding.cost_us, 160 * 2 * (262144 / 8.0) / 48e9 * 1e6, 1);
  EXPECT_NE(finding.cost_why.find("at least"), std::string::npos);
  EXPECT_EQ(only(machine, "gpudirect-rdma", Verdict::kWarning, 8).cost_us, 0);
  EXPECT_GT(only(machine, "gpudirect-rdma", Verdict::kWarning, 64).cost_us, finding.cost_us);
  forget(machine, "nvidia.dmabuf", "no libibverbs");
  only(machine, "gpudirect-rdma", Verdict::kUnknown);
}

TEST(Faults, AccessControl) {
  Inventory machine = hgx_h100();
  set(machine, "acs.0000:0a:00.0", "on");
  const Finding finding = only(machine, "acs-on", Verdict::kWarning);
  EXPECT_NE(finding.fix.find("setpci -s 0000:0a:00.0 ECAP_ACS+0x6.w=0000"), std::string::npos);
  EXPECT_EQ(finding.cost_us, 0);
  EXPECT_NE(finding.cost_why.find("cannot be told"), std::string::npos);
  forget(machine, "acs.0000:0a:00.0", "permission denied; run as root");
  EXPECT_NE(only(machine, "acs-on", Verdict::kUnknown).fix.find("root"), std::string::npos);
}

struct Setting {
  const char *key, *value, *id;
  Verdict verdict;
};
void PrintTo(const Setting& setting, std::ostream* out) { *out << setting.key << " " << setting.value; }
class Settings : public testing::TestWithParam<Setting> {};

TEST_P(Settings, GiveTheirFinding) {
  Inventory machine = hgx_h100();
  set(machine, GetParam().key, GetParam().value);
  only(machine, GetParam().id, GetParam().verdict);
}

INSTANTIATE_TEST_SUITE_P(
    All, Settings,
    testing::Values(Setting{"iommu.mode", "translated", "iommu-translates", Verdict::kWarning},
                    Setting{"limits.memlock_bytes", "65536", "memlock", Verdict::kWarning},
                    Setting{"shm.bytes", "67108864", "shm-small", Verdict::kNote},
                    Setting{"shm.free_bytes", "4096", "shm-small", Verdict::kNote},
                    Setting{"limits.open_files", "256", "open-files", Verdict::kWarning},
                    Setting{"limits.open_files", "4096", "open-files", Verdict::kNote},
                    Setting{"limits.stack_bytes", "unlimited", "stack-size", Verdict::kWarning},
                    Setting{"limits.stack_bytes", "1048576", "stack-size", Verdict::kWarning},
                    Setting{"os.numa_balancing", "1", "numa-balancing", Verdict::kWarning},
                    Setting{"os.cpu_governor", "schedutil", "cpu-governor", Verdict::kNote},
                    Setting{"os.thp", "never", "huge-pages", Verdict::kNote},
                    Setting{"nvidia.persistence", "off", "persistence-mode", Verdict::kNote},
                    Setting{"gpu.2.ecc_uncorrected", "7", "gpu-memory-errors", Verdict::kWarning},
                    Setting{"gpu.2.xid", "79", "xid", Verdict::kFatal},
                    Setting{"gpu.2.xid", "31, 74", "xid", Verdict::kWarning},
                    Setting{"gpu.2.xid", "31", "xid", Verdict::kNote},
                    Setting{"nvidia.driver", "absent", "nvidia-driver", Verdict::kFatal},
                    Setting{"nvidia.unlisted_gpus", "0000:d1:00.0", "nvidia-driver", Verdict::kFatal},
                    Setting{"lib.nvml", "570.124.06", "driver-library-mismatch", Verdict::kFatal},
                    Setting{"pci.max_read_request.0000:31:00.0", "128", "pcie-max-read-request", Verdict::kNote}));

TEST(Faults, ALibraryOfAnotherVersion) {
  Inventory machine = hgx_h100();
  machine.facts.erase("lib.nvml");
  only(machine, "driver-library-mismatch", Verdict::kUnknown);
  machine.facts["nvidia.persistence"].source = "nvmlDeviceGetPersistenceMode";
  EXPECT_EQ(troubles_of(machine), Strings{}) << "NVML answers only if the versions agree";
  forget(machine, "nvml", "nvmlInit: Driver/library version mismatch");
  only(machine, "driver-library-mismatch", Verdict::kFatal);
}

TEST(Faults, ASandboxThatHidesTheNetworkIsNotWithoutOne) {
  Inventory machine = laptop();
  set(machine, "verbs.devices", "0");
  EXPECT_EQ(troubles_of(machine, 1), Strings{});
  forget(machine, "verbs.devices", "there is no /sys/class");
  only(machine, "no-fabric", Verdict::kUnknown, 1);
}

TEST(Faults, GpusWithoutEccHaveNoErrorsToTell) {
  Inventory machine = hgx_h100();
  for (int i = 0; i < 8; ++i) forget(machine, "gpu." + std::to_string(i) + ".ecc_uncorrected", "Not Supported");
  EXPECT_EQ(troubles_of(machine), Strings{});
  forget(machine, "gpu.3.ecc_uncorrected", "Insufficient Permissions");
  only(machine, "gpu-memory-errors", Verdict::kUnknown);
}

TEST(Settings, ThatDependOnTheVersionOfNccl) {
  Inventory machine = hgx_h100();
  set(machine, "shm.bytes", "67108864");
  set(machine, "lib.nccl", "2.22.3");
  only(machine, "shm-small", Verdict::kWarning);
  machine = hgx_h100();
  set(machine, "limits.stack_bytes", "unlimited");
  set(machine, "lib.nccl", "2.28.9");
  EXPECT_EQ(troubles_of(machine), Strings{"note nvls-multicast"});
}

// Facts from a damaged copy may say anything, and matrices may be missing.
TEST(Damage, ChangesWhatIsSaidButNeverCrashes) {
  constexpr const char* kValues[] = {"",       "0",  "-1",   "1e308",   "nan", "99999999999999999999",
                                     "absent", "on", "none", "\x01\xff"};
  const std::vector<Inventory> sane = {hgx_h100(), l40s_box(), laptop()};
  for (uint64_t i = 0; i < 1000; ++i) {
    Inventory machine = sane[i % sane.size()];
    uint64_t counter = 0;
    const auto pick = [&](uint64_t below) { return random_bits(i, counter++) % below; };
    for (uint64_t edits = 1 + pick(8); edits > 0; --edits) {
      const auto fact = std::next(machine.facts.begin(), static_cast<int64_t>(pick(machine.facts.size())));
      fact->second.value = kValues[pick(std::size(kValues))];
      if (pick(4) == 0) fact->second.why_unknown = "permission denied";
    }
    Host& host = host_of(machine);
    if (pick(3) == 0) host.gpu_to_nic.clear();
    if (pick(3) == 0) host.gpu_to_gpu.clear();
    for (Gpu& gpu : host.gpus) {
      if (pick(6) == 0) gpu.num_nvlinks = static_cast<int>(pick(20)) - 1;
      if (pick(6) == 0) gpu.pcie = {2.5 * static_cast<double>(pick(4)), 32, static_cast<int>(pick(17)), 16};
      if (pick(20) == 0) gpu.nvlink_domain = "x";
    }
    for (Nic& nic : host.nics) {
      if (pick(8) == 0) nic.ports.clear();
      if (pick(8) == 0) nic.kind = static_cast<NicKind>(pick(6));
      if (pick(8) == 0) nic.role = static_cast<NicRole>(pick(4));
    }
    // Priced on one host: schedules over two would make this test long.
    const std::vector<Finding> findings =
        examine(machine, llama_70b(static_cast<int>(host.gpus.empty() ? 1 : host.gpus.size())));
    for (const Finding& finding : findings) {
      ASSERT_FALSE(finding.what.empty()) << finding.id;
      ASSERT_GE(finding.cost_us, 0) << finding.id;
      ASSERT_TRUE(std::isfinite(finding.cost_us)) << finding.id;
    }
    ASSERT_FALSE(to_text(findings, true, true).empty());
  }
}

TEST(Order, TheWorstAndTheDearestFirst) {
  Inventory machine = hgx_h100();
  host_of(machine).nics[1].pcie.width = 8;
  host_of(machine).nics[2].pcie.width = 1;
  set(machine, "gpu.2.xid", "79");
  set(machine, "os.thp", "never");
  forget(machine, "iommu.mode", "no /sys");
  const std::vector<Finding> findings = examine(machine, llama_70b(16));
  EXPECT_EQ(troubles(findings), (Strings{"fatal xid", "warning pcie-downgraded", "warning pcie-downgraded",
                                         "unknown iommu-translates", "note huge-pages"}));
  EXPECT_NE(findings[1].what.find("mlx5_2"), std::string::npos);
  EXPECT_GT(findings[1].cost_us, findings[2].cost_us);
}

}  // namespace
}  // namespace lane::doctor::test
