#pragma once
#include <vector>

namespace lane::plan {

// Which node each rank is on. Ranks of a node share its memory and its way to the network. Any numbers of ranks per
// node, in any order; nodes are numbered 0, 1, ... without gaps.
struct Layout {
  std::vector<int> node_of;  // by rank

  static Layout one_node(int num_ranks);
  static Layout uniform(int num_nodes, int ranks_per_node);        // ranks node by node
  static Layout of_sizes(const std::vector<int>& ranks_per_node);  // ranks node by node

  int num_ranks() const { return static_cast<int>(node_of.size()); }
  int num_nodes() const;
  std::vector<std::vector<int>> ranks_by_node() const;  // ascending in each
  bool operator==(const Layout&) const = default;
};

}  // namespace lane::plan
