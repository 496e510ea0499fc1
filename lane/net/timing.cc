#include "lane/net/timing.h"

#include <sched.h>

#include <algorithm>
#include <cmath>

#include "lane/base/trace.h"
#include "lane/net/agreement.h"

namespace lane::net {
namespace {

double seconds_since(int64_t start_ns) { return static_cast<double>(now_ns() - start_ns) * 1e-9; }

}  // namespace

std::vector<double> time_batches(Communicator& group, Stream& stream, int calls, int batches,
                                 const std::function<void()>& call, const std::function<void()>& before) {
  std::vector<double> seconds;
  for (int batch = 0; batch < batches; ++batch) {
    if (before) before();
    group.barrier(stream);
    const int64_t start_ns = now_ns();
    for (int i = 0; i < calls; ++i) call();
    seconds.push_back(seconds_since(start_ns) / calls);
  }
  take_slowest(group, stream, seconds);
  return seconds;
}

double estimate_call(Communicator& group, Stream& stream, const std::function<void()>& call) {
  call();
  constexpr int kCalls = 3;
  std::vector<double> seconds = time_batches(group, stream, kCalls, 3, call);
  return *std::min_element(seconds.begin(), seconds.end());
}

int calls_per_batch(double seconds_per_call) {
  constexpr double kBatch = 1e-3;
  return static_cast<int>(std::clamp(std::ceil(kBatch / std::max(seconds_per_call, 1e-9)), 1.0, 1000.0));
}

bool take_own_core(int local_rank, int local_size) {
  cpu_set_t allowed;
  if (local_size < 2 || ::sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || CPU_COUNT(&allowed) < local_size)
    return false;
  for (int cpu = 0, place = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || place++ != local_rank) continue;
    cpu_set_t mine;
    CPU_ZERO(&mine);
    CPU_SET(cpu, &mine);
    return ::sched_setaffinity(0, sizeof(mine), &mine) == 0;
  }
  return false;
}

HostPlace host_place(const Communicator& group) {
  const std::vector<int>& node_of = group.fabric().layout.node_of;
  HostPlace place{0, 0};
  for (int rank = 0; rank < group.size(); ++rank) {
    if (node_of[rank] != node_of[group.rank()]) continue;
    if (rank < group.rank()) ++place.local_rank;
    ++place.local_size;
  }
  return place;
}

}  // namespace lane::net
