#pragma once
#include <string>
#include <vector>

#include "lane/comm/communicator.h"

namespace lane::net {

// What ranks that measure together say to each other. All ranks call these alike and get the same answer.

// What the first rank that has something to say says; empty if none has.
std::string first_said(Communicator& group, const std::string& mine);

// The largest over the ranks, element by element. As float32, which is a ten-millionth: no clock is better.
void take_slowest(Communicator& group, Stream& stream, std::vector<double>& seconds);

// How good a result is: the most wrong elements on any rank, and whether all ranks have the same bits.
struct Verdict {
  int64_t num_wrong = 0;
  bool same_bits = true;
};
Verdict compare_results(Communicator& group, Stream& stream, int64_t num_wrong, uint64_t fingerprint);

}  // namespace lane::net
