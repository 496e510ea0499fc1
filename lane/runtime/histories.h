#pragma once
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace lane {

// Which of a device's histories (kernels/rules.h) is which sequence's, and whether it is up to date. The device adds
// the token that a step chooses, which the host does not know when it launches the next; so what is kept here is how
// many tokens a history covers. A history that covers others is made anew from the tokens.
//
// There are as many histories as a step has rows at most. The least recently used gives way: a sequence that took part
// in the last step keeps its own, if it takes part in this one.
class Histories {
 public:
  explicit Histories(int64_t most) : most_(most) {}

  struct Row {
    int64_t sequence, length;  // the number of a sequence, never used again for another; its tokens so far
  };
  struct Place {
    int64_t slot;        // from 0 on; a slot that was never used is the next one
    bool is_up_to_date;  // else it is to be made from the tokens
  };
  // For the rows of a step, no two of one sequence; each gets one more token by it.
  std::vector<Place> seat(std::span<const Row> rows);

 private:
  struct Seat {
    int64_t slot, length, last_step;
  };
  int64_t free_slot();

  int64_t most_, step_ = 0;
  std::unordered_map<int64_t, Seat> seats_;
};

}  // namespace lane
