#pragma once
#include <cstdint>
#include <vector>

#include "lane/plan/schedule.h"

namespace lane {

// Where a rank has the value of a chunk: as the caller gave it, where the result goes, or beside both: in float32 while
// a 16-bit one is partly summed, as it is when it only passes through.
enum class Place : uint8_t { kInput, kScratch, kOutput };

// One rank's part of a schedule with everything resolved that does not depend on data or sizes.
struct Program {
  // A chunk in a message.
  struct Part {
    int chunk;
    plan::Action action;                            // kSend, kRecv, kRecvReduce or kCollect
    bool partial;                                   // what is sent or received is partly summed
    bool completes;                                 // kRecvReduce: all contributions are together now
    bool message_first;                             // kRecvReduce: the message comes before mine in the sum
    Place from, to;                                 // of my chunk before and after
    std::vector<std::pair<int, int>> sent_as = {};  // (send, part) of this round that read the chunk: they go first
  };
  struct Message {
    std::vector<Part> parts;
  };
  // All that goes to, or comes from, one link in a round: messages in order.
  struct Send {
    int peer, link;  // the peer is this rank itself for a multicast
    Message message;
  };
  struct Inbox {
    int peer, link;
    std::vector<Message> messages;
  };
  // What was collected for one chunk is added up, straight out of the links.
  struct Sum {
    static constexpr int kMine = -1;
    int chunk;
    bool partial, completes;  // of the result
    Place from, to;
    std::vector<int> operands;  // inboxes, or kMine, in the order of the sum
    std::vector<std::pair<int, int>> sent_as = {};
  };
  struct Round {
    int number;
    std::vector<Send> sends;
    std::vector<Inbox> inboxes;
    std::vector<Sum> sums;
  };

  int num_chunks = 1;
  std::vector<int> scratch_of;  // by chunk: its place in the scratch memory, or -1
  int num_scratch = 0;
  bool sums = true;               // scratch holds partial sums, not what passes through
  bool partial_in_output = true;  // partial sums may lie where the result goes, if they are of its type
  uint16_t algorithm = 0;         // hash of the schedule's name: ranks that run different ones notice
  std::vector<Round> rounds;
};

// `schedule` is proven first: a wrong one is a bug.
Program compile(const plan::Schedule& schedule, plan::Collective collective, const plan::Layout& layout, int root,
                int rank);

}  // namespace lane
