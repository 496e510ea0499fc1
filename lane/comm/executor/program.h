#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lane/plan/schedule.h"

namespace lane {

// Where a rank has the value of a chunk: as the caller gave it, where the result goes, or, for a partly summed one of
// a 16-bit vector, in float32 beside both.
enum class Place : uint8_t { kInput, kPartial, kOutput };

// One rank's part of a schedule with everything resolved that does not depend on data or sizes.
struct Program {
  struct Instruction {
    plan::Action action;
    bool partial;    // what is sent or received is partly summed
    Place from, to;  // of my chunk before and after
    int peer, chunk, round;
  };
  int num_chunks = 1;
  bool any_partial = false;  // on any rank: messages may be larger than their chunks
  uint8_t algorithm = 0;     // index among the names of the collective
  std::vector<Instruction> instructions;
};

// `schedule` is proven first: a wrong one is a bug.
Program compile(const plan::Schedule& schedule, plan::Collective collective, int root, int rank);

}  // namespace lane
