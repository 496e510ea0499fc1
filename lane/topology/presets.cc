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

struct GpuPart {
  const char* name;
  int sm, memory_mib, nvlinks;  // 0 links: PCIe alone
  double nvlink_gb_per_s;       // of one, as it signals
  double pcie_gt_per_s;
};
constexpr GpuPart kH100 = {"NVIDIA H100 80GB HBM3", 90, 81559, 18, 26.5625, 32};
constexpr GpuPart kH200 = {"NVIDIA H200", 90, 143771, 18, 26.5625, 32};
constexpr GpuPart kA100 = {"NVIDIA A100-SXM4-80GB", 80, 81920, 12, 25, 16};
constexpr GpuPart kSmallA100 = {"NVIDIA A100-SXM4-40GB", 80, 40960, 12, 25, 16};
constexpr GpuPart kB200 = {"NVIDIA B200", 100, 183359, 18, 53.125, 32};
constexpr GpuPart kGb200 = {"NVIDIA GB200", 100, 189471, 18, 53.125, 32};
constexpr GpuPart kGh200 = {"NVIDIA GH200 120GB", 90, 97871, 18, 26.5625, 32};
constexpr GpuPart kL40s = {"NVIDIA L40S", 89, 46068, 0, 0, 16};
constexpr GpuPart kRtx4090Laptop = {"NVIDIA GeForce RTX 4090 Laptop GPU", 89, 16376, 0, 0, 16};

struct NicPart {
  int count;  // of a host
  NicKind kind;
  double gbit_per_s;
  const char *model, *speed;
};
constexpr NicPart kEightNdr = {8, NicKind::kInfiniband, 400, "MT4129", "4X NDR"};
constexpr NicPart kEightHdr = {8, NicKind::kInfiniband, 200, "MT4123", "4X HDR"};
constexpr NicPart kFourNdr = {4, NicKind::kInfiniband, 400, "MT4129", "4X NDR"};
constexpr NicPart kFourSlingshot = {4, NicKind::kSlingshot, 200, "Cassini", "200G"};
constexpr NicPart kEfa = {32, NicKind::kEfa, 100, "EFA", "100G"};
constexpr NicPart kFourRoce = {4, NicKind::kRoce, 400, "MT4129", "400G"};
constexpr NicPart kNoNic = {0, NicKind::kEthernet, 0, "", ""};

struct Wiring {
  bool nvswitch;                       // else NVLinks go straight to the host's other GPUs, evenly
  int hosts_of_domain;                 // that share an NVLink domain; 0: each has its own
  bool rails;                          // NIC i of all hosts of a unit is on one leaf
  int hosts_of_leaf, leaves_of_spine;  // 0: one switch for all
};
constexpr Wiring kSuperpod = {true, 0, true, 32, 4}, kOlderSuperpod = {true, 0, true, 20, 7};
constexpr Wiring kNvl72 = {true, 18, true, 144, 4};
constexpr Wiring kDragonfly = {false, 0, false, 4, 32};
constexpr Wiring kUnknownSwitches = {true, 0, false, 0, 0}, kPcie = {false, 0, false, 0, 0};

struct Recipe {
  const char* name;
  int num_hosts, gpus;
  GpuPart gpu;
  NicPart nic;
  Wiring wiring;
  const char *cpu, *what;
};

constexpr Recipe kRecipes[] = {
    {"h100-dgx-ndr", 4, 8, kH100, kEightNdr, kSuperpod, "Intel Xeon Platinum 8480C",
     "DGX H100: 8 H100 80 GB, NVSwitch, 8 NDR 400"},
    {"h200-dgx-ndr", 4, 8, kH200, kEightNdr, kSuperpod, "Intel Xeon Platinum 8480C",
     "DGX H200: 8 H200 141 GB, NVSwitch, 8 NDR 400"},
    {"a100-dgx-hdr", 4, 8, kA100, kEightHdr, kOlderSuperpod, "AMD EPYC 7742",
     "DGX A100: 8 A100 80 GB, NVSwitch, 8 HDR 200"},
    {"b200-dgx-ndr", 4, 8, kB200, kEightNdr, kSuperpod, "Intel Xeon Platinum 8570",
     "DGX B200: 8 B200 180 GB, NVSwitch, 8 NDR 400"},
    {"gb200-nvl72", 18, 4, kGb200, kFourNdr, kNvl72, "NVIDIA Grace",
     "NVL72 racks: 18 trays of 4 GB200 in one NVLink domain"},
    {"gh200-slingshot", 8, 4, kGh200, kFourSlingshot, kDragonfly, "NVIDIA Grace", "Alps, Isambard-AI: 4 GH200 96 GB"},
    {"perlmutter-a100-slingshot", 8, 4, kSmallA100, kFourSlingshot, kDragonfly, "AMD EPYC 7763",
     "Perlmutter: 4 A100 40 GB"},
    {"h100-efa", 4, 8, kH100, kEfa, kUnknownSwitches, "AMD EPYC 7R13", "AWS p5.48xlarge: 8 H100 80 GB, NVSwitch"},
    {"l40s-pcie", 1, 8, kL40s, kFourRoce, kPcie, "Intel Xeon Gold 6448Y", "8 L40S 48 GB over PCIe"},
    {"laptop", 1, 1, kRtx4090Laptop, kNoNic, kPcie, "Intel Core i9-13980HX", "One GeForce RTX 4090 Laptop GPU"},
};

constexpr int kMaxHosts = 1 << 16;

