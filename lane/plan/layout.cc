#include "lane/plan/layout.h"

#include <algorithm>

namespace lane::plan {

Layout Layout::one_node(int num_ranks) { return of_sizes({num_ranks}); }

Layout Layout::uniform(int num_nodes, int ranks_per_node) {
  return of_sizes(std::vector<int>(num_nodes, ranks_per_node));
}

Layout Layout::of_sizes(const std::vector<int>& ranks_per_node) {
  Layout layout;
  for (int node = 0; node < static_cast<int>(ranks_per_node.size()); ++node)
    layout.node_of.insert(layout.node_of.end(), ranks_per_node[node], node);
  return layout;
}

int Layout::num_nodes() const { return node_of.empty() ? 0 : *std::max_element(node_of.begin(), node_of.end()) + 1; }

std::vector<std::vector<int>> Layout::ranks_by_node() const {
  std::vector<std::vector<int>> nodes(num_nodes());
  for (int rank = 0; rank < num_ranks(); ++rank) nodes[node_of[rank]].push_back(rank);
  return nodes;
}

}  // namespace lane::plan
