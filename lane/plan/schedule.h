#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lane::plan {

// A collective works on a vector of elements cut into `num_chunks` even chunks (even_part). Each rank has the
// whole vector in its buffer; a step moves one chunk of it.
enum class Action : uint8_t {
  kSend,        // my chunk -> peer
  kRecv,        // peer's chunk replaces mine
  kRecvReduce,  // peer's chunk is added to mine
};

struct Step {
  Action action;
  int peer;
  int chunk;
  bool operator==(const Step&) const = default;
};

// A collective as data: `program[rank]` is what that rank does, in order. Its readers: comm executes it, simulate()
// puts it on links, verify() replays it without a network, the docs draw it.
//
// Links are reliable and ordered per (sender, receiver). A send may complete before its receive starts; a rank
// whose program says "send to all, then receive from all" is therefore correct as long as a link can hold what
// one round sends, which every transport promises.
struct Schedule {
  std::string name;
  int num_chunks = 1;
  std::vector<std::vector<Step>> program;
  int num_ranks() const { return static_cast<int>(program.size()); }
};

enum class Collective : uint8_t { kAllReduce, kReduceScatter, kAllGather, kBroadcast };

}  // namespace lane::plan
