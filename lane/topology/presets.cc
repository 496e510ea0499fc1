// Sources, by preset:
// h100-dgx-ndr, h200-dgx-ndr  NVIDIA DGX H100/H200 user guide (8 GPUs, 18 NVLink 4 each to NVSwitch, 8 ConnectX-7 of
//     400 Gb/s, Xeon 8480C); DGX SuperPOD H100 reference architecture (scalable units of 32 nodes, a leaf for each of 8
//     rails, a spine over 4 units, a core above).
// a100-dgx-hdr  DGX A100 user guide (12 NVLink 3, 8 ConnectX-6 of 200 Gb/s, EPYC 7742); DGX SuperPOD A100 (units of
// 20). b200-dgx-ndr  DGX B200 user guide (18 NVLink 5, 8 ConnectX-7 of 400 Gb/s, Xeon 8570; units of 32). gb200-nvl72
// GB200 NVL72 datasheet (18 trays of 4 GPUs in one NVLink domain); SuperPOD GB200 (units of 8 racks). gh200-slingshot
// CSCS Alps and Isambard-AI (4 GH200 a node, 6 NVLink 4 between each two, 4 Slingshot-11 NICs of 200).
// perlmutter-a100-slingshot  NERSC, "Perlmutter architecture" (4 A100 40 GB, 4 NVLink 3 between each two, 4 NICs of
// 200,
//     EPYC 7763; a cabinet is a dragonfly group of 128 nodes and 32 switches: 4 nodes a switch). Alps is taken alike.
// h100-efa  AWS EC2 p5.48xlarge (8 H100, 32 EFA devices of 100 Gb/s, EPYC 7R13); how it is switched is not published.
// l40s-pcie  NVIDIA L40S datasheet; enterprise reference architecture 2-8-5-200 (4 NICs of 400 GbE east-west).
// laptop  NVIDIA GeForce RTX 4090 Laptop GPU, 16 GB.
// Memory is what nvidia-smi shows of the GPU, in MiB.
#include "lane/topology/presets.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "lane/base/error.h"

