#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lane/topology/machine.h"

namespace lane::topology {

// What lies between two devices of a host, nearest first; NVIDIA's names (`nvidia-smi topo -m`).
enum class Path : uint8_t {
  kSelf,     // X
  kNvlink,   // NV#: a direct or switched NVLink connection
  kPix,      // at most one PCIe bridge
  kPxb,      // several PCIe bridges, not the host bridge
  kPhb,      // a PCIe host bridge (the CPU)
  kNode,     // several host bridges of one NUMA node
  kSys,      // the link between NUMA nodes
  kUnknown,  // could not be told
};
std::string_view name_of(Path path);  // "X", "NV", "PIX", "PXB", "PHB", "NODE", "SYS", "?"
std::optional<Path> path_of(std::string_view name);

// As trained, and as both ends can. 0: could not be told.
struct PcieLink {
  double gt_per_s = 0, max_gt_per_s = 0;
  int width = 0, max_width = 0;
  bool operator==(const PcieLink&) const = default;
};

struct Gpu {
  int index = 0;       // as CUDA numbers it in PCI bus order
  std::string pci_id;  // "0000:18:00.0", lower case, four digits of domain
  std::string name;    // "NVIDIA H100 80GB HBM3"
  int sm = 0;          // compute capability x 10: 90
  int64_t memory_bytes = 0;
  int numa_node = -1;  // -1: could not be told, or the host does not say
  PcieLink pcie;
  int num_nvlinks = -1, max_nvlinks = -1;  // active, and that it has; -1: could not be told
  double nvlink_gb_per_s = 0;              // gigabytes, of one link in one direction, as it signals (26.5625 on Hopper)
  bool has_nvswitch = false;               // its links end in switches
  // GPUs with the same name, on whatever hosts, reach each other over NVLink (an NVL72 rack: cluster UUID and clique).
  // Empty: those of its host alone, if they have NVLink.
  std::string nvlink_domain;
  bool is_busy = false;  // taken by another job: placement leaves it alone
  bool operator==(const Gpu&) const = default;
};

enum class NicKind : uint8_t { kUnknown, kInfiniband, kRoce, kEfa, kSlingshot, kEthernet };
enum class NicRole : uint8_t { kUnknown, kCompute, kStorage, kManagement };
std::string_view name_of(NicKind kind);  // "unknown", "infiniband", "roce", "efa", "slingshot", "ethernet"
std::string_view name_of(NicRole role);  // "unknown", "compute", "storage", "management"
std::optional<NicKind> nic_kind_of(std::string_view name);
std::optional<NicRole> nic_role_of(std::string_view name);

struct NicPort {
  int number = 1;
  std::string state, phys_state;  // "ACTIVE", "LinkUp": the words of the kernel, without their numbers
  double gbit_per_s = 0;          // one direction: 400
  std::string speed_name;         // "4X NDR"
  std::map<std::string, int64_t> counters;
  bool operator==(const NicPort&) const = default;
};

struct Nic {
  std::string name;    // mlx5_0, rdmap16s27, cxi0, eth0
  std::string pci_id;  // of this function
  NicKind kind = NicKind::kUnknown;
  NicRole role = NicRole::kUnknown;
  std::string model, board_id, firmware;  // "MT4129"
  int numa_node = -1;
  PcieLink pcie;
  bool is_virtual_function = false;
  std::vector<NicPort> ports;
  int rail = -1;            // NICs with the same rail on different hosts share a leaf switch; -1: no rails
  std::string leaf_switch;  // empty: the host's
  bool operator==(const Nic&) const = default;
};

// One host. Matrices are empty when nothing is known of them.
struct Host {
  std::string name;
  Machine machine;
  std::vector<Gpu> gpus;
  std::vector<Nic> nics;
  std::vector<std::vector<Path>> gpu_to_gpu;         // [gpu][gpu]
  std::vector<std::vector<int>> gpu_to_gpu_nvlinks;  // [gpu][gpu]: how many links, where they are direct or switched
  std::vector<std::vector<Path>> gpu_to_nic;         // [gpu][nic]
  std::string rack, leaf_switch;
  bool operator==(const Host&) const = default;
};

// A switch of the network between hosts, or a set of switches that act as one. Level 1: hosts hang on it.
struct Switch {
  std::string name;
  int level = 1;
  std::vector<std::string> parents;  // of the level above; several in a fat tree
  double uplink_gbit_per_s = 0;      // to all parents together, one direction; 0: as much as is needed
  bool operator==(const Switch&) const = default;
};

// What a job may run on: a value that is discovered or imported, saved, edited and loaded. doctor, plan, place and tune
// share it.
struct Topology {
  std::string name;
  std::vector<Host> hosts;
  std::vector<Switch> switches;
  double nic_latency_us = 0;     // of a small message between GPUs of two hosts on one leaf switch; 0: by kind of NIC
  double switch_latency_us = 0;  // that each further switch adds; 0: 0.3
  bool operator==(const Topology&) const = default;
};

struct GpuRef {
  int host = 0, gpu = 0;  // indices into hosts and its gpus
  auto operator<=>(const GpuRef&) const = default;
};

// Throws Error{kCorruptData} that names `where`, the field, its value and the remedy: duplicate names, negative counts,
// matrices of the wrong size, unknown or cyclic parents, levels that do not rise, several hosts of which some cannot
// reach the others.
void check(const Topology& topology, const std::string& where);

// The format of `lane doctor --json`'s "topology" field and of every --topology FILE; it has a "schema" number. Hosts
// that differ in their names alone may be written as one with "names": "n[001-128]" (see hostlist.h). Parsing checks.
std::string to_json(const Topology& topology);
Topology topology_from_json(const std::string& text, const std::string& where);

}  // namespace lane::topology
