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

MessageShares::MessageShares(const Schedule& schedule, Collective collective, const Layout& layout,
                             double partial_scale)
    : schedule_(schedule), partial_scale_(partial_scale) {
  // A rank starts an all-to-all with 1/n of the chunks.
  chunk_share_ = (collective == Collective::kAllToAll ? schedule.num_ranks() : 1.0) / schedule.num_chunks;
  const bool sums = collective == Collective::kAllReduce || collective == Collective::kReduceScatter;
  if (sums && partial_scale != 1) facts_ = replay(schedule, collective, layout).facts;
}

double MessageShares::operator()(const Message& message) const {
  if (facts_.empty()) return chunk_share_ * static_cast<double>(message.end - message.begin);
  double share = 0;
  for (size_t i = message.begin; i < message.end; ++i) {
    const int count = facts_[message.from][i].num_contributions;
    share += chunk_share_ * (count > 1 && count < schedule_.num_ranks() ? partial_scale_ : 1);
  }
  return share;
}

}  // namespace lane::plan
