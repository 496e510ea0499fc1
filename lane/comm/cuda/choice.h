#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lane/base/dtype.h"
#include "lane/comm/cuda/measured.h"
#include "lane/comm/cuda/multicast_memory.h"

namespace lane::cuda {

enum class Algorithm : uint8_t {
  kOneShot,
  kTwoShot,
  kHierOneShot,
  kHierDoubling,
  kProxy,
  kNccl,
  kTwoShotFp8,
  kTwoShotMulticast,
  kHierHalving
};

// How an all-reduce runs: which way, and on how many threads. 0 blocks: as many as suit the size.
struct Choice {
  Algorithm algorithm = Algorithm::kOneShot;
  int blocks = 0, threads = 0;
};

// "one_shot", "two_shot", "hier:two_shot/one_shot", "hier:two_shot/recursive_doubling",
// "hier:two_shot/halving_doubling", "proxy", "nccl", "two_shot_fp8", "two_shot_multicast"; with a grid to experiment
// with: "two_shot:64x512". Throws Error{kInvalidArgument} that lists the names.
Choice choice_from_name(const std::string& name);
std::string name_of(const Choice& choice);

// What decides besides the size.
struct Situation {
  int ranks_per_node = 1, num_nodes = 1;
  bool is_direct = true;  // peers on other nodes can be stored to
  bool by_puts = false;   // or reached by puts
  bool has_nccl = false;
  std::string no_multicast = std::string(kMulticastIsOff);             // why not; empty: it can
  std::string gpu = {};                                                // "NVIDIA H200"
  std::shared_ptr<const std::vector<MeasuredRow>> measured = nullptr;  // null: the cost model alone
};

// One candidate for one size: what it is expected to take, or why it cannot run.
struct Candidate {
  Choice choice;
  double expected_s = 0;
  std::string source;   // "measured on 4x NVIDIA H200", "measured here", "cost model"
  std::string why_not;  // empty if it can run
};
// Why it cannot run; empty if it can.
std::string why_not(Algorithm algorithm, const Situation& situation);

// The fastest first, then those that cannot run. `bytes` of a vector of `type`. Where something was measured, what was
// not comes after it: the model is not to be mixed with the world. Not two_shot_fp8: its sums are coarse, it is for who
// asks for it by name.
std::vector<Candidate> candidates(const Situation& situation, int64_t bytes, DType type);

// The grid that suits: a line of 16 bytes for each thread while there are enough threads. At most `most_blocks`.
Choice with_grid(Choice choice, const Situation& situation, int64_t bytes, int most_blocks);

}  // namespace lane::cuda
