#pragma once
#include <functional>
#include <vector>

#include "lane/comm/communicator.h"

namespace lane::net {

// Seconds per call, one value for each of `batches` runs of `calls` calls back to back: after a barrier, and of each
// the slowest rank's. All ranks call it alike and get the same bits. `before` runs ahead of each batch and is not
// timed.
std::vector<double> time_batches(Communicator& group, Stream& stream, int calls, int batches,
                                 const std::function<void()>& call, const std::function<void()>& before = {});

// What one call takes, roughly, after a first one that is not counted; the same on all ranks.
double estimate_call(Communicator& group, Stream& stream, const std::function<void()>& call);

// So many calls that a batch lasts about a millisecond: long beside the clock and the ranks' different starts.
int calls_per_batch(double seconds_per_call);

// Puts this thread on a core of its own, if its host has as many as ranks and nobody bound it before: two ranks on one
// core would measure the scheduler. Processes that it starts afterwards inherit that. Whether it did.
bool take_own_core(int local_rank, int local_size);

// Ranks on the same host as this one, and this one's place among them.
struct HostPlace {
  int local_rank = 0, local_size = 1;
};
HostPlace host_place(const Communicator& group);

}  // namespace lane::net
