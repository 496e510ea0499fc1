#pragma once
#include <span>
#include <string>
#include <vector>

#include "lane/plan/cost.h"
#include "lane/topology/topology.h"

namespace lane::plan {

// How far apart two GPUs are, nearest first.
enum class Tier : uint8_t {
  kSelf,
  kNvlink,  // one NVLink domain: a host's, or a rack's
  kNode,    // one host, over PCIe
  kLeaf,    // two hosts on one switch
  kSpine,   // over a switch of level 2
  kCore,    // over higher ones
};
std::string_view name_of(Tier tier);  // "self", "nvlink", "node", "leaf", "spine", "core"

// NICs of a host that carry a job's traffic, as indices: those meant for it, else all that do not belong to something
// else. And what a NIC's ports leave to the data in one direction; 0: could not be told.
std::vector<int> network_nics(const topology::Host& host);
double data_bytes_per_s(const topology::Nic& nic);

// Distances and links between the GPUs of a topology. Keeps a reference to it. The constants are published or measured
// ones for kinds of hardware (reach.cc names the sources), not measurements of these machines.
class Reach {
 public:
  explicit Reach(const topology::Topology& topology);

  const topology::Topology& topology() const { return topology_; }
  Tier tier(topology::GpuRef a, topology::GpuRef b) const;
  // 0: the same host; else the lowest level of switches over which the hosts reach each other.
  int switch_level(int host_a, int host_b) const;

  // GPUs of an island reach each other without the network: those of an NVLink domain, else those of a host. Numbered
  // 0, 1, ...
  int island(topology::GpuRef gpu) const { return island_of_[gpu.host][gpu.gpu]; }
  // Hosts that hang on the same leaf switches (on all rails) share a group. Numbered 0, 1, ...
  int leaf_group(int host) const { return group_of_[host]; }

  Link nvlink(topology::GpuRef gpu) const;
  Link pcie(topology::GpuRef gpu) const;
  Link network(int host) const;              // all of the host's NICs for computing together, to a host on its leaf
  int num_nics(int host) const;              // of those
  double switch_latency_s(int level) const;  // that a way over switches up to this level adds

  // What these ranks are joined by: islands are the nodes of its layout, leaf groups its racks. The slowest link of a
  // kind stands for all of its kind.
  Fabric fabric(std::span<const topology::GpuRef> ranks) const;

 private:
  void find_islands();
  void find_groups();

  const topology::Topology& topology_;
  std::vector<std::vector<int>> island_of_;           // [host][gpu]
  std::vector<int> group_of_;                         // [host]
  std::vector<std::vector<std::vector<int>>> above_;  // [group][level - 1]: indices of switches, ascending
  std::vector<double> uplink_bytes_per_s_;            // [group]; 0: as much as is needed
};

}  // namespace lane::plan
