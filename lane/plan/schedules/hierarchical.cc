// Compositions: one schedule inside the nodes, another between them. Between the nodes every rank takes part, each with
// its part of the vector, so that all of a node's ways out are used. NVRAR (arXiv 2511.09557) is
// hier:two_shot/recursive_doubling on nodes whose numbers are powers of two.
#include <algorithm>

#include "lane/plan/schedules/schedules.h"

namespace lane::plan {

// The vector has as many parts as the largest node has owners, and each part as many chunks as the schedule between the
// nodes needs. In a node with fewer owners some own several parts.
Transfers hierarchical_all_reduce(const Layout& layout, Halves (*inside)(int n), const Transfers& between) {
  const auto nodes = layout.ranks_by_node();
  std::vector<Halves> halves;
  int num_parts = 0;
  for (const auto& node : nodes) {
    halves.push_back(inside(static_cast<int>(node.size())));
    num_parts = std::max(num_parts, static_cast<int>(halves.back().owners.size()));
  }
  const int num_pieces = between.num_chunks;  // of a part
  Transfers result{.num_ranks = layout.num_ranks(), .num_chunks = num_parts * num_pieces};
  const auto owned = [&](size_t node) {
    const int num_owners = static_cast<int>(halves[node].owners.size());
    std::vector<std::vector<int>> chunks(num_owners);
    for (int chunk = 0; chunk < result.num_chunks; ++chunk) chunks[chunk / num_pieces % num_owners].push_back(chunk);
    return chunks;
  };

  for (size_t node = 0; node < nodes.size(); ++node) embed(result, halves[node].scatter, nodes[node], owned(node), 0);
  const int between_round = result.num_rounds;
  for (int part = 0; part < num_parts; ++part) {
    std::vector<int> ranks;
    for (size_t node = 0; node < nodes.size(); ++node) {
      const auto& owners = halves[node].owners;
      ranks.push_back(nodes[node][owners[part % static_cast<int>(owners.size())]]);
    }
    std::vector<std::vector<int>> chunks(num_pieces);
    for (int piece = 0; piece < num_pieces; ++piece) chunks[piece] = {part * num_pieces + piece};
    embed(result, between, ranks, chunks, between_round);
  }
  const int gather_round = result.num_rounds;
  for (size_t node = 0; node < nodes.size(); ++node)
    embed(result, halves[node].gather, nodes[node], owned(node), gather_round);
  return result;
}

// First between those that have the same place in their nodes, and then each node's ranks have all chunks among them. A
// node with fewer ranks gives the places that it lacks to its ranks in turn.
Transfers hierarchical_all_gather(const Layout& layout, Transfers (*inside)(int n), const Transfers& between) {
  const auto nodes = layout.ranks_by_node();
  size_t num_places = 0;
  for (const auto& node : nodes) num_places = std::max(num_places, node.size());
  Transfers result{.num_ranks = layout.num_ranks(), .num_chunks = layout.num_ranks()};
  for (size_t place = 0; place < num_places; ++place) {
    std::vector<int> ranks;
    std::vector<std::vector<int>> chunks;
    for (const auto& node : nodes) {
      ranks.push_back(node[place % node.size()]);
      chunks.push_back(place < node.size() ? std::vector<int>{node[place]} : std::vector<int>{});
    }
    embed(result, between, ranks, chunks, 0);
  }
  const int inside_round = result.num_rounds;
  for (const auto& node : nodes) {
    std::vector<std::vector<int>> chunks(node.size());
    for (const auto& other : nodes)
      for (size_t place = 0; place < other.size(); ++place) chunks[place % node.size()].push_back(other[place]);
    embed(result, inside(static_cast<int>(node.size())), node, chunks, inside_round);
  }
  return result;
}

// To the first rank of each node, and from there to the others. The root is its node's first.
Transfers hierarchical_broadcast(const Layout& layout, Transfers (*inside)(int n, int root),
                                 Transfers (*between)(int n, int root), int root) {
  auto nodes = layout.ranks_by_node();
  auto& home = nodes[layout.node_of[root]];
  std::rotate(home.begin(), std::find(home.begin(), home.end(), root), home.end());
  std::vector<int> firsts;
  for (const auto& node : nodes) firsts.push_back(node.front());
  Transfers result{.num_ranks = layout.num_ranks()};
  embed(result, between(static_cast<int>(nodes.size()), layout.node_of[root]), firsts, {{0}}, 0);
  const int inside_round = result.num_rounds;
  for (const auto& node : nodes) embed(result, inside(static_cast<int>(node.size()), 0), node, {{0}}, inside_round);
  return result;
}

}  // namespace lane::plan
