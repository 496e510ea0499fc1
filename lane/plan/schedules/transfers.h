// Private to lane/plan: the small algebra that schedules are made with.
#pragma once
#include <vector>

#include "lane/plan/schedule.h"

namespace lane::plan {

inline constexpr int kWholeNode = -1;  // as a receiver: all other ranks of the sender's node, by multicast

struct Transfer {
  int round, from, to, chunk;
  bool add = false;  // to what the receiver has; else in place of it
};

// A collective as one list of what goes where, in any order. A maker lists a rank's messages of a round in the order in
// which they should leave: to its successor first, so that not all ranks write to the same receiver at once.
struct Transfers {
  int num_ranks = 1, num_chunks = 1, num_rounds = 0;
  std::vector<Transfer> list = {};

  void add(const Transfer& transfer);
};

// Back in time: who received sends, and what was copied is added. An all-gather becomes a reduce-scatter, a broadcast
// a reduction to its root. Not for multicast, which has no such mirror.
Transfers mirrored(const Transfers& transfers);

// `second` when `first` is done, on the same ranks and chunks.
Transfers then(Transfers first, const Transfers& second);

// A reduce-scatter and an all-gather, which make an all-reduce. In between, rank owners[c] has the sum of chunk c.
struct Halves {
  Transfers scatter, gather;
  std::vector<int> owners;
};
Halves halves_of(const Transfers& all_gather);  // it and its mirror; rank r owns chunk r

// Adds `sub` to `into`, from `first_round` on: its rank r is rank ranks[r] there, and its chunk c is all chunks
// chunks[c] there.
void embed(Transfers& into, const Transfers& sub, const std::vector<int>& ranks,
           const std::vector<std::vector<int>>& chunks, int first_round);

// What each rank does. All that goes from one rank to another in a round becomes one message, chunks ascending.
// Contributions that meet in a round are set aside and added in rank order; if a chunk of a rank has such a meeting,
// then all that the rank adds in that round is added this way.
Schedule to_schedule(const Transfers& transfers, const Layout& layout);

}  // namespace lane::plan
