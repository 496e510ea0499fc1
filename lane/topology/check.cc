#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/topology/topology.h"

namespace lane::topology {
namespace {

class Checker {
 public:
  Checker(const Topology& topology, const std::string& where) : topology_(topology), where_(where) {}

  void run() {
    check_number(topology_.nic_latency_us, "nic_latency_us");
    check_number(topology_.switch_latency_us, "switch_latency_us");
    check_switches();
    check_hosts();
    check_connected();
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorCode::kCorruptData, where_ + ": " + what);
  }

  void check_number(double value, const std::string& field) const {
    if (!(value >= 0 && value <= 1e12)) refuse(fmt::format("{} is {}; give a number of 0 or more", field, value));
  }

  void check_name(const std::string& name, const char* what, std::set<std::string>& seen) const {
    if (name.empty()) refuse(fmt::format("a {} has no name; give each one its own", what));
    if (!seen.insert(name).second)
      refuse(fmt::format("two {}{} are called {}; give each its own name", what,
                         std::string_view(what) == "switch" ? "es" : "s", in_quotes(name)));
  }

  void check_switches() {
    std::set<std::string> seen;
    for (const Switch& one : topology_.switches) {
      check_name(one.name, "switch", seen);
      level_[one.name] = one.level;
      check_number(one.uplink_gbit_per_s, fmt::format("switch {}: uplink_gbit_per_s", in_quotes(one.name)));
      if (one.level < 1 || one.level > 16)
        refuse(fmt::format("switch {}: level is {}; hosts hang on level 1, and at most 16 exist", in_quotes(one.name),
                           one.level));
    }
    for (const Switch& one : topology_.switches)
      for (const std::string& parent : one.parents) {
        const auto found = level_.find(parent);
        if (found == level_.end())
          refuse(fmt::format("switch {}: its parent {} is not among the switches", in_quotes(one.name),
                             in_quotes(parent)));
        if (found->second <= one.level)  // so there are no cycles either
          refuse(fmt::format("switch {} of level {}: its parent {} is of level {}; a parent is of a higher level",
                             in_quotes(one.name), one.level, in_quotes(parent), found->second));
      }
  }

  void check_leaf(const std::string& leaf, const std::string& owner) const {
    if (!leaf.empty() && !level_.contains(leaf))
      refuse(fmt::format("{}: its leaf_switch {} is not among the switches", owner, in_quotes(leaf)));
  }

  template <class Cell>
  void check_matrix(const std::vector<std::vector<Cell>>& matrix, size_t rows, size_t columns,
                    const std::string& what) const {
    if (matrix.empty()) return;
    bool fits = matrix.size() == rows;
    for (const auto& row : matrix) fits = fits && row.size() == columns;
    if (!fits)
      refuse(fmt::format("{} is not a matrix of {} x {}; leave it out if it is not known", what, rows, columns));
  }

  void check_hosts() {
    std::set<std::string> seen;
    for (const Host& host : topology_.hosts) {
      check_name(host.name, "host", seen);
      const std::string name = "host " + in_quotes(host.name);
      check_leaf(host.leaf_switch, name);
      check_gpus(host, name);
      std::set<std::string> nics;
      for (const Nic& nic : host.nics) {
        check_name(nic.name, "NIC", nics);
        check_leaf(nic.leaf_switch, name + ": NIC " + in_quotes(nic.name));
        if (nic.rail < -1 || nic.rail > 1 << 16)
          refuse(fmt::format("{}: NIC {}: rail is {}", name, nic.name, nic.rail));
        for (const NicPort& port : nic.ports)
          check_number(port.gbit_per_s, fmt::format("{}: NIC {}: gbit_per_s", name, nic.name));
      }
      check_matrix(host.gpu_to_gpu, host.gpus.size(), host.gpus.size(), name + ": gpu_to_gpu");
      check_matrix(host.gpu_to_gpu_nvlinks, host.gpus.size(), host.gpus.size(), name + ": gpu_to_gpu");
      check_matrix(host.gpu_to_nic, host.gpus.size(), host.nics.size(), name + ": gpu_to_nic");
    }
  }

  void check_gpus(const Host& host, const std::string& name) const {
    std::set<int> indices;
    for (const Gpu& gpu : host.gpus) {
      const std::string which = fmt::format("{}: GPU {}", name, gpu.index);
      if (gpu.index < 0 || gpu.index > 1 << 16) refuse(which + ": its index is out of range; number them 0, 1, 2, ...");
      if (!indices.insert(gpu.index).second) refuse(which + " is listed twice; give each GPU its own index");
      if (gpu.memory_bytes < 0)
        refuse(fmt::format("{}: memory_bytes is {}; give 0 if it is not known", which, gpu.memory_bytes));
      if (gpu.num_nvlinks < -1 || gpu.num_nvlinks > 1024)
        refuse(fmt::format("{}: num_nvlinks is {}; give -1 if it is not known", which, gpu.num_nvlinks));
      check_number(gpu.nvlink_gb_per_s, which + ": nvlink_gb_per_s");
    }
  }

  std::vector<std::string> leaves_of(const Host& host) const {
    std::vector<std::string> leaves{host.leaf_switch};
    for (const Nic& nic : host.nics) leaves.push_back(nic.leaf_switch);
    return leaves;
  }

  // Hosts that say what they hang on must all be joined. Without any switches all hang on one.
  void check_connected() const {
    if (topology_.switches.empty() || topology_.hosts.size() < 2) return;
    std::map<std::string, std::string> root_of;  // union-find over switch names
    for (const Switch& one : topology_.switches) root_of[one.name] = one.name;
    const auto root = [&](std::string name) {
      while (root_of.at(name) != name) name = root_of[name] = root_of.at(root_of.at(name));
      return name;
    };
    for (const Switch& one : topology_.switches)
      for (const std::string& parent : one.parents) root_of[root(one.name)] = root(parent);
    std::string first_root;
    const Host* first = nullptr;
    for (const Host& host : topology_.hosts) {
      std::string mine;
      for (const std::string& leaf : leaves_of(host)) {
        if (leaf.empty()) continue;
        if (!mine.empty()) root_of[root(leaf)] = root(mine);  // a host with NICs on several rails may join them
        mine = leaf;
      }
      if (mine.empty())
        refuse(fmt::format("host {} hangs on no switch though others do; give it a leaf_switch", in_quotes(host.name)));
    }
    for (const Host& host : topology_.hosts)
      for (const std::string& leaf : leaves_of(host)) {
        if (leaf.empty()) continue;
        if (first == nullptr) first = &host, first_root = root(leaf);
        if (root(leaf) != root(first_root))
          refuse(fmt::format("host {} cannot reach host {}: no switch joins them; add the switch above both",
                             in_quotes(host.name), in_quotes(first->name)));
      }
  }

  const Topology& topology_;
  const std::string& where_;
  std::map<std::string, int> level_;
};

}  // namespace

void check(const Topology& topology, const std::string& where) { Checker(topology, where).run(); }

}  // namespace lane::topology