const Recipe& recipe_of(std::string_view name) {
  for (const Recipe& recipe : kRecipes)
    if (name == recipe.name) return recipe;
  std::vector<std::string_view> names;
  for (const Recipe& recipe : kRecipes) names.push_back(recipe.name);
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
    Gpu gpu{.index = i,
            .pci_id = fmt::format("0000:{:02x}:00.0", 0x10 + 0x10 * i),
            .name = recipe.gpu.name,
            .sm = recipe.gpu.sm};
    gpu.memory_bytes = int64_t{recipe.gpu.memory_mib} << 20;
    gpu.numa_node = i / per_socket;
    gpu.pcie = {recipe.gpu.pcie_gt_per_s, recipe.gpu.pcie_gt_per_s, 16, 16};
    gpu.num_nvlinks = gpu.max_nvlinks = recipe.gpu.nvlinks;
    gpu.nvlink_gb_per_s = recipe.gpu.nvlink_gb_per_s;
    gpu.has_nvswitch = recipe.wiring.nvswitch;
    host.gpus.push_back(std::move(gpu));
  }
  for (int i = 0; i < recipe.nic.count; ++i)
    host.nics.push_back(
        {.name = nic_name(recipe.nic.kind, i),
         .pci_id = fmt::format("0000:{:02x}:{:02x}.0", 0x11 + 0x10 * (i * recipe.gpus / recipe.nic.count), i),
         .kind = recipe.nic.kind,
         .role = NicRole::kCompute,
         .model = recipe.nic.model,
         .numa_node = i * recipe.gpus / recipe.nic.count / per_socket,
         .ports = {{.state = "ACTIVE",
                    .phys_state = "LinkUp",
                    .gbit_per_s = recipe.nic.gbit_per_s,
                    .speed_name = recipe.nic.speed}}});
  for (const Gpu& gpu : host.gpus) {
    std::vector<Path> to_gpus, to_nics;
    std::vector<int> links;
    for (const Gpu& other : host.gpus) {
      const Path way = recipe.gpu.nvlinks > 0             ? Path::kNvlink
                       : gpu.numa_node == other.numa_node ? Path::kNode
                                                          : Path::kSys;
      to_gpus.push_back(&gpu == &other ? Path::kSelf : way);
      links.push_back(&gpu == &other           ? 0
                      : recipe.wiring.nvswitch ? recipe.gpu.nvlinks
                                               : recipe.gpu.nvlinks / std::max(1, recipe.gpus - 1));
    }
    for (size_t i = 0; i < host.nics.size(); ++i) {
      const bool own = static_cast<int>(i) * recipe.gpus / recipe.nic.count == gpu.index;
      to_nics.push_back(own ? Path::kPix : gpu.numa_node == host.nics[i].numa_node ? Path::kNode : Path::kSys);
    }
    host.gpu_to_gpu.push_back(std::move(to_gpus));
    host.gpu_to_gpu_nvlinks.push_back(std::move(links));
    host.gpu_to_nic.push_back(std::move(to_nics));
  }
  return host;
}

std::string leaf_name(const Recipe& recipe, int leaf, int rail) {
  return recipe.wiring.rails ? fmt::format("leaf{}r{}", leaf + 1, rail) : fmt::format("leaf{}", leaf + 1);
}

void add_switches(const Recipe& recipe, Topology& topology) {
  const int num_hosts = static_cast<int>(topology.hosts.size());
  const auto up = [](int count, int each) { return (count + each - 1) / each; };
  const int leaves = up(num_hosts, recipe.wiring.hosts_of_leaf), spines = up(leaves, recipe.wiring.leaves_of_spine);
  for (int leaf = 0; leaf < leaves; ++leaf)
    for (int rail = 0; rail < (recipe.wiring.rails ? recipe.nic.count : 1); ++rail) {
      Switch one{.name = leaf_name(recipe, leaf, rail), .level = 1};
      // The rails of a unit have no spine in common when there is only one unit: a host's own NICs join them.
      if (leaves > 1) one.parents = {fmt::format("spine{}", leaf / recipe.wiring.leaves_of_spine + 1)};
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
    const int leaf = i / recipe.wiring.hosts_of_leaf;
    host.rack = fmt::format("unit{}", leaf + 1);
    if (!recipe.wiring.rails) host.leaf_switch = leaf_name(recipe, leaf, 0);
    for (int rail = 0; recipe.wiring.rails && rail < recipe.nic.count; ++rail) {
      host.nics[rail].rail = rail;
      host.nics[rail].leaf_switch = leaf_name(recipe, leaf, rail);
    }
  }
}

}  // namespace

const std::vector<PresetInfo>& presets() {
  static const std::vector<PresetInfo> all = [] {
    std::vector<PresetInfo> list;
    for (const Recipe& recipe : kRecipes) list.push_back({recipe.name, recipe.what, recipe.num_hosts});
    return list;
  }();
  return all;
}

Topology preset(std::string_view name, int num_hosts) {
  const Recipe& recipe = recipe_of(name);
  if (num_hosts == 0) num_hosts = recipe.num_hosts;
  const bool alone = recipe.nic.count == 0;
  if (num_hosts < 1 || num_hosts > (alone ? 1 : kMaxHosts))
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("preset {} with {} nodes: give 1 to {}", name, num_hosts, alone ? 1 : kMaxHosts));
  Topology topology{.name = std::string(name)};
  const Host model = host_of(recipe, "");
  const int digits = std::max(2, static_cast<int>(std::to_string(num_hosts).size()));
  for (int i = 0; i < num_hosts; ++i) {
    Host& host = topology.hosts.emplace_back(model);
    host.name = fmt::format("n{:0{}}", i + 1, digits);
    if (recipe.wiring.hosts_of_domain > 0)
      for (Gpu& gpu : host.gpus) gpu.nvlink_domain = fmt::format("rack{}", i / recipe.wiring.hosts_of_domain + 1);
  }
  if (recipe.wiring.hosts_of_leaf > 0) add_switches(recipe, topology);
  return topology;
}

}  // namespace lane::topology
