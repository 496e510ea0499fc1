// ceil(log2 n) rounds for any n. (Bruck, Ho, Kipnis, Upfal, Weathersby: Efficient algorithms for all-to-all
// communications in multiport message-passing systems, 1997.)
#include <algorithm>

#include "lane/plan/schedules/schedules.h"

namespace lane::plan {

// With `held` chunks everywhere, each rank hands the rank that far before it as many as that one still lacks. The
// mirror is the reduce-scatter on a circulant graph, optimal in rounds and in bytes for every n. (Träff: Optimal,
// non-pipelined reduce-scatter and allreduce algorithms, 2024.)
Transfers bruck_all_gather(int n) {
  Transfers result{.num_ranks = n, .num_chunks = n};
  int round = 0;
  for (int held = 1; held < n; held *= 2, ++round)
    for (int rank = 0; rank < n; ++rank)
      for (int i = 0; i < std::min(held, n - held); ++i)
        result.add({.round = round, .from = rank, .to = (rank - held + n) % n, .chunk = (rank + i) % n});
  return result;
}

Halves bruck_halves(int n) { return halves_of(bruck_all_gather(n)); }

// A chunk has to go some distance round the circle of ranks, and goes there by the powers of two in it; in between it
// stays with ranks that it is not for.
Transfers bruck_all_to_all(int n) {
  Transfers result{.num_ranks = n, .num_chunks = n * n};
  int round = 0;
  for (int hop = 1; hop < n; hop *= 2, ++round)
    for (int source = 0; source < n; ++source)
      for (int distance = hop; distance < n; ++distance) {
        if ((distance & hop) == 0) continue;
        const int at = source + (distance & (hop - 1));
        result.add(
            {.round = round, .from = at % n, .to = (at + hop) % n, .chunk = source * n + (source + distance) % n});
      }
  return result;
}

}  // namespace lane::plan
