#include "lane/plan/schedules/schedules.h"

namespace lane::plan {

// In every round each rank that has the vector gives it to one that has not: ceil(log2 n) rounds.
Schedule binomial_broadcast(int n, int root) {
  Schedule schedule{.name = {}, .num_chunks = 1, .program = std::vector<std::vector<Step>>(n)};
  int round = 0;
  for (int holders = 1; holders < n; holders *= 2, ++round)
    for (int giver = 0; giver < holders && giver + holders < n; ++giver) {
      const int from = (root + giver) % n, to = (root + giver + holders) % n;
      schedule.program[from].push_back({Action::kSend, to, 0, round});
      schedule.program[to].push_back({Action::kRecv, from, 0, round});
    }
  return schedule;
}

}  // namespace lane::plan
