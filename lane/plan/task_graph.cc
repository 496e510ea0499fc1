#include "lane/plan/task_graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lane/base/error.h"

namespace lane::plan {
namespace {

constexpr int64_t kMostTasks = 50'000'000;  // about 8 GB with their dependencies

// What a rank sends and receives in a round of an exchange: indices of parcels.
struct Round {
  int round = 0;
  std::vector<int> sends, receives;
};

// By rank, rounds ascending.
std::vector<std::vector<Round>> rounds_by_rank(const Exchange& exchange, int num_ranks) {
  std::vector<std::vector<Round>> all(num_ranks);
  std::vector<int> order(exchange.parcels.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return exchange.parcels[a].round < exchange.parcels[b].round; });
  const auto of = [&](int rank, int round) -> Round& {
    if (all[rank].empty() || all[rank].back().round != round) all[rank].push_back({.round = round});
    return all[rank].back();
  };
  for (const int i : order) {
    const Parcel& parcel = exchange.parcels[i];
    of(parcel.from, parcel.round).sends.push_back(i);
    for (const int to : parcel.to) of(to, parcel.round).receives.push_back(i);
  }
  return all;
}

class Unroller {
 public:
  Unroller(const Workload& workload, bool with_spans) : workload_(workload), with_spans_(with_spans) {
    const int num_ranks = workload.num_ranks();
    std::vector<int64_t> most(workload.exchanges.size(), 0);  // occurrences in a program
    for (const auto& program : workload.programs) {
      std::vector<int64_t> count(most.size(), 0);
      for (const Op& op : program)
        if (op.exchange >= 0) most[op.exchange] = std::max(most[op.exchange], ++count[op.exchange]);
    }
    int64_t num_tasks = num_ranks;
    for (size_t e = 0; e < most.size(); ++e) {
      first_.push_back(num_tasks);
      num_tasks += most[e] * static_cast<int64_t>(workload.exchanges[e].parcels.size());
      rounds_.push_back(rounds_by_rank(workload.exchanges[e], num_ranks));
    }
    if (num_tasks > kMostTasks)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{} messages are too many to simulate, at most {}: take fewer ranks or micro-batches",
                              num_tasks, kMostTasks));
    graph_.tasks.resize(num_tasks);
    for (size_t e = 0; e < most.size(); ++e) fill_messages(e, most[e]);
    for (int rank = 0; rank < num_ranks; ++rank) unroll(rank);
  }

  TaskGraph graph_;

 private:
  void fill_messages(size_t e, int64_t count) {
    const Exchange& exchange = workload_.exchanges[e];
    const auto found = std::find(workload_.labels.begin(), workload_.labels.end(), exchange.name);
    ensure(found != workload_.labels.end(), "an exchange that is used has a label");
    const int label = static_cast<int>(found - workload_.labels.begin());
    int64_t id = first_[e];
    for (int64_t occurrence = 0; occurrence < count; ++occurrence)
      for (const Parcel& parcel : exchange.parcels)
        graph_.tasks[id++] = {.parcel = &parcel,
                              .rank = parcel.from,
                              .label = label,
                              .wait_ps = to_ps(parcel.wait_s),
                              .latency_ps = to_ps(parcel.latency_s)};
  }

  int add(int rank, int label, double seconds) {
    graph_.tasks.push_back({.rank = rank, .label = label, .compute_ps = to_ps(seconds)});
    return static_cast<int>(graph_.tasks.size()) - 1;
  }

  void depend(int before, int after, Milestone milestone = Milestone::kDone) {
    graph_.dependencies.push_back({before, after, milestone});
  }

  // The task after which the rank is through with the exchange.
  int unroll_exchange(int rank, const Op& op, int64_t occurrence, int previous) {
    const Exchange& exchange = workload_.exchanges[op.exchange];
    const auto num_parcels = static_cast<int64_t>(exchange.parcels.size());
    const auto task = [&](int parcel, int64_t of) {
      return static_cast<int>(first_[op.exchange] + of * num_parcels + parcel);
    };
    for (const Round& round : rounds_[op.exchange][rank]) {
      for (const int parcel : round.sends) {
        depend(previous, task(parcel, occurrence));
        if (!exchange.holds_sender && occurrence > 0)
          depend(task(parcel, occurrence - 1), task(parcel, occurrence), Milestone::kLeft);
      }
      const int meeting = add(rank, op.label, 0);
      depend(previous, meeting);
      if (exchange.holds_sender)
        for (const int parcel : round.sends) depend(task(parcel, occurrence), meeting, Milestone::kLeft);
      for (const int parcel : round.receives) {
        if (exchange.parcels[parcel].bytes > exchange.eager_bytes) depend(previous, task(parcel, occurrence));
        depend(task(parcel, occurrence), meeting);
      }
      previous = meeting;
    }
    return previous;
  }

  void unroll(int rank) {
    std::vector<int64_t> occurrences(workload_.exchanges.size(), 0);
    graph_.tasks[rank] = {.rank = rank};
    int previous = rank;
    for (const Op& op : workload_.programs[workload_.program_of[rank]]) {
      const int begin = previous;
      if (op.exchange < 0) {
        previous = add(rank, op.label, op.compute_s * workload_.slowness[rank]);
        depend(begin, previous);
      } else {
        previous = unroll_exchange(rank, op, occurrences[op.exchange]++, begin);
      }
      if (with_spans_) graph_.spans.push_back({rank, op.label, op.exchange >= 0, begin, previous});
    }
  }

  const Workload& workload_;
  const bool with_spans_;
  std::vector<int64_t> first_;                           // by exchange: its first message
  std::vector<std::vector<std::vector<Round>>> rounds_;  // by exchange and rank
};

}  // namespace

Picoseconds to_ps(double seconds) {
  ensure(seconds >= 0 && seconds < 1e6, "a time is between 0 and 10 days");
  return std::llround(seconds * 1e12);
}

TaskGraph unroll(const Workload& workload, bool with_spans) { return std::move(Unroller(workload, with_spans).graph_); }

}  // namespace lane::plan
