#pragma once
#include <cstddef>
#include <vector>

#include "lane/plan/schedule.h"
#include "lane/plan/verify.h"

namespace lane::plan {

// A schedule as its messages, for those who count or draw them: steps [begin, end) of program[from] are one message.
struct Message {
  int from, to;  // to is -1 if it goes to all other ranks of the node by multicast
  size_t begin, end;
};

// By round; those of a sender in the order in which it sends them.
std::vector<std::vector<Message>> messages_by_round(const Schedule& schedule);

// What part of the vector a message holds. `partial_scale` as for cost(). Keeps a reference to the schedule.
class MessageShares {
 public:
  MessageShares(const Schedule& schedule, Collective collective, const Layout& layout, double partial_scale);
  double operator()(const Message& message) const;

 private:
  const Schedule& schedule_;
  std::vector<std::vector<Replay::Fact>> facts_;
  double partial_scale_, chunk_share_;
};

}  // namespace lane::plan