namespace lane::topology {
namespace {

struct Recipe {
  PresetInfo info;
  const char* gpu;
  int sm, gpus, memory_mib;
  int nvlinks;             // of a GPU; 0: PCIe alone
  double nvlink_gb_per_s;  // of one, as it signals
  bool nvswitch;           // else the links go straight to the other GPUs, evenly
  int hosts_of_domain;     // that share an NVLink domain; 0: each has its own
  double pcie_gt_per_s;
  const char* cpu;
  NicKind nic;
  int nics;
  double gbit_per_s;
  const char *nic_model, *speed;
  bool rails;                                          // NIC i of all hosts of a unit is on one leaf
  int hosts_of_leaf, leaves_of_spine, spines_of_core;  // 0: one switch for all
};

constexpr Recipe kRecipes[] = {
    {{"h100-dgx-ndr", "DGX H100: 8 H100 80 GB, NVSwitch, 8 NDR 400", 4},
     "NVIDIA H100 80GB HBM3",
     90,
     8,
     81559,
     18,
     26.5625,
     true,
     0,
     32,
     "Intel Xeon Platinum 8480C",
     NicKind::kInfiniband,
     8,
     400,
     "MT4129",
     "4X NDR",
     true,
     32,
     4,
     64},
    {{"h200-dgx-ndr", "DGX H200: 8 H200 141 GB, NVSwitch, 8 NDR 400", 4},
     "NVIDIA H200",
     90,
     8,
     143771,
     18,
     26.5625,
     true,
     0,
     32,
     "Intel Xeon Platinum 8480C",
     NicKind::kInfiniband,
     8,
     400,
     "MT4129",
     "4X NDR",
     true,
     32,
     4,
     64},
    {{"a100-dgx-hdr", "DGX A100: 8 A100 80 GB, NVSwitch, 8 HDR 200", 4},
     "NVIDIA A100-SXM4-80GB",
     80,
     8,
     81920,
     12,
     25,
     true,
     0,
     16,
     "AMD EPYC 7742",
     NicKind::kInfiniband,
     8,
     200,
     "MT4123",
     "4X HDR",
     true,
     20,
     7,
     64},
    {{"b200-dgx-ndr", "DGX B200: 8 B200 180 GB, NVSwitch, 8 NDR 400", 4},
     "NVIDIA B200",
     100,
     8,
     183359,
     18,
     53.125,
     true,
     0,
     32,
     "Intel Xeon Platinum 8570",
     NicKind::kInfiniband,
     8,
     400,
     "MT4129",
     "4X NDR",
     true,
     32,
     4,
     64},
    {{"gb200-nvl72", "GB200 NVL72: racks of 18 x 4 GB200 in one NVLink domain, 4 NDR 400 a tray", 18},
     "NVIDIA GB200",
     100,
     4,
     189471,
     18,
     53.125,
     true,
     18,
     32,
     "NVIDIA Grace",
     NicKind::kInfiniband,
     4,
     400,
     "MT4129",
     "4X NDR",
     true,
     144,
     4,
     64},
    {{"gh200-slingshot", "Alps, Isambard-AI: 4 GH200 96 GB, 4 Slingshot-11 200", 8},
     "NVIDIA GH200 120GB",
     90,
     4,
     97871,
     18,
     26.5625,
     false,
     0,
     32,
     "NVIDIA Grace",
     NicKind::kSlingshot,
     4,
     200,
     "Cassini",
     "200G",
     false,
     4,
     32,
     64},
    {{"perlmutter-a100-slingshot", "Perlmutter: 4 A100 40 GB, 4 Slingshot-11 200", 8},
     "NVIDIA A100-SXM4-40GB",
     80,
     4,
     40960,
     12,
     25,
     false,
     0,
     16,
     "AMD EPYC 7763",
     NicKind::kSlingshot,
     4,
     200,
     "Cassini",
     "200G",
     false,
     4,
     32,
     64},
    {{"h100-efa", "AWS p5.48xlarge: 8 H100 80 GB, NVSwitch, 32 EFA 100", 4},
     "NVIDIA H100 80GB HBM3",
     90,
     8,
     81559,
     18,
     26.5625,
     true,
     0,
     32,
     "AMD EPYC 7R13",
     NicKind::kEfa,
     32,
     100,
     "EFA",
     "100G",
     false,
     0,
     0,
     0},
    {{"l40s-pcie", "8 L40S 48 GB over PCIe, 4 x 400 GbE with RoCE", 1},
     "NVIDIA L40S",
     89,
     8,
     46068,
     0,
     0,
     false,
     0,
     16,
     "Intel Xeon Gold 6448Y",
     NicKind::kRoce,
     4,
     400,
     "MT4129",
     "400G",
     false,
     0,
     0,
     0},
    {{"laptop", "One GeForce RTX 4090 Laptop GPU", 1},
     "NVIDIA GeForce RTX 4090 Laptop GPU",
     89,
     1,
     16376,
     0,
     0,
     false,
     0,
     16,
     "Intel Core i9-13980HX",
     NicKind::kEthernet,
     0,
     0,
     "",
     "",
     false,
     0,
     0,
     0},
};

constexpr int kMaxHosts = 1 << 16;

const Recipe& recipe_of(std::string_view name) {
  for (const Recipe& recipe : kRecipes)
    if (recipe.info.name == name) return recipe;
  std::vector<std::string_view> names;
  for (const Recipe& recipe : kRecipes) names.push_back(recipe.info.name);
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("--preset {}: there are {}", name.substr(0, 40), fmt::join(names, ", ")));
}

std::string nic_name(NicKind kind, int i) {
  // The InfiniBand names of a DGX H100's compute NICs have gaps: its others are for storage and management.
  constexpr int kDgx[] = {0, 3, 4, 5, 6, 9, 10, 11};
  if (kind == NicKind::kInfiniband) return fmt::format("mlx5_{}", kDgx[i % 8]);
  if (kind == NicKind::kEfa) return fmt::format("rdmap{}s0", 16 + i);
  return fmt::format("{}{}", kind == NicKind::kSlingshot ? "cxi" : "mlx5_", i);
}

Host host_of(const Recipe& recipe, const std::string& name) {
  Host host{.name = name};
  host.machine.cpu_model = recipe.cpu;
  const int per_socket = std::max(1, recipe.gpus / 2);
  for (int i = 0; i < recipe.gpus; ++i) {
    Gpu gpu{
        .index = i, .pci_id = fmt::format("0000:{:02x}:00.0", 0x10 + 0x10 * i), .name = recipe.gpu, .sm = recipe.sm};
    gpu.memory_bytes = int64_t{recipe.memory_mib} << 20;
    gpu.numa_node = i / per_socket;
    gpu.pcie = {recipe.pcie_gt_per_s, recipe.pcie_gt_per_s, 16, 16};
    gpu.num_nvlinks = gpu.max_nvlinks = recipe.nvlinks;
    gpu.nvlink_gb_per_s = recipe.nvlink_gb_per_s;
    gpu.has_nvswitch = recipe.nvswitch;
    host.gpus.push_back(std::move(gpu));
  }
  for (int i = 0; i < recipe.nics; ++i)
    host.nics.push_back(
        {.name = nic_name(recipe.nic, i),
         .pci_id = fmt::format("0000:{:02x}:{:02x}.0", 0x11 + 0x10 * (i * recipe.gpus / recipe.nics), i),
         .kind = recipe.nic,
         .role = NicRole::kCompute,
         .model = recipe.nic_model,
         .numa_node = i * recipe.gpus / recipe.nics / per_socket,
         .ports = {{.state = "ACTIVE",
                    .phys_state = "LinkUp",
                    .gbit_per_s = recipe.gbit_per_s,
                    .speed_name = recipe.speed}}});
  for (const Gpu& gpu : host.gpus) {
    std::vector<Path> to_gpus, to_nics;
    std::vector<int> links;
    for (const Gpu& other : host.gpus) {
      const Path way = recipe.nvlinks > 0 ? Path::kNvlink : gpu.numa_node == other.numa_node ? Path::kNode : Path::kSys;
      to_gpus.push_back(&gpu == &other ? Path::kSelf : way);
      links.push_back(&gpu == &other    ? 0
                      : recipe.nvswitch ? recipe.nvlinks
                                        : recipe.nvlinks / std::max(1, recipe.gpus - 1));
    }
    for (size_t i = 0; i < host.nics.size(); ++i) {
      const bool own = static_cast<int>(i) * recipe.gpus / recipe.nics == gpu.index;
      to_nics.push_back(own ? Path::kPix : gpu.numa_node == host.nics[i].numa_node ? Path::kNode : Path::kSys);
    }
    host.gpu_to_gpu.push_back(std::move(to_gpus));
    host.gpu_to_gpu_nvlinks.push_back(std::move(links));
    host.gpu_to_nic.push_back(std::move(to_nics));
  }
  return host;
}

std::string leaf_name(const Recipe& recipe, int leaf, int rail) {
  return recipe.rails ? fmt::format("leaf{}r{}", leaf + 1, rail) : fmt::format("leaf{}", leaf + 1);
}

void add_switches(const Recipe& recipe, Topology& topology) {
  const int num_hosts = static_cast<int>(topology.hosts.size());
  const auto up = [](int count, int each) { return (count + each - 1) / each; };
  const int leaves = up(num_hosts, recipe.hosts_of_leaf), spines = up(leaves, recipe.leaves_of_spine);
  for (int leaf = 0; leaf < leaves; ++leaf)
    for (int rail = 0; rail < (recipe.rails ? recipe.nics : 1); ++rail) {
      Switch one{.name = leaf_name(recipe, leaf, rail), .level = 1};
      // The rails of a unit have no spine in common when there is only one unit: a host's own NICs join them.
      if (leaves > 1) one.parents = {fmt::format("spine{}", leaf / recipe.leaves_of_spine + 1)};
      topology.switches.push_back(std::move(one));
    }
  for (int spine = 0; leaves > 1 && spine < spines; ++spine) {
    Switch one{.name = fmt::format("spine{}", spine + 1), .level = 2};
    if (spines > 1) one.parents = {"core"};
    topology.switches.push_back(std::move(one));
  }
  if (spines > 1) topology.switches.push_back({.name = "core", .level = 3});
  for (int i = 0; i < num_hosts; ++i) {
    Host& host = topology.hosts[i];
    const int leaf = i / recipe.hosts_of_leaf;
    host.rack = fmt::format("unit{}", leaf + 1);
    if (!recipe.rails) host.leaf_switch = leaf_name(recipe, leaf, 0);
    for (int rail = 0; recipe.rails && rail < recipe.nics; ++rail) {
      host.nics[rail].rail = rail;
      host.nics[rail].leaf_switch = leaf_name(recipe, leaf, rail);
    }
  }
}

}  // namespace

