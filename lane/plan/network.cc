#include "lane/plan/network.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <set>
#include <tuple>

#include "lane/base/error.h"

namespace lane::plan {
namespace {

using topology::GpuRef;
using topology::Host;

// Which NICs each GPU of a host sends through.
std::vector<std::vector<int>> deal_nics(const Host& host) {
  std::vector<int> nics;
  for (const int nic : network_nics(host))
    if (data_bytes_per_s(host.nics[nic]) > 0) nics.push_back(nic);
  const int num_gpus = static_cast<int>(host.gpus.size()), num_nics = static_cast<int>(nics.size());
  std::vector<std::vector<int>> dealt(num_gpus);
  if (num_nics == 0) return dealt;
  // By distance; where that says nothing, GPU i next to NIC i.
  std::vector<std::tuple<int, int, int, int>> pairs;
  for (int gpu = 0; gpu < num_gpus; ++gpu)
    for (int i = 0; i < num_nics; ++i)
      pairs.emplace_back(host.gpu_to_nic.empty() ? 0 : static_cast<int>(host.gpu_to_nic[gpu][nics[i]]),
                         std::abs(gpu * num_nics - i * num_gpus), gpu, i);
  std::sort(pairs.begin(), pairs.end());
  const size_t most_of_gpu = std::max(1, num_nics / num_gpus);
  const int most_of_nic = (num_gpus + num_nics - 1) / num_nics;
  std::vector<int> num_users(num_nics, 0);
  for (const auto& [distance, skew, gpu, i] : pairs) {
    if (dealt[gpu].size() == most_of_gpu || num_users[i] == most_of_nic) continue;
    dealt[gpu].push_back(nics[i]);
    ++num_users[i];
  }
  for (auto& of_gpu : dealt) std::sort(of_gpu.begin(), of_gpu.end());
  return dealt;
}

bool have_common(const std::vector<int>& a, const std::vector<int>& b) {
  return std::find_first_of(a.begin(), a.end(), b.begin(), b.end()) != a.end();
}

}  // namespace

int Network::add(const std::string& name, double bytes_per_s) {
  links_.push_back({name, bytes_per_s});
  return static_cast<int>(links_.size()) - 1;
}

Network::Network(const Fabric& fabric) {
  const int num_nodes = fabric.layout.num_nodes();
  int num_racks = 0;
  for (const int rack : fabric.rack_of_node) num_racks = std::max(num_racks, rack + 1);
  for (int rack = 0; rack < num_racks; ++rack)
    leaves_.push_back({.switches = {{rack}, {num_racks}},
                       .up = {add(fmt::format("rack{} up", rack), fabric.uplink.bytes_per_s)},
                       .down = {add(fmt::format("rack{} down", rack), fabric.uplink.bytes_per_s)}});
  std::vector<int> out, in;
  for (int node = 0; node < num_nodes; ++node) {
    out.push_back(add(fmt::format("node{} out", node), fabric.remote.bytes_per_s));
    in.push_back(add(fmt::format("node{} in", node), fabric.remote.bytes_per_s));
  }
  for (int rank = 0; rank < fabric.layout.num_ranks(); ++rank) {
    const int node = fabric.layout.node_of[rank];
    ends_.push_back({.island = node,
                     .out = add(fmt::format("rank{} out", rank), fabric.local.bytes_per_s),
                     .in = add(fmt::format("rank{} in", rank), fabric.local.bytes_per_s),
                     .network_out = {out[node]},
                     .network_in = {in[node]},
                     .leaf = num_racks == 0 ? -1 : fabric.rack_of_node[node],
                     .local = fabric.local,
                     .network = fabric.remote});
  }
  level_latency_s_ = {0, fabric.uplink.latency_s};
  mark_limits();
}

Network::Network(const Reach& reach, std::span<const GpuRef> ranks) : reach_(&reach), ends_(ranks.size()) {
  const topology::Topology& topology = reach.topology();
  std::vector<std::vector<int>> ranks_of_host(topology.hosts.size());
  for (size_t rank = 0; rank < ranks.size(); ++rank) ranks_of_host[ranks[rank].host].push_back(static_cast<int>(rank));
  for (const auto& of_host : ranks_of_host)
    if (!of_host.empty()) connect_host(ranks, of_host);
  size_t levels = 1;
  for (const Leaf& leaf : leaves_) levels = std::max(levels, leaf.switches.size());
  for (size_t level = 1; level <= levels + 1; ++level)
    level_latency_s_.push_back(reach.switch_latency_s(static_cast<int>(level)));
  mark_limits();
}

// Its ports to its island. PCIe's is left out where all is joined by NVLink; then connect_host() adds it if the way to
// the NIC needs it.
void Network::connect_inside(End& end) {
  const Host& host = reach_->topology().hosts[end.gpu.host];
  const topology::Gpu& gpu = host.gpus[end.gpu.gpu];
  bool has_nvlink = !gpu.nvlink_domain.empty() || gpu.num_nvlinks > 0, has_pcie = false;
  for (int other = 0; other < static_cast<int>(host.gpus.size()); ++other) {
    const Tier tier = reach_->tier(end.gpu, {end.gpu.host, other});
    has_nvlink = has_nvlink || tier == Tier::kNvlink;
    has_pcie = has_pcie || tier == Tier::kNode;
  }
  const std::string name = fmt::format("{}/gpu{}", host.name, end.gpu.gpu);
  end.island = reach_->island(end.gpu);
  end.local = reach_->nvlink(end.gpu);
  end.pcie = reach_->pcie(end.gpu);
  if (has_nvlink) {
    end.out = add(name + " nvlink out", end.local.bytes_per_s);
    end.in = add(name + " nvlink in", end.local.bytes_per_s);
  }
  if (has_pcie || !has_nvlink) {
    end.pcie_out = add(name + " pcie out", end.pcie.bytes_per_s);
    end.pcie_in = add(name + " pcie in", end.pcie.bytes_per_s);
  }
}

void Network::connect_host(std::span<const GpuRef> ranks, const std::vector<int>& of_host) {
  const int index = ranks[of_host.front()].host;
  const Host& host = reach_->topology().hosts[index];
  const auto dealt = deal_nics(host);
  const Link whole = reach_->network(index);
  std::map<std::vector<int>, std::pair<int, int>> ways;  // of the same NICs
  for (const int rank : of_host) {
    End& end = ends_[rank];
    end.gpu = ranks[rank];
    connect_inside(end);
    end.network = whole;
    const std::vector<int>& nics = dealt[end.gpu.gpu];
    double rate = nics.empty() ? whole.bytes_per_s : 0;
    std::string nic_name = nics.empty() ? "nic" : "";
    std::vector<std::string> switches;
    for (const int nic : nics) {
      rate += data_bytes_per_s(host.nics[nic]);
      nic_name += (nic_name.empty() ? "" : "+") + host.nics[nic].name;
      if (!host.nics[nic].leaf_switch.empty()) switches.push_back(host.nics[nic].leaf_switch);
    }
    if (switches.empty() && !host.leaf_switch.empty()) switches.push_back(host.leaf_switch);
    const auto [way, is_new] = ways.try_emplace(nics);
    if (is_new)
      way->second = {add(fmt::format("{}/{} out", host.name, nic_name), rate),
                     add(fmt::format("{}/{} in", host.name, nic_name), rate)};
    const topology::PcieLink& pcie = host.gpus[end.gpu.gpu].pcie;  // where the host says how fast it is
    if (end.pcie_out < 0 && pcie.max_gt_per_s > 0 && pcie.max_width > 0 && end.pcie.bytes_per_s < rate) {
      end.pcie_out = add(fmt::format("{}/gpu{} pcie out", host.name, end.gpu.gpu), end.pcie.bytes_per_s);
      end.pcie_in = add(fmt::format("{}/gpu{} pcie in", host.name, end.gpu.gpu), end.pcie.bytes_per_s);
    }
    if (end.pcie_out >= 0) end.network_out.push_back(end.pcie_out), end.network_in.push_back(end.pcie_in);
    end.network_out.push_back(way->second.first);
    end.network_in.push_back(way->second.second);
    end.leaf = leaf_of(reach_->topology(), switches);
  }
}

int Network::leaf_of(const topology::Topology& topology, const std::vector<std::string>& names) {
  if (names.empty()) return -1;
  std::map<std::string_view, int> index_of;
  for (size_t i = 0; i < topology.switches.size(); ++i) index_of[topology.switches[i].name] = static_cast<int>(i);
  std::set<int> level;
  for (const std::string& name : names) level.insert(index_of.at(name));
  const std::vector<int> key(level.begin(), level.end());
  const auto [known, is_new] = leaf_of_switches_.try_emplace(key, static_cast<int>(leaves_.size()));
  if (!is_new) return known->second;
  Leaf leaf;
  while (!level.empty()) {
    const std::vector<int> set(level.begin(), level.end());
    double gbit = 0;
    bool is_bounded = true;
    std::string name;
    level.clear();
    for (const int index : set) {
      const topology::Switch& one = topology.switches[index];
      gbit += one.uplink_gbit_per_s;
      is_bounded = is_bounded && one.uplink_gbit_per_s > 0;
      name += (name.empty() ? "" : "+") + one.name;
      for (const std::string& parent : one.parents) level.insert(index_of.at(parent));
    }
    const auto [uplink, is_first] = uplinks_.try_emplace(set, -1, -1);
    if (is_first && is_bounded && !level.empty())
      uplink->second = {add(name + " up", gbit * 1e9 / 8), add(name + " down", gbit * 1e9 / 8)};
    leaf.switches.push_back(set);
    leaf.up.push_back(uplink->second.first);
    leaf.down.push_back(uplink->second.second);
  }
  leaves_.push_back(std::move(leaf));
  return known->second;
}

// All that goes through an uplink comes out of, or goes into, the NICs below it.
void Network::mark_limits() {
  std::vector<double> feeding(links_.size(), 0);
  std::vector<bool> is_counted(links_.size(), false), is_uplink(links_.size(), false);
  for (const End& end : ends_) {
    if (end.leaf < 0) continue;
    const Leaf& leaf = leaves_[end.leaf];
    const auto feed = [&](int from, const std::vector<int>& into) {
      for (const int link : into)
        if (link >= 0) is_uplink[link] = true, feeding[link] += is_counted[from] ? 0 : links_[from].bytes_per_s;
      is_counted[from] = true;
    };
    feed(end.network_out.back(), leaf.up);
    feed(end.network_in.back(), leaf.down);
  }
  for (size_t i = 0; i < links_.size(); ++i) links_[i].can_limit = !is_uplink[i] || links_[i].bytes_per_s < feeding[i];
}

Route Network::local_route(const End& a, const End& b) const {
  const bool by_pcie = a.out < 0 || b.in < 0 || (reach_ != nullptr && reach_->tier(a.gpu, b.gpu) == Tier::kNode);
  if (by_pcie) return {{a.pcie_out, b.pcie_in}, std::max(a.pcie.latency_s, b.pcie.latency_s), a.pcie.message_s, true};
  return {{a.out, b.in}, std::max(a.local.latency_s, b.local.latency_s), a.local.message_s, true};
}

Route Network::route(int from, int to) const {
  const End &a = ends_[from], &b = ends_[to];
  if (a.island == b.island) return local_route(a, b);
  Route route{a.network_out, std::max(a.network.latency_s, b.network.latency_s), a.network.message_s, false};
  const auto append = [&](const std::vector<int>& links) {
    route.links.insert(route.links.end(), links.begin(), links.end());
  };
  if (a.leaf != b.leaf && a.leaf >= 0 && b.leaf >= 0) {
    const Leaf &up = leaves_[a.leaf], &down = leaves_[b.leaf];
    const size_t top = std::min(up.switches.size(), down.switches.size());
    size_t level = 0;
    while (level < top && !have_common(up.switches[level], down.switches[level])) ++level;
    if (level == top) {
      // Separate networks, as of rails without a spine: over the neighbour whose NIC is on the receiver's.
      for (const End& relay : ends_) {
        if (relay.island != a.island || relay.leaf != b.leaf) continue;
        const Route first = local_route(a, relay);
        route.links = first.links;
        route.latency_s += first.latency_s;
        append(relay.network_out);
        append(b.network_in);
        return route;
      }
    }
    for (size_t i = 0; i < std::min({level, up.up.size(), down.down.size()}); ++i) {
      if (up.up[i] >= 0) route.links.push_back(up.up[i]);
      if (down.down[i] >= 0) route.links.push_back(down.down[i]);
    }
    route.latency_s += level_latency_s_[std::min(level, level_latency_s_.size() - 1)];
  }
  append(b.network_in);
  return route;
}

Route Network::multicast(int from, std::span<const int> to) const {
  Route route;
  for (const int rank : to) {
    ensure(ends_[rank].island == ends_[from].island, "multicast stays inside an island");
    const Route one = local_route(ends_[from], ends_[rank]);
    if (route.links.empty()) route = {{one.links.front()}, 0, one.message_s, true};
    route.links.push_back(one.links.back());
    route.latency_s = std::max(route.latency_s, one.latency_s);
  }
  return route;
}

int Network::degrade(std::string_view name, double factor) {
  if (!(factor > 0) || !(factor <= 1e6))
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("link {}, factor {}: give a number above 0; of what is cut off altogether, leave the host "
                            "out of the topology",
                            name, factor));
  int count = 0;
  for (NetworkLink& link : links_) {
    if (name.empty() || !link.name.starts_with(name)) continue;
    if (link.name.size() > name.size() && std::isalnum(static_cast<unsigned char>(link.name[name.size()]))) continue;
    link.bytes_per_s *= factor;
    ++count;
  }
  if (count == 0) {
    std::string some;
    for (size_t i = 0; i < links_.size() && i < 8; ++i) some += (some.empty() ? "" : ", ") + links_[i].name;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("link {}: no link's name is or begins with that; some are: {}", name, some));
  }
  mark_limits();
  return count;
}

}  // namespace lane::plan
