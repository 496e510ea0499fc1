#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lane/plan/schedule.h"

namespace lane::plan {

// A schedule run without data: instead of numbers each chunk holds the set of ranks that contributed to it and the
// expression by which they were combined.
struct Replay {
  std::string flaw;  // empty: the schedule is correct; else the first thing wrong with it, in words
  // For every step of every rank ...
  struct Fact {
    int num_contributions = 0;   // in the chunk that it sends or sets aside, or in the rank's chunk after it
    int lowest_rank = 0;         // of these contributions
    bool message_first = false;  // of kRecvReduce: the message holds the lowest rank's contribution
  };
  std::vector<std::vector<Fact>> facts;
  // Of a correct all-reduce: names the expression by which all chunks are summed, 0 if they differ in it. Schedules of
  // one order give the same bits.
  uint64_t order = 0;
};

// Proves that
//  - every rank ends with what the collective promises, each contribution in it exactly once, and all ranks
//    combined them by the same expression, hence to the same bits;
//  - every message meets its receive: the same rounds, the same chunks in the same order, nothing left over;
//  - nothing is read before it is there, no chunk gets two things in one round, and nothing that only this rank holds
//    is overwritten;
//  - it ends (see Schedule: rounds are in order on every rank, which is checked here, and that suffices for every
//    delivery order that reliable ordered links allow, of whatever size).
// Multicast stays inside a node, therefore the layout.
Replay replay(const Schedule& schedule, Collective collective, const Layout& layout, int root = 0);

inline std::string verify(const Schedule& schedule, Collective collective, const Layout& layout, int root = 0) {
  return replay(schedule, collective, layout, root).flaw;
}

}  // namespace lane::plan
