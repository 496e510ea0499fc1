#include "lane/plan/schedules/schedules.h"

namespace lane::plan {

// Each rank hands its successor what it received last: n-1 rounds, only between neighbours. As halves of an all-reduce,
// chunk c is summed along one path, from rank c-1 backwards to rank c, so all ranks get the same bits.
// (Patarasuk, Yuan: Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009.)
Transfers ring_all_gather(int n) {
  Transfers result{.num_ranks = n, .num_chunks = n};
  for (int hop = 0; hop < n - 1; ++hop)
    for (int rank = 0; rank < n; ++rank)
      result.add({.round = hop, .from = rank, .to = (rank + 1) % n, .chunk = (rank - hop + n) % n});
  return result;
}

Halves ring_halves(int n) { return halves_of(ring_all_gather(n)); }

}  // namespace lane::plan
