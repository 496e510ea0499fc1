#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "lane/base/json.h"
#include "lane/place/read/source.h"

namespace lane::place {
namespace {

// SHARP's: a switch's own adder, which looks like a host.
constexpr std::string_view kAggregationNode = "Aggregation Node";

struct Port {
  std::string peer;         // "H-946dae0300abcdef"
  std::string description;  // "n01 mlx5_0"
  double gbit_per_s = 0;
  int line = 0;
};

struct Node {
  std::string name;
  int line = 0, level = 0;
  std::vector<Port> hosts, switches;
};

// "4xNDR": lanes of so many Gb/s each (InfiniBand's data rates). 0: not such a word.
double rate_of(std::string_view word) {
  struct Speed {
    std::string_view name;
    double gbit_per_s;
  };
  constexpr Speed kSpeeds[] = {{"SDR", 2.5}, {"DDR", 5},  {"QDR", 10},  {"FDR10", 10}, {"FDR", 14},
                               {"EDR", 25},  {"HDR", 50}, {"NDR", 100}, {"XDR", 200}};
  const size_t x = word.find('x');
  if (x == std::string_view::npos || x == 0 || x > 2 ||
      !std::all_of(word.begin(), word.begin() + static_cast<ptrdiff_t>(x), [](char c) { return c >= '0' && c <= '9'; }))
    return 0;
  const int lanes = x == 1 ? word[0] - '0' : (word[0] - '0') * 10 + word[1] - '0';
  for (const Speed& speed : kSpeeds)
    if (word.substr(x + 1) == speed.name) return lanes * speed.gbit_per_s;
  return 0;
}

// The text between the first two '"' of `line` from `at` on; `at` moves behind them.
std::string quoted(const Source& source, int number, std::string_view line, size_t& at) {
  const size_t begin = std::min(line.find('"', at), line.size());
  const size_t end = begin == line.size() ? std::string_view::npos : line.find('"', begin + 1);
  if (end == std::string_view::npos) source.refuse(number, "expected a name in \"...\"; the line is cut");
  at = end + 1;
  return std::string(line.substr(begin + 1, end - begin - 1));
}

// mlx5_2 before mlx5_10.
bool natural_less(const std::string& a, const std::string& b) {
  const auto split = [](const std::string& name) {
    size_t digits = name.size();
    while (digits > 0 && name.size() - digits < 9 && std::isdigit(static_cast<unsigned char>(name[digits - 1])))
      --digits;
    return std::pair(name.substr(0, digits), digits < name.size() ? std::stol(name.substr(digits)) : -1L);
  };
  return split(a) < split(b);
}

class FabricReader {
 public:
  explicit FabricReader(Source& source) : source_(source) {}

  topology::Topology run() {
    read_lines();
    find_levels();
    topology::Topology topology;
    add_switches(topology);
    add_hosts(topology);
    return topology;
  }

 private:
  // Blocks of switches list all ports that are in use, with what is at their other end; blocks of hosts say the same
  // again.
  void read_lines() {
    int number = 0;
    Node* current = nullptr;
    for (const std::string_view line : lines_of(source_.text)) {
      ++number;
      if (line.starts_with("Switch")) {
        size_t at = 0;
        const std::string id = quoted(source_, number, line, at);
        const auto [found, is_new] = switches_.try_emplace(id);
        if (!is_new)
          source_.refuse(number,
                         fmt::format("switch {} comes twice, first in line {}", in_quotes(id), found->second.line));
        current = &found->second;
        current->line = number;
        current->name = switch_name(id, quoted(source_, number, line, at));
      } else if (line.starts_with('[')) {
        if (current != nullptr) add_port(*current, number, line);
      } else if (!line.empty() && line[0] != '#') {
        current = nullptr;
      }
    }
    if (switches_.empty()) source_.refuse(0, "no switch in it; expected what ibnetdiscover prints");
  }

  // "MF0;A09-P1-IBLEAF-04-04:MQM9701/U1" -> A09-P1-IBLEAF-04-04/U1: the ASICs of a chassis are switches of their own.
  std::string switch_name(const std::string& id, const std::string& description) {
    std::string name = description;
    const size_t semicolon = name.find(';'), colon = name.find(':');
    if (semicolon != std::string::npos && colon != std::string::npos && semicolon < colon) {
      const size_t slash = name.find('/', colon);
      name = name.substr(semicolon + 1, colon - semicolon - 1) +
             (slash == std::string::npos || name.substr(slash) == "/U1" ? "" : name.substr(slash));
    } else {
      name = id;  // unmanaged: they are all called alike
    }
    while (!names_.insert(name).second) name += "'";
    return name;
  }

  // [1] "H-946d..."[1](946d...)  # "n01 mlx5_0" lid 647 4xNDR
  void add_port(Node& node, int number, std::string_view line) {
    size_t at = 0;
    Port port{.line = number};
    port.peer = quoted(source_, number, line, at);
    port.description = quoted(source_, number, line, at);
    for (std::string_view rest = trimmed(line.substr(at)); !rest.empty();) {
      const size_t end = std::min(rest.find_first_of(" \t"), rest.size());
      port.gbit_per_s = std::max(port.gbit_per_s, rate_of(rest.substr(0, end)));
      rest = trimmed(rest.substr(end));
    }
    if (port.description.find(kAggregationNode) != std::string::npos) {
      ++num_aggregation_nodes_;
    } else if (port.peer.starts_with("S-")) {
      node.switches.push_back(std::move(port));
    } else if (port.peer.starts_with("H-")) {
      node.hosts.push_back(std::move(port));
    } else if (!port.peer.starts_with("R-")) {  // a router leads out of the fabric
      source_.refuse(number, fmt::format("{} is neither a switch S-... nor a host H-...", in_quotes(port.peer)));
    }
  }

