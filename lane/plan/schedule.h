#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lane::plan {

// A collective works on a vector of elements cut into `num_chunks` chunks. Each rank has a place for the whole vector;
// a step moves or combines one chunk of it.
enum class Action : uint8_t {
  kSend,        // my chunk -> peer
  kRecv,        // peer's chunk replaces mine
  kRecvReduce,  // peer's chunk + mine replaces mine
  kCollect,     // peer's chunk is set aside ...
  kReduce,      // ... until this step adds mine and all that was set aside for the chunk, in rank order; peer is -1
};

struct Step {
  Action action;
  int peer;
  int chunk;
  int round = 0;  // messages of one round are under way together; the same at both ends of a message
  bool operator==(const Step&) const = default;
};

// A collective as data: `program[rank]` is what that rank does, in order. Its readers: comm executes it, cost() times
// it, verify() replays it without a network, the docs draw it.
//
// Links are reliable, ordered per (sender, receiver) and hold at least one message: a send to a full link waits until
// the receiver took a message out. A collected message stays in its link until it is reduced.
//
// Sums of 16-bit vectors: a chunk that holds some but not all contributions is kept and sent in float32, and rounded
// once when it is complete. replay() tells which chunks those are.
struct Schedule {
  std::string name;
  int num_chunks = 1;
  std::vector<std::vector<Step>> program;
  int num_ranks() const { return static_cast<int>(program.size()); }
};

// What the ranks start and end with. "Its own" chunk of rank r is chunk r of num_ranks.
enum class Collective : uint8_t {
  kAllReduce,      // everybody starts with a whole vector and ends with the sum of all
  kReduceScatter,  // ... and ends with its own chunk of the sum
  kAllGather,      // everybody starts with its own chunk and ends with all chunks
  kBroadcast,      // the root starts with the vector, everybody ends with it
  kGather,         // everybody starts with its own chunk, the root ends with all
};
std::string_view name_of(Collective collective);

// The schedules there are for a collective, the one for smallest messages first.
std::vector<std::string> schedule_names(Collective collective);

// Pure: the same arguments give the same schedule on every rank. Any number of ranks from 1. `root` is for kBroadcast
// and kGather. An unknown name is Error{kInvalidArgument} that lists the known ones.
Schedule make_schedule(std::string_view name, Collective collective, int num_ranks, int root = 0);

}  // namespace lane::plan
