// Everybody talks to everybody: one round, many messages.
#include "lane/plan/schedules/schedules.h"

namespace lane::plan {
Transfers direct_all_gather(int n) {
  Transfers result{.num_ranks = n, .num_chunks = n};
  for (int i = 1; i < n; ++i)
    for (int rank = 0; rank < n; ++rank) result.add({.round = 0, .from = rank, .to = (rank + i) % n, .chunk = rank});
  return result;
}

Transfers multicast_all_gather(int n) {
  Transfers result{.num_ranks = n, .num_chunks = n};
  for (int rank = 0; rank < n; ++rank) result.add({.round = 0, .from = rank, .to = kWholeNode, .chunk = rank});
  return result;
}

// Rank r adds up chunk r and hands it to all: two_shot.
Halves direct_halves(int n) { return halves_of(direct_all_gather(n)); }

Halves multicast_halves(int n) {
  Halves halves = direct_halves(n);
  halves.gather = multicast_all_gather(n);
  return halves;
}

// Everybody gets every vector and adds them up itself, all in rank order.
Transfers one_shot_all_reduce(int n) {
  Transfers result{.num_ranks = n};
  for (int i = 1; i < n; ++i)
    for (int rank = 0; rank < n; ++rank)
      result.add({.round = 0, .from = rank, .to = (rank + i) % n, .chunk = 0, .add = true});
  return result;
}

Transfers one_shot_multicast_all_reduce(int n) {
  Transfers result{.num_ranks = n};
  for (int rank = 0; rank < n; ++rank)
    result.add({.round = 0, .from = rank, .to = kWholeNode, .chunk = 0, .add = true});
  return result;
}

Transfers direct_broadcast(int n, int root) {
  Transfers result{.num_ranks = n};
  for (int i = 1; i < n; ++i) result.add({.round = 0, .from = root, .to = (root + i) % n, .chunk = 0});
  return result;
}

Transfers multicast_broadcast(int n, int root) {
  Transfers result{.num_ranks = n};
  result.add({.round = 0, .from = root, .to = kWholeNode, .chunk = 0});
  return result;
}

Transfers direct_gather(int n, int root) {
  Transfers result{.num_ranks = n, .num_chunks = n};
  for (int i = 1; i < n; ++i) {
    const int rank = (root + i) % n;
    result.add({.round = 0, .from = rank, .to = root, .chunk = rank});
  }
  return result;
}

Transfers direct_all_to_all(int n) {
  Transfers result{.num_ranks = n, .num_chunks = n * n};
  for (int i = 1; i < n; ++i)
    for (int rank = 0; rank < n; ++rank) {
      const int to = (rank + i) % n;
      result.add({.round = 0, .from = rank, .to = to, .chunk = rank * n + to});
    }
  return result;
}

}  // namespace lane::plan
