#pragma once
#include <string>
#include <vector>

#include "lane/plan/schedule.h"

namespace lane::plan {

// A schedule run without data: instead of numbers each chunk holds the set of ranks that contributed to it and the
// expression by which they were combined.
struct Replay {
  std::string flaw;  // empty: the schedule is correct; else the first thing wrong with it, in words
  // For every step of every rank, the contributions in the chunk it sends, or in the rank's chunk after it.
  std::vector<std::vector<int>> num_contributions;
};

// Proves that
//  - every rank ends with what the collective promises, each contribution in it exactly once, and all ranks
//    combined them by the same expression, hence to the same bits;
//  - every send meets its receive, in the same round, and nothing is left in a link or set aside;
//  - nothing is read before it is there, and what a round brings is not passed on in the same round;
//  - it ends, on links that hold a single message.
// One replay suffices for every delivery order: a rank waits for one named link at a time, and never asks whether
// something is there; such a network has only one outcome whatever the speeds (Kahn: The semantics of a simple language
// for parallel programming, 1974), and a link of bounded size is one more of its channels, of free places, back to the
// sender. Larger links only let senders run further ahead.
Replay replay(const Schedule& schedule, Collective collective, int root = 0);

inline std::string verify(const Schedule& schedule, Collective collective, int root = 0) {
  return replay(schedule, collective, root).flaw;
}

}  // namespace lane::plan
