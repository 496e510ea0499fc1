#include "tests/inventory/text/sample.h"

namespace lane::inventory {
namespace {

using topology::Path;
using Names = std::vector<std::string>;

Inventory topo_m(const std::string& machine) { return read_sample(read_topo_m, "topo_m_" + machine + ".txt"); }

void expect_all_nvlink(const topology::Host& host, int links) {
  for (size_t a = 0; a < host.gpus.size(); ++a)
    for (size_t b = 0; b < host.gpus.size(); ++b) {
      EXPECT_EQ(host.gpu_to_gpu[a][b], a == b ? Path::kSelf : Path::kNvlink) << a << " " << b;
      EXPECT_EQ(host.gpu_to_gpu_nvlinks[a][b], a == b ? 0 : links) << a << " " << b;
    }
}

TEST(TopoM, DgxA100HasTwoNicsForEachPairOfGpusBehindSeveralBridges) {
  const Inventory inventory = topo_m("dgx_a100");
  const topology::Host& found = host(inventory);
  ASSERT_EQ(found.gpus.size(), 8u);
  ASSERT_EQ(found.nics.size(), 10u);
  expect_all_nvlink(found, 12);
  EXPECT_EQ(nics_near(found, Path::kPix), Names(8, ""));
  EXPECT_EQ(nics_near(found, Path::kPxb), (Names{"mlx5_0 mlx5_1", "mlx5_0 mlx5_1", "mlx5_2 mlx5_3", "mlx5_2 mlx5_3",
                                                 "mlx5_4 mlx5_5", "mlx5_4 mlx5_5", "mlx5_6 mlx5_7", "mlx5_6 mlx5_7"}));
  EXPECT_EQ(found.gpu_to_nic[0][8], Path::kSys) << "NPS4: a quarter of a socket is a NUMA node";
  std::vector<int> nodes;
  for (const auto& gpu : found.gpus) nodes.push_back(gpu.numa_node);
  EXPECT_EQ(nodes, (std::vector{3, 3, 1, 1, 7, 7, 5, 5}));
  ASSERT_EQ(found.machine.numa_nodes.size(), 4u);
  EXPECT_EQ(found.machine.numa_nodes[1].id, 3);
  EXPECT_EQ(found.machine.numa_nodes[1].cpus.front(), 48);
  EXPECT_EQ(found.machine.numa_nodes[1].cpus.back(), 191);
  EXPECT_EQ(found.machine.numa_nodes[1].cpus.size(), 32u);
  EXPECT_TRUE(found.gpus[0].has_nvswitch) << "7 x 12 links are more than a GPU has";
  EXPECT_EQ(fact(inventory, "text.topo_m"), "nvidia-smi topo -m");
  EXPECT_EQ(inventory.find("text.topo_m")->source, "topo_m_dgx_a100.txt");
}

TEST(TopoM, WithTwoNodesPerSocketANicOfAnotherKindMayStandBetween) {
  const Inventory inventory = topo_m("h100_nps2");
  EXPECT_EQ(nics_near(host(inventory), Path::kPix),
            (Names{"mlx5_0", "mlx5_1", "mlx5_2", "mlx5_4", "mlx5_5", "mlx5_6", "mlx5_7", "mlx5_8"}));
  EXPECT_EQ(host(inventory).nics[3].name, "mlx5_bond_0") << "the legend names NIC3";
  EXPECT_EQ(host(inventory).gpus[7].numa_node, 3);
}

TEST(TopoM, TheNearestNicNeedNotHaveTheGpusNumber) {
  EXPECT_EQ(nics_near(host(topo_m("h100_reversed")), Path::kPix),
            (Names{"mlx5_3", "mlx5_2", "mlx5_1", "mlx5_0", "mlx5_5", "mlx5_4", "mlx5_7", "mlx5_6"}));
}

TEST(TopoM, NicsWithTwoPortsAreTwoFunctionsEach) {
  const Inventory inventory = topo_m("dual_port");
  EXPECT_EQ(host(inventory).nics.size(), 18u);
  const Names near = nics_near(host(inventory), Path::kPxb);
  EXPECT_EQ(near[0], "mlx5_0 mlx5_1 mlx5_2 mlx5_3");
  EXPECT_EQ(near[1], near[0]);
  EXPECT_EQ(near[2], "mlx5_6 mlx5_7 mlx5_8 mlx5_9");
  EXPECT_EQ(near[7], "mlx5_14 mlx5_15 mlx5_16 mlx5_17");
}

TEST(TopoM, OlderDriversHaveNoColumnForTheGpusOwnNode) {
  const Inventory inventory = topo_m("a800");
  expect_all_nvlink(host(inventory), 8);
  EXPECT_EQ(nics_near(host(inventory), Path::kPix),
            (Names{"mlx5_2", "mlx5_4", "mlx5_6", "mlx5_8", "mlx5_1", "mlx5_3", "mlx5_5", "mlx5_7"}));
  EXPECT_EQ(host(inventory).gpus[4].numa_node, 1);
}

// The word SYS is in every legend and between most pairs: what counts is whether each GPU has a near NIC.
TEST(TopoM, AllGpusMayBeApartAndStillHaveANicEach) {
  const Inventory inventory = topo_m("pcie_all_sys");
  const topology::Host& found = host(inventory);
  EXPECT_EQ(found.gpu_to_gpu[0][1], Path::kSys);
  EXPECT_EQ(found.gpu_to_gpu_nvlinks[0][1], 0);
  EXPECT_FALSE(found.gpus[0].has_nvswitch);
  EXPECT_EQ(nics_near(found, Path::kPix),
            (Names{"mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3", "mlx5_4", "mlx5_5", "mlx5_6", "mlx5_7"}));
}

TEST(TopoM, VirtualFunctionsAreColumnsToo) {
  const Inventory inventory = topo_m("h20_vfs");
  EXPECT_EQ(host(inventory).nics.size(), 34u);
  EXPECT_EQ(nics_near(host(inventory), Path::kPix)[0], "mlx5_0 mlx5_1 mlx5_2 mlx5_3 mlx5_4");
  EXPECT_EQ(nics_near(host(inventory), Path::kPix)[7], "mlx5_30 mlx5_31 mlx5_32 mlx5_33");
}

TEST(TopoM, AConsumerPairWithoutNics) {
  const Inventory inventory = topo_m("consumer_pair");
  const topology::Host& found = host(inventory);
  EXPECT_EQ(found.gpu_to_gpu, (std::vector<std::vector<Path>>{{Path::kSelf, Path::kPhb}, {Path::kPhb, Path::kSelf}}));
  EXPECT_TRUE(found.nics.empty());
  EXPECT_TRUE(found.gpu_to_nic.empty());
  EXPECT_EQ(found.gpus[1].numa_node, 0) << "two tabs before N/A are one border";
  EXPECT_EQ(found.machine.numa_nodes[0].cpus.size(), 64u);
}

TEST(TopoM, DriversOf2018NameTheNicsInTheirColumns) {
  const Inventory inventory = topo_m("dgx2");
  const topology::Host& found = host(inventory);
  ASSERT_EQ(found.gpus.size(), 16u);
  expect_all_nvlink(found, 6);
  ASSERT_EQ(found.nics.size(), 10u);
  EXPECT_EQ(found.nics[9].name, "mlx5_9");
  EXPECT_EQ(nics_near(found, Path::kPix)[15], "mlx5_8");
  EXPECT_EQ(found.gpus[0].numa_node, -1) << "they do not tell the node";
  EXPECT_TRUE(found.gpus[0].has_nvswitch);
}

TEST(TopoM, GraceHopperAndBlackwellGpusHaveNodesOfTheirOwn) {
  const Inventory inventory = topo_m("gb200");
  const topology::Host& found = host(inventory);
  expect_all_nvlink(found, 18);
  EXPECT_EQ(found.gpus[2].numa_node, 1) << "the CPU's node, not that of the GPU's memory (18)";
  ASSERT_EQ(found.machine.numa_nodes.size(), 2u);
  EXPECT_EQ(found.machine.numa_nodes[1].cpus.front(), 72);
  EXPECT_EQ(found.gpu_to_nic[3][0], Path::kSys);
}

TEST(TopoM, DirectLinksDoNotLookLikeASwitch) {
  const Inventory inventory = topo_m("h100_nv6");
  expect_all_nvlink(host(inventory), 6);
  EXPECT_FALSE(host(inventory).gpus[0].has_nvswitch) << "3 x 6 links are what an H100 has";
  EXPECT_EQ(host(inventory).gpus[2].numa_node, 7);
}

TEST(TopoM, CodesForTheTerminalAreNotContent) {
  const std::string text = sample("topo_m_h200_vm.txt");
  ASSERT_NE(text.find("\x1b[4m"), std::string::npos);
  Inventory inventory, copied;
  read_topo_m(text, "x", inventory);
  expect_all_nvlink(host(inventory), 18);
  std::string without_escapes;  // as after copying from a window
  for (const char c : text)
    if (c != '\x1b') without_escapes += c;
  read_topo_m(without_escapes, "x", copied);
  EXPECT_EQ(inventory.topology, copied.topology);
}

TEST(TopoM, LinesOfWindowsAndACommandAboveDoNotMatter) {
  std::string text = "$ nvidia-smi topo -m\r\n";
  for (const char c : sample("topo_m_dgx_a100.txt")) text += c == '\n' ? std::string("\r\n") : std::string(1, c);
  Inventory inventory;
  read_topo_m(text, "x", inventory);
  EXPECT_EQ(inventory.topology, topo_m("dgx_a100").topology);
}

TEST(TopoM, WithoutALegendTheNumbersStandForTheNames) {
  std::string text = sample("topo_m_h100_nv6.txt");
  text.resize(text.find("\nNIC Legend"));
  Inventory inventory;
  read_topo_m(text, "x", inventory);
  EXPECT_EQ(nics_near(host(inventory), Path::kPix), (Names{"NIC0", "NIC1", "NIC2", "NIC3"}));
}

TEST(TopoM, UnknownWordsAreUnknownPaths) {
  Inventory inventory;
  read_topo_m("\tGPU0\tGPU1\tNIC0\tCPU Affinity\nGPU0\tX\tC2C\tPIX\t0-3\nGPU1\tC2C\tX\tNEW\t0-3\n", "x", inventory);
  EXPECT_EQ(host(inventory).gpu_to_gpu[0][1], Path::kUnknown);
  EXPECT_EQ(host(inventory).gpu_to_nic[0][0], Path::kPix);
  EXPECT_EQ(host(inventory).gpu_to_nic[1][0], Path::kUnknown);
}

TEST(TopoM, OtherOutputIsRefusedWithASentence) {
  EXPECT_NE(error_of(read_topo_m, sample("topo_p2p.txt")).find("nvidia-smi topo -p2p"), std::string::npos);
  EXPECT_NE(error_of(read_topo_m, "bash: nvidia-smi: command not found\n").find("dump.txt:1: expected"),
            std::string::npos);
  Inventory inventory;
  read_topo_m("\n", "empty.txt", inventory);
  EXPECT_EQ(fact(inventory, "text.topo_m"), "?") << "an empty output tells nothing";
  EXPECT_TRUE(inventory.topology.hosts.empty());
}

TEST(TopoM, ErrorsNameTheLine) {
  const std::string text = sample("topo_m_consumer_pair.txt");
  EXPECT_EQ(error_of(read_topo_m, replaced(text, "GPU1\tPHB\t X \t0-63\t0\t\tN/A", "GPU1\tPHB")),
            "dump.txt:3: row GPU1: expected 2 cells, found 1");
  EXPECT_EQ(error_of(read_topo_m, replaced(text, "\tGPU0\tGPU1", "\tGPU0\tGPU0")),
            "dump.txt:1: column GPU0 is there twice");
  EXPECT_EQ(error_of(read_topo_m, replaced(text, "GPU1\tPHB", "GPU0\tPHB")), "dump.txt:3: row GPU0 is there twice");
  EXPECT_EQ(error_of(read_topo_m, replaced(text, "GPU1\tPHB", "GPU9\tPHB")),
            "dump.txt:3: row \"GPU9\" has no column of that name");
  EXPECT_NE(error_of(read_topo_m, replaced(text, "X \tPHB\t0-63", "X \tPHB\t0-x")).find("dump.txt:2: CPU list"),
            std::string::npos);
  EXPECT_NE(error_of(read_topo_m, text.substr(0, text.find("GPU1\tPHB"))).find("GPU1 has no row"), std::string::npos);
}

TEST(NvlinkS, LinksAreCountedAndTheirRateKept) {
  struct Machine {
    const char* file;
    size_t num_gpus;
    int num_links;
    double gb_per_s;
  };
  for (const Machine& machine : {Machine{"h100", 8, 18, 26.562}, Machine{"a100", 2, 12, 25},
                                 Machine{"h800", 2, 8, 26.562}, Machine{"gb200", 4, 18, 53.125}}) {
    const Inventory inventory = read_sample(read_nvlink_s, std::string("nvlink_s_") + machine.file + ".txt");
    ASSERT_EQ(host(inventory).gpus.size(), machine.num_gpus);
    for (const topology::Gpu& gpu : host(inventory).gpus) {
      EXPECT_EQ(gpu.num_nvlinks, machine.num_links);
      EXPECT_EQ(gpu.max_nvlinks, machine.num_links);
      EXPECT_EQ(gpu.nvlink_gb_per_s, machine.gb_per_s);
      EXPECT_FALSE(gpu.has_nvswitch) << "this command does not tell what links lead to";
      EXPECT_EQ(gpu.name.find("UUID"), std::string::npos);
    }
  }
}

TEST(NvlinkS, InactiveLinksAreThereButDoNotCount) {
  const Inventory inventory = read_sample(read_nvlink_s, "nvlink_s_v100_one_down.txt");
  EXPECT_EQ(host(inventory).gpus[3].num_nvlinks, 4);
  EXPECT_EQ(host(inventory).gpus[3].max_nvlinks, 6);
  EXPECT_EQ(fact(inventory, "gpu.3.nvlink.3"), "inactive");
  EXPECT_EQ(fact(inventory, "gpu.3.nvlink.4"), "active");
  EXPECT_EQ(fact(inventory, "gpu.0.nvlink.3"), "active");
}

TEST(NvlinkS, AGpuWithoutAnyLinkIsNotAGpuThatSaysNothing) {
  const Inventory inventory = read_sample(read_nvlink_s, "nvlink_s_one_gpu_dark.txt");
  ASSERT_EQ(host(inventory).gpus.size(), 4u);
  EXPECT_EQ(host(inventory).gpus[2].num_nvlinks, 0) << "the driver says that all are inactive";
  EXPECT_EQ(host(inventory).gpus[2].max_nvlinks, -1);
  EXPECT_EQ(host(inventory).gpus[3].num_nvlinks, -1) << "no line of links: unknown";
}

TEST(NvlinkS, NothingAtAllTellsNothing) {
  Inventory inventory;
  read_nvlink_s("", "x", inventory);
  EXPECT_TRUE(inventory.topology.hosts.empty());
  EXPECT_EQ(fact(inventory, "text.nvlink_s"), "?");
  EXPECT_TRUE(host(read_sample(read_nvlink_s, "nvlink_s_all_dark.txt")).gpus.empty());
}

TEST(NvlinkS, ErrorsNameTheLine) {
  const std::string text = sample("nvlink_s_a100.txt");
  EXPECT_EQ(error_of(read_nvlink_s, replaced(text, "Link 2:", "Link 1:")), "dump.txt:4: link 1 is there twice");
  EXPECT_NE(error_of(read_nvlink_s, replaced(text, "Link 2:", "Link two:")).find("dump.txt:4:"), std::string::npos);
  EXPECT_EQ(error_of(read_nvlink_s, replaced(text, "GPU 1:", "GPU 0:")), "dump.txt:14: GPU 0 is there twice");
  EXPECT_EQ(error_of(read_nvlink_s, "\t Link 0: 25 GB/s\n"), "dump.txt:1: a link before the first GPU");
  EXPECT_NE(error_of(read_nvlink_s, "command not found\n").find("expected the output"), std::string::npos);
}

TEST(SmiQ, AHostOfEightGpus) {
  const Inventory inventory = read_sample(read_smi_q, "smi_q_h100.txt");
  ASSERT_EQ(host(inventory).gpus.size(), 8u);
  const topology::Gpu& gpu = host(inventory).gpus[1];
  EXPECT_EQ(gpu.index, 1);
  EXPECT_EQ(gpu.pci_id, "0000:2a:00.0");
  EXPECT_EQ(gpu.name, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(gpu.memory_bytes, int64_t{81559} << 20);
  EXPECT_EQ(gpu.pcie, (topology::PcieLink{32, 32, 16, 16}));
  EXPECT_EQ(gpu.nvlink_domain, "") << "a cluster of zeros is none: an HGX board is no NVL72";
  EXPECT_EQ(fact(inventory, "nvidia.driver"), "570.133.20");
  EXPECT_EQ(fact(inventory, "nvidia.persistence"), "on");
  EXPECT_EQ(fact(inventory, "gpu.1.pcie"), "32.0 GT/s x16 of 32.0 GT/s x16");
  EXPECT_EQ(fact(inventory, "gpu.1.fabric_state"), "completed");
  EXPECT_EQ(fact(inventory, "gpu.1.fabric_cluster"), "none");
  EXPECT_EQ(fact(inventory, "gpu.1.fabric_clique"), "0");
  EXPECT_EQ(fact(inventory, "gpu.1.ecc"), "on");
  EXPECT_EQ(fact(inventory, "gpu.1.ecc_uncorrected"), "0") << "4 correctable ones and 9 of former days do not count";
}

TEST(SmiQ, SerialNumbersAndUuidsAreNotKept) {
  const Inventory inventory = read_sample(read_smi_q, "smi_q_h100.txt");
  for (const auto& [key, fact] : inventory.facts) {
    EXPECT_EQ(fact.value.find("1650000000000"), std::string::npos) << key;
    EXPECT_EQ(fact.value.find("11111111-2222"), std::string::npos) << key;
  }
}

TEST(SmiQ, ANarrowLinkErrorsAndAFabricThatIsNotUp) {
  const Inventory inventory = read_sample(read_smi_q, "smi_q_degraded.txt");
  EXPECT_EQ(host(inventory).gpus[1].pcie, (topology::PcieLink{16, 32, 8, 16}));
  EXPECT_EQ(fact(inventory, "gpu.1.pcie"), "16.0 GT/s x8 of 32.0 GT/s x16");
  EXPECT_EQ(fact(inventory, "gpu.1.ecc_uncorrected"), "3");
  EXPECT_EQ(fact(inventory, "gpu.1.fabric_state"), "in progress");
  EXPECT_EQ(fact(inventory, "gpu.1.fabric_cluster"), "-");
  EXPECT_EQ(fact(inventory, "nvidia.persistence"), "off") << "one that is off is enough";
}

TEST(SmiQ, GpusOfARackShareADomain) {
  const Inventory inventory = read_sample(read_smi_q, "smi_q_gb200.txt");
  ASSERT_EQ(host(inventory).gpus.size(), 4u);
  for (const topology::Gpu& gpu : host(inventory).gpus)
    EXPECT_EQ(gpu.nvlink_domain, "8a6b2c11-0f3d-4e55-9a77-3d2e1f0a9b8c.32766");
  EXPECT_EQ(host(inventory).gpus[3].pci_id, "0019:01:00.0");
  EXPECT_EQ(host(inventory).gpus[0].pcie.max_gt_per_s, 64);
}

TEST(SmiQ, AFabricThatHasFailedMakesNoDomain) {
  Inventory inventory;
  read_smi_q(replaced(sample("smi_q_gb200.txt"), ": Success", ": Insufficient Resources"), "x", inventory);
  EXPECT_EQ(fact(inventory, "gpu.0.fabric_state"), "failed: Insufficient Resources");
  EXPECT_EQ(host(inventory).gpus[0].nvlink_domain, "");
  EXPECT_EQ(fact(inventory, "gpu.1.fabric_state"), "completed");
}

TEST(SmiQ, AnIdleConsumerGpuIsSlowAndHasNoFabric) {
  const Inventory inventory = read_sample(read_smi_q, "smi_q_consumer.txt");
  EXPECT_EQ(fact(inventory, "gpu.0.pcie"), "2.5 GT/s x16 of 16.0 GT/s x16");
  EXPECT_EQ(fact(inventory, "gpu.0.performance_state"), "P8") << "the reason why its link is slow";
  EXPECT_EQ(fact(inventory, "gpu.0.fabric_state"), "?");
  EXPECT_EQ(fact(inventory, "gpu.0.ecc_uncorrected"), "-") << "N/A is not 0";
  EXPECT_EQ(fact(inventory, "gpu.0.ecc"), "-");
}

TEST(SmiQ, OlderDriversCountDoubleBitErrors) {
  const Inventory inventory = read_sample(read_smi_q, "smi_q_old_driver.txt");
  EXPECT_EQ(fact(inventory, "gpu.0.ecc_uncorrected"), "3");
  EXPECT_EQ(fact(inventory, "gpu.0.ecc"), "on");
  EXPECT_EQ(host(inventory).gpus[0].pcie, (topology::PcieLink{8, 8, 16, 16}));
}

TEST(SmiQ, ErrorsNameTheLine) {
  const std::string text = sample("smi_q_degraded.txt");
  EXPECT_EQ(error_of(read_smi_q, replaced(text, "GPU 00000000:2A", "GPU 00000000:18")),
            "dump.txt:66: GPU 0000:18:00.0 is there twice");
  EXPECT_NE(error_of(read_smi_q, "command not found\n").find("expected the output of `nvidia-smi -q`"),
            std::string::npos);
  EXPECT_NE(error_of(read_smi_q, "<?xml version=\"1.0\" ?>\n<nvidia_smi_log/>\n").find("nvidia-smi -q -x"),
            std::string::npos);
}

}  // namespace
}  // namespace lane::inventory
