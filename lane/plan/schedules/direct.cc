// Everybody talks to everybody: few rounds, many messages. A rank sends to its successor first, so that in each
// moment no two ranks write to the same receiver.
#include "lane/plan/schedules/schedules.h"

namespace lane::plan {
namespace {

Schedule empty_schedule(int num_ranks, int num_chunks) {
  return {.name = {}, .num_chunks = num_chunks, .program = std::vector<std::vector<Step>>(num_ranks)};
}

void add_reduce_scatter(Schedule& schedule, int round) {
  const int n = schedule.num_ranks();
  for (int rank = 0; rank < n; ++rank) {
    auto& program = schedule.program[rank];
    for (int i = 1; i < n; ++i) program.push_back({Action::kSend, (rank + i) % n, (rank + i) % n, round});
    for (int peer = 0; peer < n; ++peer)
      if (peer != rank) program.push_back({Action::kCollect, peer, rank, round});
    if (n > 1) program.push_back({Action::kReduce, -1, rank, round});
  }
}

void add_all_gather(Schedule& schedule, int round) {
  const int n = schedule.num_ranks();
  for (int rank = 0; rank < n; ++rank) {
    for (int i = 1; i < n; ++i) schedule.program[rank].push_back({Action::kSend, (rank + i) % n, rank, round});
    for (int i = 1; i < n; ++i) {
      const int peer = (rank - i + n) % n;
      schedule.program[rank].push_back({Action::kRecv, peer, peer, round});
    }
  }
}

}  // namespace

// Everybody gets every vector and adds them up itself, all in the same order: 1 round, (n-1) s per rank.
Schedule one_shot_all_reduce(int n) {
  Schedule schedule = empty_schedule(n, 1);
  for (int rank = 0; rank < n; ++rank) {
    auto& program = schedule.program[rank];
    for (int i = 1; i < n; ++i) program.push_back({Action::kSend, (rank + i) % n, 0});
    for (int peer = 0; peer < n; ++peer)
      if (peer != rank) program.push_back({Action::kCollect, peer, 0});
    if (n > 1) program.push_back({Action::kReduce, -1, 0});
  }
  return schedule;
}

// Rank r adds up chunk r and hands it to all: 2 rounds, 2 (n-1)/n s per rank.
Schedule two_shot_all_reduce(int n) {
  Schedule schedule = empty_schedule(n, n);
  add_reduce_scatter(schedule, 0);
  add_all_gather(schedule, 1);
  return schedule;
}

Schedule direct_reduce_scatter(int n) {
  Schedule schedule = empty_schedule(n, n);
  add_reduce_scatter(schedule, 0);
  return schedule;
}

Schedule direct_all_gather(int n) {
  Schedule schedule = empty_schedule(n, n);
  add_all_gather(schedule, 0);
  return schedule;
}

Schedule direct_broadcast(int n, int root) {
  Schedule schedule = empty_schedule(n, 1);
  for (int i = 1; i < n; ++i) {
    const int peer = (root + i) % n;
    schedule.program[root].push_back({Action::kSend, peer, 0});
    schedule.program[peer].push_back({Action::kRecv, root, 0});
  }
  return schedule;
}

Schedule direct_gather(int n, int root) {
  Schedule schedule = empty_schedule(n, n);
  for (int i = 1; i < n; ++i) {
    const int peer = (root + i) % n;
    schedule.program[root].push_back({Action::kRecv, peer, peer});
    schedule.program[peer].push_back({Action::kSend, root, peer});
  }
  return schedule;
}

}  // namespace lane::plan
