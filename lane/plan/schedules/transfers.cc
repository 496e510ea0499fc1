#include "lane/plan/schedules/transfers.h"

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "lane/base/error.h"

namespace lane::plan {
namespace {

enum Phase : uint8_t { kSending, kReceiving };

struct Pending {
  Step step;
  Phase phase;
  int order = 0;  // of the message within its phase
};

// Brings a rank's steps into the order in which a program has them.
std::vector<Step> in_order(std::vector<Pending> steps, std::vector<int>& order_of_peer, std::vector<int>& times_added) {
  const auto by_phase = [](const Pending& a, const Pending& b) {
    return a.step.round != b.step.round ? a.step.round < b.step.round : a.phase < b.phase;
  };
  if (!std::is_sorted(steps.begin(), steps.end(), by_phase)) std::stable_sort(steps.begin(), steps.end(), by_phase);
  std::vector<Step> program;
  program.reserve(steps.size());
  for (size_t begin = 0, end = 0; begin < steps.size(); begin = end) {
    const auto same = [&](const Pending& other) { return !by_phase(steps[begin], other); };
    while (end < steps.size() && same(steps[end])) ++end;
    int num_messages = 0;
    const auto key = [](const Step& step) { return 2 * (step.peer + 1) + (step.by_multicast ? 1 : 0); };
    for (size_t i = begin; i < end; ++i) {
      int& order = order_of_peer[key(steps[i].step)];
      if (order < 0) order = num_messages++;
      steps[i].order = order;
    }
    for (size_t i = begin; i < end; ++i) order_of_peer[key(steps[i].step)] = -1;
    const auto by_message = [](const Pending& a, const Pending& b) {
      return a.order != b.order ? a.order < b.order : a.step.chunk < b.step.chunk;
    };
    const auto first = steps.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto last = steps.begin() + static_cast<std::ptrdiff_t>(end);
    if (!std::is_sorted(first, last, by_message)) std::sort(first, last, by_message);

    bool meeting = false;
    std::vector<int> added;
    for (auto pending = first; pending != last; ++pending) {
      if (pending->step.action != Action::kRecvReduce) continue;
      if (times_added[pending->step.chunk]++ == 0)
        added.push_back(pending->step.chunk);
      else
        meeting = true;
    }
    for (const int chunk : added) times_added[chunk] = 0;
    for (auto pending = first; pending != last; ++pending) {
      if (meeting && pending->step.action == Action::kRecvReduce) pending->step.action = Action::kCollect;
      program.push_back(pending->step);
    }
    if (!meeting) continue;
    std::sort(added.begin(), added.end());
    for (const int chunk : added) program.push_back({Action::kReduce, -1, chunk, first->step.round});
  }
  return program;
}

}  // namespace

void Transfers::add(const Transfer& transfer) {
  list.push_back(transfer);
  num_rounds = std::max(num_rounds, transfer.round + 1);
}

Transfers mirrored(const Transfers& transfers) {
  Transfers result = transfers;
  for (Transfer& transfer : result.list) {
    ensure(transfer.to != kWholeNode && !transfer.add, "what is mirrored is a copy from one rank to one other");
    std::swap(transfer.from, transfer.to);
    transfer.round = transfers.num_rounds - 1 - transfer.round;
    transfer.add = true;
  }
  return result;
}

Transfers then(Transfers first, const Transfers& second) {
  ensure(first.num_ranks == second.num_ranks && first.num_chunks == second.num_chunks, "same ranks, same chunks");
  first.list.reserve(first.list.size() + second.list.size());
  for (Transfer transfer : second.list) {
    transfer.round += first.num_rounds;
    first.list.push_back(transfer);
  }
  first.num_rounds += second.num_rounds;
  return first;
}

Halves halves_of(const Transfers& all_gather) {
  std::vector<int> owners(all_gather.num_chunks);
  std::iota(owners.begin(), owners.end(), 0);
  return {mirrored(all_gather), all_gather, owners};
}

void embed(Transfers& into, const Transfers& sub, const std::vector<int>& ranks,
           const std::vector<std::vector<int>>& chunks, int first_round) {
  for (const Transfer& transfer : sub.list)
    for (const int chunk : chunks[transfer.chunk])
      into.add({.round = first_round + transfer.round,
                .from = ranks[transfer.from],
                .to = transfer.to == kWholeNode ? kWholeNode : ranks[transfer.to],
                .chunk = chunk,
                .add = transfer.add});
}

Schedule to_schedule(const Transfers& transfers, const Layout& layout) {
  const int n = transfers.num_ranks;
  std::vector<std::vector<Pending>> steps(n);
  const auto nodes = layout.ranks_by_node();
  std::vector<size_t> num_steps(n, 0);
  for (const Transfer& transfer : transfers.list) {
    ++num_steps[transfer.from];
    if (transfer.to != kWholeNode) ++num_steps[transfer.to];
  }
  for (int rank = 0; rank < n; ++rank) steps[rank].reserve(num_steps[rank]);
  for (const auto& [round, from, to, chunk, add] : transfers.list) {
    const Action receive = add ? Action::kRecvReduce : Action::kRecv;
    if (to != kWholeNode) {
      steps[from].push_back({{Action::kSend, to, chunk, round}, kSending});
      steps[to].push_back({{receive, from, chunk, round}, kReceiving});
      continue;
    }
    const auto& node = nodes[layout.node_of[from]];
    if (node.size() == 1) continue;
    steps[from].push_back({{Action::kMulticast, -1, chunk, round}, kSending});
    for (const int other : node)
      if (other != from) steps[other].push_back({{receive, from, chunk, round, true}, kReceiving});
  }
  Schedule schedule{.name = {}, .num_chunks = transfers.num_chunks, .program = {}};
  std::vector<int> order_of_peer(2 * (static_cast<size_t>(n) + 1), -1), times_added(transfers.num_chunks, 0);
  for (auto& pending : steps) schedule.program.push_back(in_order(std::move(pending), order_of_peer, times_added));
  return schedule;
}

}  // namespace lane::plan
