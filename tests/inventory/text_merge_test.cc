#include "lane/inventory/matching.h"
#include "tests/inventory/text/sample.h"

// Readers add to what others have found; what is known stays.

namespace lane::inventory {
namespace {

using topology::NicKind;
using topology::Path;

TEST(PciId, OneFormForAll) {
  for (const char* text : {"00000000:18:00.0", "0000:18:00.0", "18:00.0", "0:18:0.0"})
    EXPECT_EQ(normal_pci_id(text), "0000:18:00.0") << text;
  EXPECT_EQ(normal_pci_id("00000000:AB:1F.7"), "0000:ab:1f.7");
  EXPECT_EQ(normal_pci_id("00010000:E1:00.0"), "10000:e1:00.0") << "domains of hubs behind a CPU's port";
  for (const char* text : {"", "18", "18:00", "0000:18:00", "fffffff:ffff:ff", "fffffff:ff:ff.0", "0000:18:00.8",
                           "0000:18:20.0", "x:18:00.0", "0000:18:00.0 ", ":18:00.0", "0000:18:00."})
    EXPECT_EQ(normal_pci_id(text), "") << text;
}

TEST(Mask, ReadAndWrittenWithTheHighestBitsFirst) {
  EXPECT_EQ(bits_of_mask("0000ffff,00000003").size(), 18u);
  EXPECT_EQ(bits_of_mask("00000001,00000000"), std::vector{32});
  EXPECT_EQ(bits_of_mask("0x00000001,,0x00000002"), (std::vector{1, 64}));
  EXPECT_EQ(bits_of_mask(""), std::vector<int>{});
  EXPECT_EQ(mask_of_bits({1, 64}), "00000001,00000000,00000002");
  EXPECT_EQ(bits_of_mask(mask_of_bits({0, 31, 32, 95})), (std::vector{0, 31, 32, 95}));
  for (const char* text : {"g", "123456789", "0x", "1 2", "-1"}) EXPECT_THROW(bits_of_mask(text), Error) << text;
  EXPECT_EQ(bits_of_mask("0x0,0x0"), std::vector<int>{});
}

// As a collector of sysfs leaves it.
Inventory from_sysfs(size_t num_gpus) {
  Inventory inventory;
  topology::Host& host = host_of(inventory);
  for (size_t at = 0; at < num_gpus; ++at)
    host.gpus.push_back({.index = static_cast<int>(at),
                         .pci_id = "0000:0" + std::to_string(at + 1) + ":00.0",
                         .numa_node = 1,
                         .pcie = {8, 32, 16, 16}});
  host.nics.push_back({.name = "mlx5_1", .pci_id = "0000:09:00.0", .kind = NicKind::kRoce});
  host.nics.push_back({.name = "mlx5_0", .pci_id = "0000:0a:00.0"});
  host.gpu_to_gpu.assign(num_gpus, std::vector(num_gpus, Path::kSys));
  for (size_t at = 0; at < num_gpus; ++at) host.gpu_to_gpu[at][at] = Path::kSelf;
  host.gpu_to_nic.assign(num_gpus, std::vector(2, Path::kUnknown));
  host.gpu_to_nic[0][0] = Path::kPxb;
  return inventory;
}

constexpr const char* kTopo =
    "\tGPU0\tGPU1\tNIC0\tNIC1\tCPU Affinity\tNUMA Affinity\n"
    "GPU0\tX\tNV4\tPIX\tSYS\t0-3\t0\n"
    "GPU1\tNV4\tX\tSYS\tPIX\t0-3\t0\n"
    "\n"
    "NIC Legend:\n  NIC0: mlx5_0\n  NIC1: mlx5_1\n";

TEST(Merge, WhatSysfsSaysWins) {
  Inventory inventory = from_sysfs(2);
  read_topo_m(kTopo, "topo", inventory);
  const topology::Host& found = host(inventory);
  ASSERT_EQ(found.gpus.size(), 2u);
  ASSERT_EQ(found.nics.size(), 2u) << "met by name";
  EXPECT_EQ(found.gpus[0].numa_node, 1);
  EXPECT_EQ(found.gpus[0].pci_id, "0000:01:00.0");
  EXPECT_EQ(found.gpu_to_nic[0], (std::vector{Path::kPxb, Path::kPix})) << "PXB was known, the other was not";
  EXPECT_EQ(found.gpu_to_nic[1], (std::vector{Path::kPix, Path::kSys})) << "in the host's order of NICs";
}

TEST(Merge, NvlinkIsNotAgainstAKnownPathOverPcie) {
  Inventory inventory = from_sysfs(2);
  read_topo_m(kTopo, "topo", inventory);
  EXPECT_EQ(host(inventory).gpu_to_gpu[0][1], Path::kNvlink);
  EXPECT_EQ(host(inventory).gpu_to_gpu_nvlinks[1][0], 4);
  Inventory dark = from_sysfs(2);
  dark.topology.hosts[0].gpus[1].num_nvlinks = 0;  // as NVML says
  read_topo_m(kTopo, "topo", dark);
  EXPECT_EQ(host(dark).gpu_to_gpu[0][1], Path::kSys);
  EXPECT_EQ(host(dark).gpu_to_gpu_nvlinks[0][1], 0);
}

TEST(Merge, InAContainerNumbersAreOthers) {
  for (const auto& [reader, text] :
       {std::pair<Reader, std::string>{read_topo_m, kTopo}, {read_nvlink_s, sample("nvlink_s_a100.txt")}}) {
    Inventory inventory = from_sysfs(4);
    const topology::Topology before = inventory.topology;
    reader(text, "x", inventory);
    EXPECT_EQ(inventory.topology, before);
    const std::string name = reader == read_topo_m ? "text.topo_m" : "text.nvlink_s";
    EXPECT_NE(inventory.find(name)->why_unknown.find("lists 2 GPUs, and this host has 4"), std::string::npos);
  }
}

TEST(Merge, GpusMeetByTheirAddressWhateverItsForm) {
  Inventory inventory;
  host_of(inventory).gpus.push_back({.index = 0, .pci_id = "0000:2a:00.0", .name = "known", .pcie = {16, 0, 0, 0}});
  read_smi_q(sample("smi_q_one_of_eight.txt"), "q", inventory);
  ASSERT_EQ(host(inventory).gpus.size(), 1u);
  EXPECT_EQ(host(inventory).gpus[0].name, "known");
  EXPECT_EQ(host(inventory).gpus[0].pcie, (topology::PcieLink{16, 32, 16, 16}));
  EXPECT_EQ(host(inventory).gpus[0].memory_bytes, int64_t{81559} << 20);
}

TEST(Merge, TheWholeListTellsTheNumbers) {
  Inventory inventory;
  read_nvlink_s(sample("nvlink_s_h100.txt"), "nvlink", inventory);
  read_smi_q(sample("smi_q_h100.txt"), "q", inventory);
  ASSERT_EQ(host(inventory).gpus.size(), 8u);
  EXPECT_EQ(host(inventory).gpus[7].pci_id, "0000:db:00.0");
  EXPECT_EQ(host(inventory).gpus[7].num_nvlinks, 18);
}

TEST(Merge, OneGpuOfEightCouldBeAny) {
  Inventory inventory;
  read_nvlink_s(sample("nvlink_s_h100.txt"), "nvlink", inventory);
  const topology::Topology before = inventory.topology;
  read_smi_q(sample("smi_q_one_of_eight.txt"), "q", inventory);
  EXPECT_EQ(inventory.topology, before);
  EXPECT_EQ(fact(inventory, "nvidia.driver"), "570.133.20") << "what holds for the host is read all the same";
}

TEST(Merge, LinksAndMatrixTogetherShowASwitch) {
  Inventory inventory;  // two GPUs of 18 links each to the other could be a direct pair
  read_topo_m(replaced(replaced(kTopo, "NV4", "NV18"), "NV4", "NV18"), "topo", inventory);
  EXPECT_FALSE(host(inventory).gpus[0].has_nvswitch);
  Inventory three;  // twice 12 are not, once it is known that there are 12
  read_topo_m("\tGPU0\tGPU1\tGPU2\nGPU0\tX\tNV12\tNV12\nGPU1\tNV12\tX\tNV12\nGPU2\tNV12\tNV12\tX\n", "topo", three);
  EXPECT_FALSE(host(three).gpus[0].has_nvswitch);
  std::string links;
  for (int gpu = 0; gpu < 3; ++gpu) {
    links += "GPU " + std::to_string(gpu) + ": NVIDIA A100-SXM4-80GB (UUID: GPU-0)\n";
    for (int link = 0; link < 12; ++link) links += "\t Link " + std::to_string(link) + ": 25 GB/s\n";
  }
  read_nvlink_s(links, "nvlink", three);
  EXPECT_TRUE(host(three).gpus[0].has_nvswitch);
}

TEST(Merge, NewDevicesAreAddedAndMatricesGrow) {
  Inventory inventory;
  read_topo_m(kTopo, "topo", inventory);
  read_ibstat(sample("ibstat_dgx_h100.txt"), "ibstat", inventory);
  const topology::Host& found = host(inventory);
  ASSERT_EQ(found.nics.size(), 11u) << "mlx5_0 and mlx5_1 were there";
  EXPECT_EQ(found.nics[0].firmware, "28.39.1002");
  ASSERT_EQ(found.gpu_to_nic.size(), 2u);
  ASSERT_EQ(found.gpu_to_nic[1].size(), 11u);
  EXPECT_EQ(found.gpu_to_nic[0][0], Path::kPix);
  EXPECT_EQ(found.gpu_to_nic[0][10], Path::kUnknown);
}

TEST(Merge, PortsOfSysfsStay) {
  Inventory inventory = from_sysfs(1);
  host_of(inventory).nics[1].ports.push_back({.number = 1, .state = "DOWN", .gbit_per_s = 200, .speed_name = "4X HDR"});
  read_ibv_devinfo(sample("ibv_devinfo_v.txt"), "devinfo", inventory);
  const topology::NicPort& port = host(inventory).nics[1].ports.at(0);
  EXPECT_EQ(port.state, "DOWN");
  EXPECT_EQ(port.gbit_per_s, 200);
  EXPECT_EQ(port.speed_name, "4X HDR");
  EXPECT_EQ(port.phys_state, "LinkUp") << "that was not known";
  EXPECT_EQ(host(inventory).nics[0].kind, NicKind::kRoce);
}

TEST(Merge, KnownFactsStayAndUnknownOnesAreFilled) {
  Inventory inventory;
  inventory.facts["nvidia.driver"] = {.value = "999.1", .source = "/sys/module/nvidia/version"};
  inventory.facts["nvidia.persistence"] = {.source = "nvml", .why_unknown = "not permitted"};
  read_smi_q(sample("smi_q_h100.txt"), "q", inventory);
  EXPECT_EQ(fact(inventory, "nvidia.driver"), "999.1");
  EXPECT_EQ(fact(inventory, "nvidia.persistence"), "on");
  EXPECT_EQ(inventory.find("nvidia.persistence")->source, "q");
}

TEST(Merge, ReadingTwiceChangesNothing) {
  const std::pair<Reader, const char*> samples[] = {
      {read_topo_m, "topo_m_dgx_a100.txt"},      {read_nvlink_s, "nvlink_s_v100_one_down.txt"},
      {read_smi_q, "smi_q_gb200.txt"},           {read_ibstat, "ibstat_dgx_h100.txt"},
      {read_ibv_devinfo, "ibv_devinfo_v.txt"},   {read_nccl_topo, "nccl_topo_dgx_a100.xml"},
      {read_nccl_topo, "nccl_topo_h200_vm.xml"}, {read_hwloc, "hwloc_v2.xml"}};
  for (const auto& [reader, name] : samples) {
    Inventory inventory = read_sample(reader, name);
    const topology::Topology once = inventory.topology;
    const auto facts = inventory.facts;
    reader(sample(name), name, inventory);
    EXPECT_EQ(inventory.topology, once) << name;
    EXPECT_EQ(inventory.facts, facts) << name;
  }
}

TEST(Merge, ARefusedTextChangesNothing) {
  Inventory inventory = from_sysfs(2);
  inventory.facts["nvidia.driver"] = {.value = "999.1", .source = "/sys/module/nvidia/version"};
  const Inventory before = inventory;
  EXPECT_THROW(read_ibstat(sample("ibstat_roce.txt") + "CA 'mlx5_0'\n", "x", inventory), Error);
  EXPECT_THROW(
      read_nccl_topo(replaced(sample("nccl_topo_dgx_a100.xml"), "0000:4d:00.0", "0000:44:00.0"), "x", inventory),
      Error);
  EXPECT_EQ(inventory.topology, before.topology);
  EXPECT_EQ(inventory.facts, before.facts);
}

TEST(Merge, NcclsFileAndTheMatrixAgreeOnAMachine) {
  Inventory inventory;
  read_topo_m(sample("topo_m_h200_vm.txt"), "topo", inventory);
  read_nccl_topo(sample("nccl_topo_h200_vm.xml"), "nccl", inventory);
  ASSERT_EQ(host(inventory).gpus.size(), 4u) << "the matrix has numbers, the file addresses too";
  EXPECT_EQ(host(inventory).gpus[3].pci_id, "0000:00:09.0");
  EXPECT_EQ(host(inventory).gpus[3].numa_node, 0);
  EXPECT_TRUE(host(inventory).gpus[3].has_nvswitch);
}

}  // namespace
}  // namespace lane::inventory
