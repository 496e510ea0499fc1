// What is read of each machine, from its files alone or with what its driver says.
#include "lane/inventory/inventory.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "lane/base/error.h"
#include "tests/support/fake_root.h"

namespace lane::inventory {
namespace {

using test::FakeRoot;
using topology::Gpu;
using topology::Host;
using topology::Nic;
using topology::NicKind;
using topology::NicRole;
using topology::Path;

Inventory take(const std::string& machine, const std::string& overlay = {}) {
  return take_inventory(FakeRoot(machine, overlay).path());
}

std::string value(const Inventory& inventory, const std::string& key) {
  const Fact* fact = inventory.find(key);
  if (fact == nullptr) return "(not looked for)";
  return fact->known() ? fact->value : "(unknown)";
}

const Nic& nic(const Host& host, const std::string& name) {
  const auto found = std::find_if(host.nics.begin(), host.nics.end(), [&](const Nic& one) { return one.name == name; });
  if (found == host.nics.end()) throw std::runtime_error("no NIC " + name);
  return *found;
}

// "mlx5_0,mlx5_1 PXB": the nearest of the NICs that compute, and how near they are.
std::string nearest(const Host& host, size_t gpu) {
  Path path = Path::kUnknown;
  for (size_t i = 0; i < host.nics.size(); ++i)
    if (host.nics[i].role == NicRole::kCompute) path = std::min(path, host.gpu_to_nic[gpu][i]);
  std::string names;
  for (size_t i = 0; i < host.nics.size(); ++i)
    if (host.nics[i].role == NicRole::kCompute && host.gpu_to_nic[gpu][i] == path)
      names += (names.empty() ? "" : ",") + host.nics[i].name;
  return names + " " + std::string(topology::name_of(path));
}

std::string numa_nodes(const Host& host) {
  std::string nodes;
  for (const Gpu& gpu : host.gpus) nodes += (nodes.empty() ? "" : " ") + std::to_string(gpu.numa_node);
  return nodes;
}

std::string names_with_role(const Host& host, NicRole role) {
  std::string names;
  for (const Nic& one : host.nics)
    if (one.role == role) names += (names.empty() ? "" : " ") + one.name;
  return names;
}

struct Shape {
  const char* machine;
  size_t num_gpus, num_nics;
  const char* gpu_numa_nodes;
  std::vector<const char*> nearest;  // by GPU
  int links;                         // between any two GPUs
  Path gpu_path;
  double fastest_gbit_per_s;
  const char *storage, *management;
};

const Shape kShapes[] = {
    {"dgx_a100",
     8,
     13,
     "3 3 1 1 7 7 5 5",
     {"mlx5_0,mlx5_1 PXB", "mlx5_0,mlx5_1 PXB", "mlx5_2,mlx5_3 PXB", "mlx5_2,mlx5_3 PXB", "mlx5_6,mlx5_7 PXB",
      "mlx5_6,mlx5_7 PXB", "mlx5_8,mlx5_9 PXB", "mlx5_8,mlx5_9 PXB"},
     12,
     Path::kNvlink,
     200,
     "mlx5_4 mlx5_5 mlx5_10 mlx5_11",
     "enp226s0"},
    {"dgx_h100",
     8,
     13,
     "0 0 0 0 1 1 1 1",
     {"mlx5_0 PIX", "mlx5_3 PIX", "mlx5_4 PIX", "mlx5_5 PIX", "mlx5_6 PIX", "mlx5_9 PIX", "mlx5_10 PIX", "mlx5_11 PIX"},
     18,
     Path::kNvlink,
     400,
     "mlx5_1 mlx5_2 mlx5_7 mlx5_8",
     "eno1"},
    {"hgx_h100_amd",
     8,
     9,
     "0 0 1 1 2 2 3 3",
     {"mlx5_0 PIX", "mlx5_1 PIX", "mlx5_2 PIX", "mlx5_4 PIX", "mlx5_5 PIX", "mlx5_6 PIX", "mlx5_7 PIX", "mlx5_8 PIX"},
     18,
     Path::kNvlink,
     400,
     "",
     "mlx5_3"},
    {"hgx_h100_reversed",
     8,
     9,
     "0 0 0 0 1 1 1 1",
     {"mlx5_3 PIX", "mlx5_2 PIX", "mlx5_1 PIX", "mlx5_0 PIX", "mlx5_5 PIX", "mlx5_4 PIX", "mlx5_6 PIX", "mlx5_7 PIX"},
     18,
     Path::kNvlink,
     400,
     "",
     "eno1"},
    {"dual_port",
     8,
     18,
     "0 0 0 0 1 1 1 1",
     {"mlx5_0,mlx5_1,mlx5_2,mlx5_3 PXB", "mlx5_0,mlx5_1,mlx5_2,mlx5_3 PXB", "mlx5_4,mlx5_5,mlx5_6,mlx5_7 PXB",
      "mlx5_4,mlx5_5,mlx5_6,mlx5_7 PXB", "mlx5_8,mlx5_9,mlx5_10,mlx5_11 PXB", "mlx5_8,mlx5_9,mlx5_10,mlx5_11 PXB",
      "mlx5_12,mlx5_13,mlx5_14,mlx5_15 PXB", "mlx5_12,mlx5_13,mlx5_14,mlx5_15 PXB"},
     8,
     Path::kNvlink,
     200,
     "mlx5_17",
     "mlx5_16"},
    {"a800",
     8,
     5,
     "0 0 0 0 1 1 1 1",
     {"mlx5_2 PIX", "mlx5_2 PIX", "mlx5_3 PIX", "mlx5_3 PIX", "mlx5_1 PIX", "mlx5_1 PIX", "mlx5_0 PIX", "mlx5_0 PIX"},
     8,
     Path::kNvlink,
     200,
     "",
     "eno1"},
    {"pcie_only",
     8,
     9,
     "0 1 2 3 4 5 6 7",
     {"mlx5_0 PIX", "mlx5_1 PIX", "mlx5_2 PIX", "mlx5_3 PIX", "mlx5_4 PIX", "mlx5_5 PIX", "mlx5_6 PIX", "mlx5_7 PIX"},
     0,
     Path::kSys,
     200,
     "",
     "eno1"},
    {"h20_sriov",
     8,
     34,
     "0 0 0 0 1 1 1 1",
     {"mlx5_0 PIX", "mlx5_1 PIX", "mlx5_2 PIX", "mlx5_3 PIX", "mlx5_4 PIX", "mlx5_5 PIX", "mlx5_6 PIX", "mlx5_7 PIX"},
     18,
     Path::kNvlink,
     400,
     "mlx5_33",
     "mlx5_32"},
    {"consumer_pair", 2, 1, "0 0", {" ?", " ?"}, 0, Path::kPhb, 1, "", "enp5s0"},
    {"dgx2",
     16,
     10,
     "0 0 0 0 0 0 0 0 1 1 1 1 1 1 1 1",
     {"mlx5_0 PIX", "mlx5_0 PIX", "mlx5_1 PIX", "mlx5_1 PIX", "mlx5_2 PIX", "mlx5_2 PIX", "mlx5_3 PIX", "mlx5_3 PIX",
      "mlx5_4 PIX", "mlx5_4 PIX", "mlx5_5 PIX", "mlx5_5 PIX", "mlx5_6 PIX", "mlx5_6 PIX", "mlx5_7 PIX", "mlx5_7 PIX"},
     6,
     Path::kNvlink,
     100,
     "mlx5_9",
     "mlx5_8"},
    {"gb200_nvl72",
     4,
     5,
     "0 0 1 1",
     {"mlx5_0,mlx5_1 NODE", "mlx5_0,mlx5_1 NODE", "mlx5_3,mlx5_4 NODE", "mlx5_3,mlx5_4 NODE"},
     18,
     Path::kNvlink,
     400,
     "",
     "mlx5_2"},
    {"h100x4_nv6",
     4,
     5,
     "0 0 1 1",
     {"mlx5_0 PIX", "mlx5_1 PIX", "mlx5_2 PIX", "mlx5_3 PIX"},
     6,
     Path::kNvlink,
     200,
     "",
     "eno1"},
    {"h200x4_vm", 4, 1, "0 0 0 0", {" ?", " ?", " ?", " ?"}, 18, Path::kNvlink, 0, "", "eth0"},
    {"laptop", 0, 0, "", {}, 0, Path::kUnknown, 0, "", ""},
    {"slingshot_gh200",
     4,
     5,
     "0 1 2 3",
     {"cxi0 NODE", "cxi1 NODE", "cxi2 NODE", "cxi3 NODE"},
     6,
     Path::kNvlink,
     200,
     "",
     "nmn0"},
    {"efa_b200",
     8,
     11,
     "0 0 0 0 1 1 1 1",
     {"rdmap86s0 PIX", "rdmap102s0 PIX", "rdmap118s0 PIX", "rdmap134s0 PIX", "rdmap150s0 PIX", "rdmap166s0 PIX",
      "rdmap182s0 PIX", "rdmap198s0 PIX"},
     18,
     Path::kNvlink,
     400,
     "rdmap33s0 rdmap209s0",
     "ens35"},
};

TEST(Inventory, MachinesAreWhatTheirFilesSay) {
  EXPECT_EQ(std::size(kShapes), FakeRoot::machines().size());
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(shape.machine);
    const Inventory inventory = take(shape.machine);
    ASSERT_EQ(inventory.topology.hosts.size(), 1u);
    topology::check(inventory.topology, shape.machine);
    const Host& host = inventory.topology.hosts[0];
    ASSERT_EQ(host.gpus.size(), shape.num_gpus);
    ASSERT_EQ(host.nics.size(), shape.num_nics);
    EXPECT_EQ(numa_nodes(host), shape.gpu_numa_nodes);
    double fastest = 0;
    for (const Nic& one : host.nics)
      for (const auto& port : one.ports) fastest = std::max(fastest, port.gbit_per_s);
    EXPECT_EQ(fastest, shape.fastest_gbit_per_s);
    EXPECT_EQ(names_with_role(host, NicRole::kStorage), shape.storage);
    EXPECT_EQ(names_with_role(host, NicRole::kManagement), shape.management);
    for (size_t i = 0; i < host.gpus.size(); ++i) {
      EXPECT_EQ(nearest(host, i), shape.nearest[i]) << "GPU " << i;
      EXPECT_EQ(host.gpus[i].index, static_cast<int>(i));
      EXPECT_GT(host.gpus[i].memory_bytes, 0);
      EXPECT_GT(host.gpus[i].pcie.gt_per_s, 0);
      EXPECT_EQ(host.gpus[i].pcie.width, 16);
      for (size_t j = 0; j < host.gpus.size(); ++j) {
        EXPECT_EQ(host.gpu_to_gpu[i][j], i == j ? Path::kSelf : shape.gpu_path) << i << " " << j;
        EXPECT_EQ(host.gpu_to_gpu_nvlinks[i][j], i == j ? 0 : shape.links) << i << " " << j;
      }
    }
  }
}

TEST(Inventory, FactsHaveASourceAndAValueOrAReason) {
  for (const std::string& machine : FakeRoot::machines()) {
    const Inventory inventory = take(machine);
    EXPECT_GT(inventory.facts.size(), 20u) << machine;
    for (const auto& [key, fact] : inventory.facts) {
      EXPECT_FALSE(fact.source.empty()) << machine << " " << key;
      EXPECT_NE(fact.value.empty(), fact.why_unknown.empty()) << machine << " " << key;
    }
  }
}

TEST(Inventory, KindsOfAdapters) {
  const Host sriov = take("h20_sriov").topology.hosts[0];
  EXPECT_EQ(std::count_if(sriov.nics.begin(), sriov.nics.end(), [](const Nic& one) { return one.is_virtual_function; }),
            24);
  EXPECT_EQ(nic(sriov, "mlx5_8").role, NicRole::kUnknown) << "a virtual function is for nobody yet";
  EXPECT_EQ(nic(sriov, "mlx5_8").ports[0].state, "DOWN");
  EXPECT_EQ(nic(sriov, "mlx5_8").ports[0].phys_state, "Disabled");
  EXPECT_EQ(nic(sriov, "mlx5_32").kind, NicKind::kRoce);
  EXPECT_EQ(nic(sriov, "mlx5_0").kind, NicKind::kInfiniband);
  EXPECT_EQ(nic(sriov, "mlx5_0").model, "MT4129");
  EXPECT_EQ(nic(sriov, "mlx5_0").board_id, "MT_0000000838");
  EXPECT_EQ(nic(sriov, "mlx5_0").firmware, "28.39.1002");
  EXPECT_EQ(nic(sriov, "mlx5_0").ports[0].counters.at("port_xmit_wait"), 1742);
  EXPECT_EQ(nic(sriov, "mlx5_0").ports[0].counters.at("out_of_sequence"), 0);

  const Host efa = take("efa_b200").topology.hosts[0];
  EXPECT_EQ(nic(efa, "rdmap86s0").kind, NicKind::kEfa);
  EXPECT_EQ(nic(efa, "rdmap86s0").ports[0].speed_name, "4X NDR");
  EXPECT_EQ(nic(efa, "ens35").kind, NicKind::kEthernet);

  const Host cray = take("slingshot_gh200").topology.hosts[0];
  EXPECT_EQ(nic(cray, "cxi0").kind, NicKind::kSlingshot);
  EXPECT_EQ(nic(cray, "cxi0").ports[0].state, "ACTIVE");
  EXPECT_EQ(nic(cray, "cxi0").ports[0].speed_name, "BS_200G");
  EXPECT_EQ(nic(cray, "cxi0").firmware, "1.5.53");
  EXPECT_EQ(std::count_if(cray.nics.begin(), cray.nics.end(), [](auto& one) { return one.name.starts_with("hsn"); }), 0)
      << "hsn0 is the interface of cxi0, not another adapter";
}

TEST(Inventory, ACopyOfFilesInPlaceOfLinks) {
  const std::string device = "sys/class/infiniband/mlx5_0/";
  const Host host = take("dgx_h100", "sys/class/infiniband/mlx5_0 !\n" + device + "hca_type = MT4129\n" + device +
                                         "ports/1/rate = 400 Gb/sec (4X NDR)\n" + device +
                                         "device -> ../../../bus/pci/devices/0000:18:00.0\n")
                        .topology.hosts[0];
  EXPECT_EQ(nic(host, "mlx5_0").pci_id, "0000:18:00.0");
  EXPECT_EQ(nic(host, "mlx5_0").ports[0].gbit_per_s, 400);
  EXPECT_EQ(nic(host, "mlx5_0").numa_node, 0);
}

TEST(Inventory, TheDefaultRouteMayGoOverABond) {
  // A BlueField-3 whose two ports are one verbs device; the route is on bond0 above its interface.
  const std::string bond = "sys/devices/virtual/net/bond0";
  const Host host =
      take("hgx_h100_reversed",
           "@roce pci0000:80/0000:80:01.0 0000:81:00.0 1 56-111 mlx5_bond_0 0009 ens80f0np0 device=0xa2dc "
           "hca=MT41692 part=41692 board=MT_0000000884 rate=\"200 Gb/sec (2X NDR)\" gbit=200 mbit=200000\n"
           "@route bond0\nsys/class/net/bond0 -> ../../devices/virtual/net/bond0\n" +
               bond + "/speed = 200000\n" + bond +
               "/lower_ens80f0np0 -> ../../../pci0000:80/0000:80:01.0/0000:81:00.0/net/ens80f0np0\n")
          .topology.hosts[0];
  EXPECT_EQ(nic(host, "mlx5_bond_0").kind, NicKind::kRoce);
  EXPECT_EQ(names_with_role(host, NicRole::kManagement), "mlx5_bond_0");
  EXPECT_EQ(nic(host, "eno1").role, NicRole::kUnknown) << "nothing says what it is for";
}

// Two ways to the same: bridges and NUMA nodes of sysfs, and the table of nvidia-smi.
TEST(Inventory, SysfsAndNvidiaSmiAgree) {
  for (const std::string& machine : FakeRoot::machines()) {
    SCOPED_TRACE(machine);
    const Host files = take(machine, "text !\n").topology.hosts[0];
    const Host text = take(machine, "sys !\nlane-bundle.json !\ntext/smi_q.txt !\n").topology.hosts[0];
    if (files.gpus.empty()) continue;
    if (text.gpus.empty()) GTEST_SKIP() << "this build has no readers of text";
    ASSERT_EQ(text.gpus.size(), files.gpus.size());
    ASSERT_EQ(text.gpu_to_gpu.size(), files.gpus.size());
    for (size_t i = 0; i < files.gpus.size(); ++i) {
      EXPECT_EQ(text.gpus[i].numa_node, files.gpus[i].numa_node) << "GPU " << i;
      if (text.gpus[i].num_nvlinks >= 0) {  // for cards without NVLink the tool prints nothing
        EXPECT_EQ(text.gpus[i].num_nvlinks, files.gpus[i].num_nvlinks) << "GPU " << i;
      }
      for (size_t j = 0; j < files.gpus.size(); ++j)
        EXPECT_EQ(text.gpu_to_gpu[i][j], files.gpu_to_gpu[i][j]) << "GPUs " << i << " and " << j;
      for (size_t j = 0; j < text.nics.size(); ++j) {
        const auto same = std::find_if(files.nics.begin(), files.nics.end(),
                                       [&](const Nic& one) { return one.name == text.nics[j].name; });
        ASSERT_NE(same, files.nics.end()) << text.nics[j].name;
        const Path seen = text.gpu_to_nic.empty() ? Path::kUnknown : text.gpu_to_nic[i][j];  // empty: nothing is known
        EXPECT_EQ(seen, files.gpu_to_nic[i][static_cast<size_t>(same - files.nics.begin())])
            << "GPU " << i << " and " << text.nics[j].name;
      }
    }
    for (const Nic& one : text.nics)
      if (!one.ports.empty() && one.ports[0].gbit_per_s > 0) {
        EXPECT_EQ(one.ports[0].gbit_per_s, nic(files, one.name).ports[0].gbit_per_s) << one.name;
        EXPECT_EQ(one.firmware, nic(files, one.name).firmware) << one.name;
      }
  }
}

TEST(Inventory, GidsTellTheirTypeAndNoAddress) {
  const Inventory inventory = take("hgx_h100_amd");
  EXPECT_EQ(value(inventory, "ib.mlx5_3.1.gid.1"), "RoCE v2 fe80::... ens8np0");
  EXPECT_EQ(value(inventory, "ib.mlx5_3.1.gid.3"), "RoCE v2 ::ffff:... ens8np0");
  EXPECT_EQ(value(inventory, "ib.mlx5_3.1.gid.4"), "(not looked for)") << "it is zero";
  EXPECT_EQ(value(inventory, "ib.mlx5_0.1.gid.0"), "IB/RoCE v1 fe80::...");
}

TEST(Inventory, FactsOfTheOperatingSystemAndTheDriver) {
  const Inventory hgx = take("hgx_h100_reversed");
  const std::pair<const char*, const char*> kFacts[] = {{"os.kernel", "6.8.0-45-generic"},
                                                        {"os.virtualization", "none"},
                                                        {"os.hypervisor", "none"},
                                                        {"os.cpu_vendor", "GenuineIntel"},
                                                        {"os.numa_balancing", "0"},
                                                        {"os.cpu_governor", "performance"},
                                                        {"os.thp", "madvise"},
                                                        {"limits.memlock_bytes", "unlimited"},
                                                        {"limits.stack_bytes", "8388608"},
                                                        {"shm.bytes", "540973531136"},
                                                        {"iommu.mode", "passthrough"},
                                                        {"nvidia.driver", "580.95.05"},
                                                        {"nvidia.open_modules", "yes"},
                                                        {"nvidia.peermem", "loaded"},
                                                        {"nvidia.dmabuf", "yes"},
                                                        {"nvidia.persistence", "on"},
                                                        {"nvidia.fabric_manager", "running"},
                                                        {"nvidia.imex", "not needed"},
                                                        {"nvidia.unlisted_gpus", "none"},
                                                        {"gpu.0.fabric_state", "completed"},
                                                        {"gpu.0.fabric_cluster", "none"},
                                                        {"gpu.7.ecc_uncorrected", "0"},
                                                        {"gpu.3.pcie", "32.0 GT/s x16 of 32.0 GT/s x16"},
                                                        {"lib.nccl", "2.28.9"},
                                                        {"lib.ofed", "absent"},
                                                        {"verbs.devices", "8"},
                                                        {"pci.max_read_request.0000:18:00.0", "4096"},
                                                        {"pci.ats.0000:18:00.0", "off"},
                                                        {"acs.0000:15:01.0", "off"},
                                                        {"acs.0000:17:00.0", "off"}};
  for (const auto& [key, expected] : kFacts) EXPECT_EQ(value(hgx, key), expected) << key;

  const Inventory a800 = take("a800");
  EXPECT_EQ(value(a800, "nvidia.open_modules"), "no");
  EXPECT_EQ(value(a800, "nvidia.dmabuf"), "no");
  const Inventory vm = take("h200x4_vm");
  EXPECT_EQ(value(vm, "os.virtualization"), "kvm");
  EXPECT_EQ(value(vm, "nvidia.fabric_manager"), "(unknown)") << "it runs on the host, where nobody sees it";
  EXPECT_EQ(value(vm, "os.cpu_governor"), "(unknown)");
  EXPECT_EQ(value(vm, "iommu.mode"), "off");
  EXPECT_EQ(value(vm, "lib.ofed"), "inbox");
  const Inventory rack = take("gb200_nvl72");
  EXPECT_EQ(value(rack, "nvidia.imex"), "running");
  EXPECT_EQ(value(rack, "nvidia.fabric_manager"), "not needed");
  EXPECT_EQ(value(rack, "os.cpu_vendor"), "ARM");
  EXPECT_FALSE(rack.topology.hosts[0].gpus[0].nvlink_domain.empty());
  EXPECT_EQ(rack.topology.hosts[0].gpus[0].nvlink_domain, rack.topology.hosts[0].gpus[3].nvlink_domain);
  EXPECT_TRUE(hgx.topology.hosts[0].gpus[0].nvlink_domain.empty()) << "a cluster of zeros is none";
  EXPECT_EQ(value(take("consumer_pair"), "nvidia.fabric_manager"), "not needed");
  EXPECT_EQ(value(take("laptop"), "nvidia.fabric_manager"), "(not looked for)");
}

// --- what goes wrong with machines ---

TEST(Degraded, PcieAtEightLanes) {
  const Inventory inventory =
      take("hgx_h100_reversed",
           "sys/devices/pci0000:37/0000:37:01.0/0000:38:00.0/0000:39:01.0/0000:43:00.0/current_link_width = 8\n"
           "sys/devices/pci0000:48/0000:48:01.0/0000:49:00.0/0000:4a:00.0/0000:4f:00.0/current_link_speed = 16.0 GT/s "
           "PCIe\n");
  const Host& host = inventory.topology.hosts[0];
  EXPECT_EQ(host.gpus[1].pcie.width, 8);
  EXPECT_EQ(host.gpus[1].pcie.max_width, 16);
  EXPECT_EQ(value(inventory, "gpu.1.pcie"), "32.0 GT/s x8 of 32.0 GT/s x16");
  EXPECT_EQ(nic(host, "mlx5_1").pcie.gt_per_s, 16);
  EXPECT_EQ(nic(host, "mlx5_1").pcie.max_gt_per_s, 32);
}

TEST(Degraded, ASlotThatCanDoLessIsNoFaultOfTheCard) {
  const Host host =
      take("hgx_h100_reversed",
           "sys/devices/pci0000:37/0000:37:01.0/0000:38:00.0/0000:39:01.0/max_link_speed = 16.0 GT/s PCIe\n"
           "sys/devices/pci0000:37/0000:37:01.0/0000:38:00.0/0000:39:01.0/max_link_width = 16\n")
          .topology.hosts[0];
  EXPECT_EQ(host.gpus[1].pcie.max_gt_per_s, 16);
  EXPECT_EQ(host.gpus[1].pcie.max_width, 16);
}

TEST(Degraded, InfinibandWithHalfItsLanesOrNone) {
  const std::string port =
      "sys/devices/pci0000:15/0000:15:01.0/0000:16:00.0/0000:17:00.0/0000:18:00.0/infiniband/mlx5_0/ports/1/";
  const Host half = take("dgx_h100", port + "rate = 200 Gb/sec (2X NDR)\n").topology.hosts[0];
  EXPECT_EQ(nic(half, "mlx5_0").ports[0].gbit_per_s, 200);
  EXPECT_EQ(nic(half, "mlx5_0").ports[0].speed_name, "2X NDR");
  EXPECT_EQ(nic(half, "mlx5_0").role, NicRole::kCompute) << "near a GPU it computes, however slowly";
  const Host down = take("dgx_h100", port + "state = 1: DOWN\n" + port + "phys_state = 2: Polling\n").topology.hosts[0];
  EXPECT_EQ(nic(down, "mlx5_0").ports[0].state, "DOWN");
  EXPECT_EQ(nic(down, "mlx5_0").ports[0].phys_state, "Polling");
}

TEST(Degraded, AccessControlThatRedirects) {
  const Inventory inventory =
      take("hgx_h100_reversed",
           "@bridge pci0000:15/0000:15:01.0/0000:16:00.0 0000:17:01.0 acs=1d00\n@function "
           "pci0000:15/0000:15:01.0/0000:16:00.0/0000:17:00.0 0000:18:00.0 0 0-55 0x020700 0x15b3 0x1021 "
           "32.0 16 32.0 16 devctl=3609 ats=0080\n");
  EXPECT_EQ(value(inventory, "acs.0000:17:01.0"), "on");
  EXPECT_EQ(value(inventory, "acs.0000:17:00.0"), "off");
  EXPECT_EQ(value(inventory, "pci.ats.0000:18:00.0"), "on");
  EXPECT_EQ(value(inventory, "pci.max_read_request.0000:18:00.0"), "128");
}

TEST(Degraded, WithoutRootConfigurationSpaceIsUnknown) {
  const Inventory inventory =
      take("hgx_h100_reversed",
           "sys/devices/pci0000:15/0000:15:01.0/config ~ 64 6:1000 34:40\n"
           "sys/devices/pci0000:15/0000:15:01.0/0000:16:00.0/0000:17:00.0/0000:18:00.0/config ~ 64 6:1000 34:60\n");
  for (const char* key : {"acs.0000:15:01.0", "pci.ats.0000:18:00.0", "pci.max_read_request.0000:18:00.0"}) {
    ASSERT_NE(inventory.find(key), nullptr) << key;
    EXPECT_NE(inventory.find(key)->why_unknown.find("root"), std::string::npos) << key;
  }
}

TEST(Degraded, WhatCannotBeReadIsUnknown) {
  // A link to itself fails for root too.
  const Inventory inventory = take("hgx_h100_reversed",
                                   "proc/sys/kernel/numa_balancing -> numa_balancing\n"
                                   "proc/driver/nvidia/version -> version\nsys/kernel/mm !\n"
                                   "sys/kernel/iommu_groups !\nsys/class/iommu !\nproc/cmdline = quiet\n");
  EXPECT_EQ(value(inventory, "os.numa_balancing"), "(unknown)");
  EXPECT_EQ(inventory.find("os.numa_balancing")->source, "/proc/sys/kernel/numa_balancing");
  EXPECT_EQ(value(inventory, "nvidia.open_modules"), "(unknown)");
  EXPECT_EQ(value(inventory, "nvidia.dmabuf"), "(unknown)") << "it hangs on the former";
  EXPECT_EQ(value(inventory, "nvidia.driver"), "580.95.05") << "NVML said it";
  EXPECT_EQ(value(inventory, "nvidia.peermem"), "loaded") << "one of three files is enough";
  EXPECT_EQ(value(inventory, "os.thp"), "(unknown)");
  EXPECT_EQ(value(inventory, "iommu.mode"), "off");
}

TEST(Degraded, AnEmptyFolderIsAMachineOfUnknowns) {
  const Inventory inventory = take("laptop", "proc !\nsys !\nlane-bundle.json !\n");
  ASSERT_EQ(inventory.topology.hosts.size(), 1u);
  EXPECT_TRUE(inventory.topology.hosts[0].gpus.empty());
  for (const char* key : {"os.kernel", "os.virtualization", "os.cpu_vendor", "limits.memlock_bytes", "shm.bytes",
                          "nvidia.peermem", "iommu.mode", "verbs.devices", "cxi.devices", "pci.devices", "lib.nccl"})
    EXPECT_EQ(value(inventory, key), "(unknown)") << key;
  EXPECT_NO_THROW(take_inventory("/nowhere/at/all"));
}

TEST(Degraded, WithoutTheDriverNvlinkIsUnknownAndPcieIsNot) {
  const Host hgx = take("hgx_h100_reversed", "lane-bundle.json !\ntext !\n").topology.hosts[0];
  EXPECT_EQ(hgx.gpus[0].name, "NVIDIA H100 80GB HBM3") << "its PCI number is that of no other";
  EXPECT_EQ(hgx.gpus[0].sm, 90);
  EXPECT_EQ(hgx.gpus[0].memory_bytes, 0);
  EXPECT_EQ(hgx.gpus[0].num_nvlinks, -1);
  EXPECT_EQ(hgx.gpus[0].max_nvlinks, 18);
  EXPECT_EQ(hgx.gpu_to_gpu[0][1], Path::kUnknown) << "NODE by PCIe, but who knows of NVLink?";
  EXPECT_EQ(nearest(hgx, 0), "mlx5_3 PIX");
  const Host l40s = take("pcie_only", "lane-bundle.json !\ntext !\n").topology.hosts[0];
  EXPECT_EQ(l40s.gpu_to_gpu[0][1], Path::kSys) << "a card without NVLink";
  const Host cray = take("slingshot_gh200", "lane-bundle.json !\ntext !\n").topology.hosts[0];
  EXPECT_EQ(cray.gpus[0].name, "NVIDIA 10de:2342") << "several products have this number";
}

TEST(Degraded, AGpuThatTheDriverLost) {
  FakeRoot root("h100x4_nv6");
  std::string calls = root.read("lane-bundle.json");
  const size_t line = calls.find("  {\"pci_id\": \"0000:4e:00.0\""), end = calls.find('\n', line);
  calls.erase(line, end - line + 1);
  calls.erase(calls.find(",\n \"gpu_to_gpu_nvlinks\""));
  root.add("text !\nlane-bundle.json <<\n" + calls + "}\n>>\n");
  const Inventory inventory = take_inventory(root.path());
  EXPECT_EQ(inventory.topology.hosts[0].gpus.size(), 3u);
  EXPECT_EQ(value(inventory, "nvidia.unlisted_gpus"), "0000:4e:00.0");
}

TEST(Degraded, NvlinkThatIsDown) {
  FakeRoot root("h100x4_nv6");
  std::string calls = root.read("lane-bundle.json");
  for (size_t at; (at = calls.find("\"num_nvlinks\": 18")) != std::string::npos;)
    calls.replace(at, 17, "\"num_nvlinks\": 0 ");
  calls.erase(calls.find(",\n \"gpu_to_gpu_nvlinks\""));
  root.add("text !\nlane-bundle.json <<\n" + calls + "}\n>>\n");
  const Host host = take_inventory(root.path()).topology.hosts[0];
  EXPECT_EQ(host.gpus[0].num_nvlinks, 0);
  EXPECT_EQ(host.gpus[0].max_nvlinks, 18);
  EXPECT_EQ(host.gpu_to_gpu[0][1], Path::kNode) << "then PCIe is what is left";
  EXPECT_EQ(host.gpu_to_gpu[0][2], Path::kSys);
}

TEST(Degraded, ContainersAndSandboxes) {
  EXPECT_EQ(value(take("dgx_h100", ".dockerenv =\n"), "os.virtualization"), "container");
  EXPECT_EQ(value(take("dgx_h100", "proc/1/cgroup = 0::/kubepods.slice/kubepods-pod5ec2.slice\n"), "os.virtualization"),
            "container");
  const Inventory gvisor = take(
      "h200x4_vm", "proc/version = Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\nsys/bus !\nsys/class !\n");
  EXPECT_EQ(value(gvisor, "os.virtualization"), "gvisor");
  EXPECT_EQ(gvisor.topology.hosts[0].gpus.size(), 4u) << "the driver lists them where /sys does not";
  EXPECT_EQ(value(gvisor, "verbs.devices"), "(unknown)");
  EXPECT_EQ(value(take("dgx_h100", ".dockerenv =\nproc/2102 !\n"), "nvidia.fabric_manager"), "(unknown)");
  EXPECT_EQ(value(take("dgx_h100", "proc/2102 !\n"), "nvidia.fabric_manager"), "absent");
}

TEST(Inventory, ThisMachineIsTakenWithoutAComplaint) {
  const Inventory inventory = take_inventory("");
  ASSERT_EQ(inventory.topology.hosts.size(), 1u);
  topology::check(inventory.topology, "this machine");
  EXPECT_FALSE(inventory.topology.hosts[0].machine.usable_cpus.empty());
  EXPECT_TRUE(inventory.find("os.kernel")->known());
  EXPECT_TRUE(inventory.find("limits.open_files")->known());
  EXPECT_TRUE(inventory.find("shm.bytes") != nullptr);
  for (const auto& [key, fact] : inventory.facts) EXPECT_NE(fact.value.empty(), fact.why_unknown.empty()) << key;
}

}  // namespace
}  // namespace lane::inventory
