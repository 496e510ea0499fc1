#include <fmt/format.h>

#include <algorithm>

#include "lane/base/json.h"
#include "lane/place/read/source.h"

namespace lane::place {
namespace {

using topology::Topology;

class TreeMaker {
 public:
  TreeMaker(const Source& source, const std::vector<SwitchEntry>& entries) : source_(source), entries_(entries) {}

  void run(Topology& topology) {
    for (size_t i = 0; i < entries_.size(); ++i) {
      const auto [found, is_new] = index_of_.try_emplace(entries_[i].name, i);
      if (!is_new)
        source_.refuse(entries_[i].line, fmt::format("switch {} is described twice, first in line {}",
                                                     in_quotes(entries_[i].name), entries_[found->second].line));
    }
    check_children();
    level_.assign(entries_.size(), 0);
    for (size_t i = 0; i < entries_.size(); ++i) find_level(i);
    check_joined();
    for (size_t i = 0; i < entries_.size(); ++i)
      topology.switches.push_back({.name = entries_[i].name, .level = level_[i], .parents = parents_[i]});
    add_hosts(topology);
  }

 private:
  static constexpr int kOnTheWay = -1;

  void check_children() {
    parents_.resize(entries_.size());
    for (const SwitchEntry& entry : entries_) {
      const std::string name = "switch " + in_quotes(entry.name);
      if (entry.nodes.empty() == entry.switches.empty())
        source_.refuse(entry.line, name + (entry.nodes.empty() ? " has neither nodes nor switches below it"
                                                               : " has both nodes and switches below it; give the "
                                                                 "nodes a leaf switch of their own"));
      for (const std::string& child : entry.switches) {
        const auto found = index_of_.find(child);
        if (found == index_of_.end())
          source_.refuse(entry.line, fmt::format("{}: no line describes switch {} below it", name, in_quotes(child)));
        parents_[found->second].push_back(entry.name);
      }
    }
  }

  // The height above the hosts. Recursion is as deep as the tree; a real one has three or four levels.
  int find_level(size_t i, int depth = 0) {
    const SwitchEntry& entry = entries_[i];
    if (level_[i] == kOnTheWay || depth > 16)
      source_.refuse(entry.line, level_[i] == kOnTheWay
                                     ? fmt::format("switch {} is below itself: a cycle", in_quotes(entry.name))
                                     : "more than 16 levels of switches");
    if (level_[i] > 0) return level_[i];
    level_[i] = kOnTheWay;
    int highest = 0;
    for (const std::string& child : entry.switches)
      highest = std::max(highest, find_level(index_of_.at(child), depth + 1));
    return level_[i] = highest + 1;
  }

  // Every switch below some top one reaches all others of it; two tops need a switch below both, or one above.
  void check_joined() {
    std::vector<size_t> root(entries_.size());
    for (size_t i = 0; i < root.size(); ++i) root[i] = i;
    const auto find = [&](size_t i) {
      while (root[i] != i) i = root[i] = root[root[i]];
      return i;
    };
    for (size_t i = 0; i < entries_.size(); ++i)
      for (const std::string& child : entries_[i].switches) root[find(index_of_.at(child))] = find(i);
    for (size_t i = 1; i < entries_.size(); ++i)
      if (find(i) != find(0))
        source_.refuse(entries_[i].line,
                       fmt::format("hosts below switch {} cannot reach those below {} (line {}): add the switch above "
                                   "both",
                                   in_quotes(entries_[i].name), in_quotes(entries_[0].name), entries_[0].line));
  }

  void add_hosts(Topology& topology) {
    std::map<std::string, const SwitchEntry*> leaf_of;
    for (const SwitchEntry& entry : entries_)
      for (const std::string& node : entry.nodes) {
        const auto [found, is_new] = leaf_of.try_emplace(node, &entry);
        if (!is_new)
          source_.refuse(entry.line,
                         fmt::format("node {} is below {} and, in line {}, below {}", in_quotes(node),
                                     in_quotes(entry.name), found->second->line, in_quotes(found->second->name)));
        if (leaf_of.size() > kMaxHosts) source_.refuse(entry.line, fmt::format("more than {} nodes", kMaxHosts));
        topology.hosts.push_back({.name = node, .leaf_switch = entry.name});
      }
  }

  const Source& source_;
  const std::vector<SwitchEntry>& entries_;
  std::map<std::string, size_t> index_of_;
  std::vector<std::vector<std::string>> parents_;
  std::vector<int> level_;
};

}  // namespace

void add_tree(const Source& source, const std::vector<SwitchEntry>& entries, Topology& topology) {
  TreeMaker(source, entries).run(topology);
}

// Blocks of 2, 4, ... base blocks become switches of the levels above; one more joins what is left.
void add_blocks(const Source& source, const std::vector<SwitchEntry>& blocks, const std::vector<int64_t>& sizes,
                Topology& topology) {
  std::vector<SwitchEntry> entries = blocks;
  std::vector<std::string> below;
  for (const SwitchEntry& block : blocks) below.push_back(block.name);
  const auto join = [&](size_t count, const std::string& prefix) {
    std::vector<std::string> above;
    for (size_t i = 0; i < below.size(); i += count) {
      const size_t end = std::min(below.size(), i + count);
      above.push_back(fmt::format("{}{}", prefix, above.size() + 1));
      entries.push_back(
          {.name = above.back(),
           .switches = {below.begin() + static_cast<ptrdiff_t>(i), below.begin() + static_cast<ptrdiff_t>(end)}});
    }
    below = std::move(above);
  };
  for (size_t i = 1; i < sizes.size() && below.size() > 1; ++i) {
    if (sizes[i] <= sizes[i - 1] || sizes[i] % sizes[i - 1] != 0)
      source.refuse(0, fmt::format("block size {} is no multiple of the size before it, {}", sizes[i], sizes[i - 1]));
    join(static_cast<size_t>(sizes[i] / sizes[i - 1]), fmt::format("blocks-of-{}-", sizes[i]));
  }
  if (below.size() > 1) join(below.size(), "all-blocks-");
  add_tree(source, entries, topology);
}

}  // namespace lane::place
