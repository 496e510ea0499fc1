#include "lane/comm/executor/program.h"

#include <algorithm>

#include "lane/base/error.h"
#include "lane/plan/verify.h"

namespace lane {

using plan::Action;

Program compile(const plan::Schedule& schedule, plan::Collective collective, int root, int rank) {
  const plan::Replay replay = plan::replay(schedule, collective, root);
  ensure(replay.flaw.empty(), "schedule " + schedule.name + ": " + replay.flaw);
  const int n = schedule.num_ranks();
  const auto is_partial = [&](int count) { return count > 1 && count < n; };

  Program program;
  program.num_chunks = schedule.num_chunks;
  for (int r = 0; r < n; ++r)
    for (size_t i = 0; i < schedule.program[r].size(); ++i)
      if (schedule.program[r][i].action == Action::kSend && is_partial(replay.num_contributions[r][i]))
        program.any_partial = true;

  std::vector<Place> places(schedule.num_chunks, Place::kInput);
  std::vector<int> counts(schedule.num_chunks, 1);
  for (size_t i = 0; i < schedule.program[rank].size(); ++i) {
    const plan::Step& step = schedule.program[rank][i];
    const int count = replay.num_contributions[rank][i];  // sent, collected, or in my chunk afterwards
    Place& place = places[step.chunk];
    Program::Instruction instruction{step.action, is_partial(count), place, place, step.peer, step.chunk, step.round};
    if (step.action == Action::kRecvReduce) instruction.partial = is_partial(count - counts[step.chunk]);
    if (step.action != Action::kSend && step.action != Action::kCollect) {
      place = instruction.to = is_partial(count) ? Place::kPartial : Place::kOutput;
      counts[step.chunk] = count;
    }
    program.instructions.push_back(instruction);
  }
  // What is collected for one reduction is added in rank order; it may as well be waited for in that order.
  const auto collects = [](const Program::Instruction& i) { return i.action == Action::kCollect; };
  for (auto at = program.instructions.begin(); at != program.instructions.end();) {
    const auto first = std::find_if(at, program.instructions.end(), collects);
    at = std::find_if_not(first, program.instructions.end(), collects);
    std::sort(first, at, [](const auto& a, const auto& b) { return a.peer < b.peer; });
  }
  return program;
}

}  // namespace lane
