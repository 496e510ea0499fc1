#pragma once
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lane/plan/cost.h"
#include "lane/plan/reach.h"

namespace lane::plan {

// One direction of a port or cable, or of several that act as one.
struct NetworkLink {
  std::string name;  // "n017/gpu3 nvlink out"
  double bytes_per_s = 0;
  // False where what feeds the link is no faster than the link: it can then hold nobody up, and is there to be counted.
  bool can_limit = true;
};

struct Route {
  std::vector<int> links;
  double latency_s = 0;
  double message_s = 0;  // see Link
  bool is_local = true;  // inside an island
};

// The links between ranks and the way that a message takes over them.
class Network {
 public:
  // A fabric taken literally, with the ports that cost() counts: one for each rank, one for each node, which its ranks
  // share whoever of them sends, one for each rack.
  explicit Network(const Fabric& fabric);

  // Rank r is GPU ranks[r]. Each has ports to its island: NVLink's, PCIe's where NVLink does not reach. To other
  // islands it sends through its own NICs: the host's for computing are dealt out to its GPUs, the nearest first, as
  // evenly as their number allows; then through the uplinks of the NIC's leaf switch and of those above it, as far up
  // as the two NICs' switches have a common one. Where a switch has several parents, traffic is spread over them
  // evenly. NICs without a leaf switch, or a cluster without switches: one switch for all. Keeps a reference to
  // `reach`.
  Network(const Reach& reach, std::span<const topology::GpuRef> ranks);

  int num_ranks() const { return static_cast<int>(ends_.size()); }
  const std::vector<NetworkLink>& links() const { return links_; }
  Route route(int from, int to) const;
  Route multicast(int from, std::span<const int> to) const;  // to ranks of its island

  // Multiplies the capacity of all links whose name is, or starts with, `name` (a cable that trained at half its width:
  // "n017/mlx5_3", 0.5); returns how many. None, or a factor of 0 or less, is Error{kInvalidArgument}: what has no way
  // left must be placed elsewhere.
  int degrade(std::string_view name, double factor);

 private:
  struct End {  // of a rank
    topology::GpuRef gpu = {};
    int island = 0;
    int out = -1, in = -1;                     // over NVLink
    int pcie_out = -1, pcie_in = -1;           // -1: nothing goes there that it could hold up
    std::vector<int> network_out, network_in;  // its own links to the network's first switch
    int leaf = -1;                             // of leaves_; -1: there is one switch
    Link local, pcie, network;
  };
  struct Leaf {  // and what is above it, level by level
    std::vector<std::vector<int>> switches;
    std::vector<int> up, down;  // to leave that level; -1: as much as is needed
  };

  Route local_route(const End& a, const End& b) const;
  int add(const std::string& name, double bytes_per_s);
  void mark_limits();
  int leaf_of(const topology::Topology& topology, const std::vector<std::string>& names);
  void connect_host(std::span<const topology::GpuRef> ranks, const std::vector<int>& of_host);
  void connect_inside(End& end);

  const Reach* reach_ = nullptr;
  std::vector<NetworkLink> links_;
  std::vector<End> ends_;
  std::vector<Leaf> leaves_;
  std::map<std::vector<int>, int> leaf_of_switches_;
  std::map<std::vector<int>, std::pair<int, int>> uplinks_;
  std::vector<double> level_latency_s_;  // added by a way over switches up to level i + 1
};

}  // namespace lane::plan
