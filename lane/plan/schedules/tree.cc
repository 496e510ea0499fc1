#include <algorithm>
#include <bit>

#include "lane/plan/schedules/schedules.h"

namespace lane::plan {
namespace {

// A binary tree over the numbers 0 to n-1 from left to right: the even ones are leaves, the odd ones are not.
struct InOrderTree {
  explicit InOrderTree(int n) : parent(n, -1), depth(n, 0) { build(0, n, -1, 0); }

  void build(int begin, int end, int above, int level) {
    if (begin == end) return;
    const int root = begin + static_cast<int>(std::bit_floor(static_cast<unsigned>(end - begin))) - 1;
    parent[root] = above;
    depth[root] = level;
    build(begin, root, root, level + 1);
    build(root + 1, end, root, level + 1);
  }
  std::vector<int> parent, depth;
};

}  // namespace

// In every round each rank that has the vector gives it to one that has not: ceil(log2 n) rounds.
Transfers binomial_broadcast(int n, int root) {
  Transfers result{.num_ranks = n};
  int round = 0;
  for (int holders = 1; holders < n; holders *= 2, ++round)
    for (int giver = 0; giver < holders && giver + holders < n; ++giver)
      result.add({.round = round, .from = (root + giver) % n, .to = (root + giver + holders) % n, .chunk = 0});
  return result;
}

// In every round half of those that still have something give all they have to the other half.
Transfers binomial_gather(int n, int root) {
  Transfers result{.num_ranks = n, .num_chunks = n};
  int round = 0;
  for (int held = 1; held < n; held *= 2, ++round)
    for (int giver = held; giver < n; giver += 2 * held)
      for (int i = giver; i < std::min(giver + held, n); ++i)
        result.add(
            {.round = round, .from = (root + giver) % n, .to = (root + giver - held) % n, .chunk = (root + i) % n});
  return result;
}

// Two trees, each for half of the vector: up to the root to be added, down again complete. No rank is an inner one in
// both, so each sends and receives about twice the vector, whatever n is, and all ports are in use if there are enough
// pieces: one piece follows the other a round later, upwards and downwards at the same time.
// (Sanders, Speck, Träff: Two-tree algorithms for full bandwidth broadcast, reduction and scan, 2009.)
Transfers double_tree_all_reduce(int n, int num_pieces) {
  Transfers result{.num_ranks = n, .num_chunks = 2 * num_pieces};
  const InOrderTree tree(n);
  const int height = *std::max_element(tree.depth.begin(), tree.depth.end());
  for (int piece = 0; piece < num_pieces; ++piece)
    for (const int which : {0, 1})
      for (int i = 0; i < n; ++i) {
        if (tree.parent[i] < 0) continue;
        // The second tree is the first one shifted by a rank, which makes its inner ranks the even ones.
        const int child = (i + n - which) % n, parent = (tree.parent[i] + n - which) % n;
        const int chunk = which * num_pieces + piece, depth = tree.depth[i];
        result.add({.round = height - depth + piece, .from = child, .to = parent, .chunk = chunk, .add = true});
        result.add({.round = height + depth - 1 + piece, .from = parent, .to = child, .chunk = chunk});
      }
  return result;
}

}  // namespace lane::plan
