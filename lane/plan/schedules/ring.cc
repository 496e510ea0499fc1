#include "lane/plan/schedules/schedules.h"

namespace lane::plan {

// Each chunk travels once round the ring and is added to by everybody, then travels round again complete:
// 2(n-1) rounds, 2 (n-1)/n s per rank and only between neighbours. Chunk c is summed along one path (c, c+1, ...),
// so all ranks get the same bits, though in another order of addition than the direct schedules'.
// (Patarasuk, Yuan: Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009.)
Schedule ring_all_reduce(int n) {
  Schedule schedule{.name = {}, .num_chunks = n, .program = std::vector<std::vector<Step>>(n)};
  for (int rank = 0; rank < n; ++rank) {
    auto& program = schedule.program[rank];
    const int next = (rank + 1) % n, prev = (rank - 1 + n) % n;
    const auto chunk = [&](int hop) { return ((rank - hop) % n + n) % n; };
    for (int hop = 0; hop < n - 1; ++hop) {
      program.push_back({Action::kSend, next, chunk(hop), hop});
      program.push_back({Action::kRecvReduce, prev, chunk(hop + 1), hop});
    }
    for (int hop = 0; hop < n - 1; ++hop) {  // chunk(n - 1) = chunk(-1) is complete here
      program.push_back({Action::kSend, next, chunk(hop - 1), n - 1 + hop});
      program.push_back({Action::kRecv, prev, chunk(hop), n - 1 + hop});
    }
  }
  return schedule;
}

}  // namespace lane::plan
