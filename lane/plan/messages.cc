#include "lane/plan/messages.h"

namespace lane::plan {

std::vector<std::vector<Message>> messages_by_round(const Schedule& schedule) {
  std::vector<std::vector<Message>> rounds(schedule.num_rounds());
  for (int rank = 0; rank < schedule.num_ranks(); ++rank) {
    const auto& program = schedule.program[rank];
    for (size_t begin = 0, end = 0; begin < program.size(); begin = end) {
      const Step& first = program[begin];
      const auto goes_along = [&](const Step& step) {
        return step.round == first.round && step.action == first.action && step.peer == first.peer;
      };
      while (end < program.size() && goes_along(program[end])) ++end;
      if (first.action == Action::kSend || first.action == Action::kMulticast)
        rounds[first.round].push_back({rank, first.peer, begin, end});
    }
  }
  return rounds;
}

}  // namespace lane::plan
