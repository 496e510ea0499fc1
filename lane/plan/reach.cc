#include "lane/plan/reach.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>

#include "lane/base/error.h"

namespace lane::plan {
namespace {

using topology::Gpu;
using topology::GpuRef;
using topology::Host;
using topology::Nic;
using topology::NicKind;
using topology::NicRole;
using topology::Path;

// A step of one of Lane's kernels over NVLink and the part of the links' signalling rate that its stores reach, on H200
// (docs/performance/allreduce_h200.md): 330 of 18 x 26.56 GB/s.
constexpr double kNvlinkLatency = 1.0e-6, kNvlinkShare = 0.69;

// PCIe: NCCL's model takes 12 GB/s for Gen3 x16 and scales it (its topo.h); a step over it takes about 5 us (fitted to
// NCCL on 8 L40S, 512 B: 22.6 us).
constexpr double kPcieLatency = 5e-6, kPcieGen3Rate = 12e9, kPcieGen3 = 8.0 * 16;

// What a NIC's rate leaves to the data: 46 to 48 GB/s of an NDR port's 50.
constexpr double kNicShare = 0.94;

// Of a small message between GPUs of two hosts on a leaf: Slingshot-11 fitted to OSU's latencies (3.37 us); InfiniBand
// as in NVRAR's measurements; RoCE close to it; EFA and sockets: software's share rules (AIConfigurator takes 10 us).
double nic_latency_s(NicKind kind) {
  switch (kind) {
    case NicKind::kSlingshot:
      return 3.4e-6;
    case NicKind::kInfiniband:
      return 4e-6;
    case NicKind::kRoce:
      return 5e-6;
    case NicKind::kEfa:
      return 10e-6;
    case NicKind::kEthernet:
    case NicKind::kUnknown:
      break;
  }
  return 20e-6;
}
constexpr double kDefaultNicRate = 25e9 / 8, kDefaultSwitchLatency = 0.3e-6;

// Links and GB/s of one, by generation, where the host does not say: Ampere, Hopper, Blackwell.
double nvlink_gb_per_s(const Gpu& gpu) {
  const int links = gpu.num_nvlinks > 0 ? gpu.num_nvlinks : gpu.sm >= 90 ? 18 : 12;
  const double each = gpu.nvlink_gb_per_s > 0 ? gpu.nvlink_gb_per_s : gpu.sm >= 100 ? 53.1 : gpu.sm >= 90 ? 26.56 : 25;
  return links * each;
}

bool has_nvlink(const Host& host, size_t a, size_t b) {
  if (!host.gpu_to_gpu.empty() && host.gpu_to_gpu[a][b] != Path::kUnknown)
    return host.gpu_to_gpu[a][b] == Path::kNvlink;
  return host.gpus[a].num_nvlinks > 0 && host.gpus[b].num_nvlinks > 0;
}

// The slower of two in each respect.
void slow_down(Link& link, const Link& other) {
  link.latency_s = std::max(link.latency_s, other.latency_s);
  link.bytes_per_s = std::min(link.bytes_per_s, other.bytes_per_s);
  link.message_s = std::max(link.message_s, other.message_s);
}

constexpr double kLocalMessage = 0.2e-6, kRemoteMessage = 0.3e-6;  // as the cost model's other presets have it
constexpr Link kFastest{.latency_s = 0, .bytes_per_s = 1e18, .message_s = 0};

}  // namespace

std::string_view name_of(Tier tier) {
  constexpr std::array<std::string_view, 6> kNames = {"self", "nvlink", "node", "leaf", "spine", "core"};
  return kNames[static_cast<size_t>(tier)];
}

std::vector<int> network_nics(const Host& host) {
  for (const bool any : {false, true}) {
    std::vector<int> nics;
    for (size_t i = 0; i < host.nics.size(); ++i) {
      const Nic& nic = host.nics[i];
      const bool meant =
          nic.role == NicRole::kCompute ||
          (nic.role == NicRole::kUnknown && nic.kind != NicKind::kEthernet && nic.kind != NicKind::kUnknown);
      if (any || (meant && !nic.is_virtual_function)) nics.push_back(static_cast<int>(i));
    }
    if (!nics.empty()) return nics;
  }
  return {};
}

double data_bytes_per_s(const Nic& nic) {
  double gbit = 0;
  for (const topology::NicPort& port : nic.ports) gbit += port.gbit_per_s;
  return gbit * 1e9 / 8 * kNicShare;
}

Reach::Reach(const topology::Topology& topology) : topology_(topology) {
  find_islands();
  find_groups();
}

// A host is one island even where only pairs of its GPUs have NVLink: it joins them.
void Reach::find_islands() {
  int num_islands = 0;
  std::map<std::string, int> island_of_domain;
  for (const Host& host : topology_.hosts) {
    std::vector<int>& islands = island_of_.emplace_back();
    int rest = -1;  // the host's own
    for (const Gpu& gpu : host.gpus) {
      int& island =
          gpu.nvlink_domain.empty() ? rest : island_of_domain.try_emplace(gpu.nvlink_domain, -1).first->second;
      if (island < 0) island = num_islands++;
      islands.push_back(island);
    }
  }
}

void Reach::find_groups() {
  std::map<std::string, int> index_of;
  for (size_t i = 0; i < topology_.switches.size(); ++i) index_of[topology_.switches[i].name] = static_cast<int>(i);
  std::map<std::vector<std::string>, int> known;
  for (const Host& host : topology_.hosts) {
    std::set<std::string> leaves;
    for (const Nic& nic : host.nics)
      if (!nic.leaf_switch.empty()) leaves.insert(nic.leaf_switch);
    if (leaves.empty() && !host.leaf_switch.empty()) leaves.insert(host.leaf_switch);
    std::vector<std::string> list(leaves.begin(), leaves.end());
    const auto [found, is_new] = known.try_emplace(list, static_cast<int>(known.size()));
    group_of_.push_back(found->second);
    if (!is_new) continue;
    std::set<int> above;
    std::vector<int> open;
    double uplink = 0;
    bool is_bounded = !list.empty();
    for (const std::string& leaf : list) {
      open.push_back(index_of.at(leaf));
      const double rate = topology_.switches[open.back()].uplink_gbit_per_s;
      is_bounded = is_bounded && rate > 0;
      uplink += rate * 1e9 / 8;
    }
    while (!open.empty()) {
      const int one = open.back();
      open.pop_back();
      if (!above.insert(one).second) continue;
      for (const std::string& parent : topology_.switches[one].parents) open.push_back(index_of.at(parent));
    }
    std::vector<std::vector<int>>& levels = above_.emplace_back();
    for (const int one : above) {
      const size_t level = static_cast<size_t>(topology_.switches[one].level);
      if (levels.size() < level) levels.resize(level);
      levels[level - 1].push_back(one);
    }
    uplink_bytes_per_s_.push_back(is_bounded ? uplink : 0);
  }
}

int Reach::switch_level(int host_a, int host_b) const {
  if (host_a == host_b) return 0;
  const int a = group_of_[host_a], b = group_of_[host_b];
  if (a == b) return 1;
  const size_t top = std::min(above_[a].size(), above_[b].size());
  for (size_t level = 0; level < top; ++level) {
    const std::vector<int>&left = above_[a][level], &right = above_[b][level];
    if (std::find_first_of(left.begin(), left.end(), right.begin(), right.end()) != left.end())
      return static_cast<int>(level) + 1;
  }
  return static_cast<int>(std::max<size_t>({above_[a].size(), above_[b].size(), 1})) + 1;  // joined by a host's rails
}

Tier Reach::tier(GpuRef a, GpuRef b) const {
  if (a == b) return Tier::kSelf;
  const topology::Gpu& one = topology_.hosts[a.host].gpus[a.gpu];
  const topology::Gpu& other = topology_.hosts[b.host].gpus[b.gpu];
  if (!one.nvlink_domain.empty() && one.nvlink_domain == other.nvlink_domain) return Tier::kNvlink;
  if (a.host == b.host) return has_nvlink(topology_.hosts[a.host], a.gpu, b.gpu) ? Tier::kNvlink : Tier::kNode;
  const int level = switch_level(a.host, b.host);
  return level <= 1 ? Tier::kLeaf : level == 2 ? Tier::kSpine : Tier::kCore;
}

Link Reach::nvlink(GpuRef gpu) const {
  return {kNvlinkLatency, nvlink_gb_per_s(topology_.hosts[gpu.host].gpus[gpu.gpu]) * 1e9 * kNvlinkShare, kLocalMessage};
}

Link Reach::pcie(GpuRef gpu) const {
  const topology::PcieLink& link = topology_.hosts[gpu.host].gpus[gpu.gpu].pcie;
  const double speed = link.max_gt_per_s > 0 ? link.max_gt_per_s : 16, width = link.max_width > 0 ? link.max_width : 16;
  return {kPcieLatency, kPcieGen3Rate * speed * width / kPcieGen3, kLocalMessage};
}

Link Reach::network(int host) const {
  Link link{.latency_s = 0, .bytes_per_s = 0, .message_s = kRemoteMessage};
  for (const int index : network_nics(topology_.hosts[host])) {
    const Nic& nic = topology_.hosts[host].nics[index];
    link.latency_s = std::max(link.latency_s, nic_latency_s(nic.kind));
    link.bytes_per_s += data_bytes_per_s(nic);
  }
  if (link.latency_s == 0) link.latency_s = nic_latency_s(NicKind::kUnknown);
  if (link.bytes_per_s == 0) link.bytes_per_s = kDefaultNicRate;
  if (topology_.nic_latency_us > 0) link.latency_s = topology_.nic_latency_us * 1e-6;
  return link;
}

int Reach::num_nics(int host) const { return static_cast<int>(network_nics(topology_.hosts[host]).size()); }

double Reach::switch_latency_s(int level) const {
  // Up and down again: two more switches for each level above the first.
  const double each = topology_.switch_latency_us > 0 ? topology_.switch_latency_us * 1e-6 : kDefaultSwitchLatency;
  return level > 1 ? 2 * (level - 1) * each : 0;
}

Fabric Reach::fabric(std::span<const GpuRef> ranks) const {
  ensure(!ranks.empty(), "a fabric has a rank");
  Fabric fabric{.local = kFastest, .remote = kFastest};
  std::map<int, int> node_of_island;
  std::vector<GpuRef> first;              // of a node
  std::vector<std::map<int, int>> hosts;  // of a node: ranks by host
  for (const GpuRef rank : ranks) {
    const auto [found, is_new] = node_of_island.try_emplace(island(rank), static_cast<int>(first.size()));
    if (is_new) first.push_back(rank), hosts.emplace_back();
    fabric.layout.node_of.push_back(found->second);
    ++hosts[found->second][rank.host];
    slow_down(fabric.local, tier(rank, first[found->second]) == Tier::kNode ? pcie(rank) : nvlink(rank));
  }
  if (first.size() == 1) return fabric;
  int top = 1;
  std::map<int, int> rack_of_group;
  std::vector<int> nodes_of_rack;
  double uplink = 1e18;
  for (size_t node = 0; node < first.size(); ++node) {
    // A rank has its GPU's share of its host's NICs: the others may be at work too.
    Link together = network(hosts[node].begin()->first);
    together.bytes_per_s = 0;
    for (const auto& [host, num_ranks] : hosts[node])
      together.bytes_per_s +=
          network(host).bytes_per_s * num_ranks / static_cast<double>(topology_.hosts[host].gpus.size());
    slow_down(fabric.remote, together);
    const int group = leaf_group(first[node].host);
    const auto [found, is_new] = rack_of_group.try_emplace(group, static_cast<int>(nodes_of_rack.size()));
    if (is_new) nodes_of_rack.push_back(0);
    ++nodes_of_rack[found->second];
    fabric.rack_of_node.push_back(found->second);
    if (uplink_bytes_per_s_[group] > 0) uplink = std::min(uplink, uplink_bytes_per_s_[group]);
    top = std::max(top, switch_level(first[0].host, first[node].host));
  }
  if (nodes_of_rack.size() == 1) {
    fabric.rack_of_node.clear();
    return fabric;
  }
  const int most = *std::max_element(nodes_of_rack.begin(), nodes_of_rack.end());
  // A rank's messages are charged the same whether or not they leave the rack; else a rank that sends many would hide
  // the way's latency.
  fabric.uplink = {switch_latency_s(top), std::min(uplink, most * fabric.remote.bytes_per_s), fabric.remote.message_s};
  return fabric;
}

}  // namespace lane::plan