const std::vector<PresetInfo>& presets() {
  static const std::vector<PresetInfo> all = [] {
    std::vector<PresetInfo> list;
    for (const Recipe& recipe : kRecipes) list.push_back(recipe.info);
    return list;
  }();
  return all;
}

Topology preset(std::string_view name, int num_hosts) {
  const Recipe& recipe = recipe_of(name);
  if (num_hosts == 0) num_hosts = recipe.info.num_hosts;
  const bool alone = recipe.nics == 0;
  if (num_hosts < 1 || num_hosts > (alone ? 1 : kMaxHosts))
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("preset {} with {} nodes: give 1 to {}", name, num_hosts, alone ? 1 : kMaxHosts));
  Topology topology{.name = std::string(name)};
  const Host model = host_of(recipe, "");
  const int digits = std::max(2, static_cast<int>(std::to_string(num_hosts).size()));
  for (int i = 0; i < num_hosts; ++i) {
    Host& host = topology.hosts.emplace_back(model);
    host.name = fmt::format("n{:0{}}", i + 1, digits);
    if (recipe.hosts_of_domain > 0)
      for (Gpu& gpu : host.gpus) gpu.nvlink_domain = fmt::format("rack{}", i / recipe.hosts_of_domain + 1);
  }
  if (recipe.hosts_of_leaf > 0) add_switches(recipe, topology);
  return topology;
}

}  // namespace lane::topology
