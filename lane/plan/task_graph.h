#pragma once
#include <cstdint>
#include <vector>

#include "lane/plan/workload.h"

namespace lane::plan {

using Picoseconds = int64_t;
Picoseconds to_ps(double seconds);

// A computation (of no length: a place where a rank waits for several things), or a message.
struct Task {
  const Parcel* parcel = nullptr;  // null: a computation
  int rank = 0, label = 0;         // of a message: its sender
  Picoseconds compute_ps = 0, wait_ps = 0, latency_ps = 0;
};

enum class Milestone : uint8_t {
  kLeft,  // the sender has given the last byte away; messages only
  kDone,  // computed, or of use to the receivers
};

struct Dependency {
  int before, after;
  Milestone milestone;  // of `before`
};

// A workload unrolled: each op of each rank as tasks. Tasks [0, num_ranks) are the ranks' starts. Keeps references to
// the workload.
struct TaskGraph {
  struct OpSpan {
    int rank, label;
    bool is_exchange;
    int begin, end;  // from when task `begin` is done to when `end` is
  };
  std::vector<Task> tasks;
  std::vector<Dependency> dependencies;
  std::vector<OpSpan> spans;  // if asked for
};
TaskGraph unroll(const Workload& workload, bool with_spans);

}  // namespace lane::plan