  // Leaves have hosts; a spine may have some service hosts too (a fabric manager), but has more leaves. The others are
  // as high as their distance from a leaf.
  void find_levels() {
    std::vector<Node*> reached;
    for (auto& [id, node] : switches_) {
      std::set<std::string> peers, peers_with_hosts;
      for (const Port& port : node.switches) {
        const auto peer = switches_.find(port.peer);
        if (peer == switches_.end())
          source_.refuse(port.line, fmt::format("switch {} has no block of its own", in_quotes(port.peer)));
        if (!peer->second.hosts.empty()) peers_with_hosts.insert(port.peer);
      }
      if (!node.hosts.empty() && node.hosts.size() >= peers_with_hosts.size()) {
        node.level = 1;
        reached.push_back(&node);
      }
    }
    for (size_t i = 0; i < reached.size(); ++i)
      for (const Port& port : reached[i]->switches) {
        Node& peer = switches_.at(port.peer);
        if (peer.level > 0) continue;
        peer.level = reached[i]->level + 1;
        reached.push_back(&peer);
      }
    if (reached.empty()) source_.refuse(0, "no host hangs on any of its switches");
  }

  void add_switches(topology::Topology& topology) {
    int top = 1;
    for (const auto& [id, node] : switches_) top = std::max(top, node.level);
    if (top > 14) source_.refuse(0, fmt::format("{} levels of switches; is it a ring?", top));
    std::map<std::string, int> direct;  // joined to a switch of its own level
    for (const auto& [id, node] : switches_) {
      if (node.level == 0) continue;
      topology::Switch one{.name = node.name, .level = node.level};
      std::set<std::string> parents;
      bool is_direct = false;
      for (const Port& port : node.switches) {
        const Node& peer = switches_.at(port.peer);
        if (peer.level > node.level) {
          parents.insert(peer.name);
          one.uplink_gbit_per_s += port.gbit_per_s;
        }
        is_direct = is_direct || (peer.level == node.level && &peer != &node);
      }
      // Two switches side by side, without one above: what joins them becomes one. Such links of switches that have
      // parents are left out: traffic goes up.
      if (is_direct && parents.empty()) {
        parents.insert(fmt::format("links-between-level-{}", node.level));
        direct[*parents.begin()] = node.level;
        for (const Port& port : node.switches)
          if (switches_.at(port.peer).level == node.level) one.uplink_gbit_per_s += port.gbit_per_s;
      }
      one.parents.assign(parents.begin(), parents.end());
      topology.switches.push_back(std::move(one));
    }
    for (const auto& [name, level] : direct) topology.switches.push_back({.name = name, .level = level + 1});
    std::stable_sort(topology.switches.begin(), topology.switches.end(),
                     [](const topology::Switch& a, const topology::Switch& b) { return a.level < b.level; });
  }

  void add_hosts(topology::Topology& topology) {
    std::map<std::string, size_t> index_of;
    std::set<std::string> seen;  // "host nic"
    size_t num_service = 0, num_nameless = 0;
    for (const auto& [id, node] : switches_)
      for (const Port& port : node.hosts) {
        const size_t space = port.description.rfind(' ');
        const std::string host(trimmed(port.description.substr(0, space)));
        if (space == std::string::npos || !is_host_name(host)) {
          ++num_nameless;
          continue;
        }
        if (node.level != 1) {
          ++num_service;
          continue;
        }
        const std::string nic = port.description.substr(space + 1);
        if (!seen.insert(host + " " + nic).second)
          source_.refuse(port.line, fmt::format("{} comes twice; give each host its own node description",
                                                in_quotes(port.description)));
        if (port.gbit_per_s == 0) source_.refuse(port.line, "no rate such as 4xNDR at the end; the line is cut");
        const auto [found, is_new] = index_of.try_emplace(host, topology.hosts.size());
        if (is_new) topology.hosts.push_back({.name = host});
        topology.hosts[found->second].nics.push_back({.name = nic,
                                                      .kind = topology::NicKind::kInfiniband,
                                                      .ports = {{.state = "ACTIVE", .gbit_per_s = port.gbit_per_s}},
                                                      .leaf_switch = node.name});
      }
    std::sort(topology.hosts.begin(), topology.hosts.end(),
              [](const topology::Host& a, const topology::Host& b) { return natural_less(a.name, b.name); });
    for (topology::Host& host : topology.hosts) set_rails(host);
    note(num_aggregation_nodes_, "SHARP aggregation nodes left out");
    note(num_service, "ports of hosts on spine switches left out (service nodes)");
    note(num_nameless, "ports left out whose node description is not of the form \"HOST NIC\"");
  }

  // NICs by name; each on a leaf of its own, or all on one.
  static void set_rails(topology::Host& host) {
    std::sort(host.nics.begin(), host.nics.end(),
              [](const topology::Nic& a, const topology::Nic& b) { return natural_less(a.name, b.name); });
    std::set<std::string> leaves;
    for (const topology::Nic& nic : host.nics) leaves.insert(nic.leaf_switch);
    host.leaf_switch = leaves.size() == 1 ? *leaves.begin() : "";
    if (leaves.size() > 1 && leaves.size() < host.nics.size()) return;
    for (size_t i = 0; i < host.nics.size(); ++i) host.nics[i].rail = static_cast<int>(i);
  }

  void note(size_t count, const char* what) {
    if (count > 0) source_.notes.push_back(fmt::format("{} {}", count, what));
  }

  Source& source_;
  std::map<std::string, Node> switches_;
  std::set<std::string> names_;
  size_t num_aggregation_nodes_ = 0;
};

}  // namespace

topology::Topology read_ibnetdiscover(Source& source) { return FabricReader(source).run(); }

}  // namespace lane::place
