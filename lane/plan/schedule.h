#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lane/plan/layout.h"

namespace lane::plan {

// A collective works on a vector of elements cut into `num_chunks` chunks. Each rank has a place for every chunk;
// a step moves or combines one chunk.
enum class Action : uint8_t {
  kSend,        // my chunk -> peer
  kMulticast,   // my chunk -> all other ranks of my node, written once; peer is -1
  kRecv,        // peer's chunk replaces mine
  kRecvReduce,  // peer's chunk + mine replaces mine, the one that holds the lowest rank's contribution first
  kCollect,     // peer's chunk is set aside ...
  kReduce,      // ... until this step adds mine and all that was set aside for the chunk, in rank order; peer is -1
};

struct Step {
  Action action;
  int peer;
  int chunk;
  int round = 0;
  bool by_multicast = false;  // of a receiving step: the peer sent with kMulticast
  bool operator==(const Step&) const = default;
};

// A collective as data: `program[rank]` is what that rank does, round by round. Its readers: comm executes it, cost()
// times it, replay() proves it without a network, `lane plan schedule` draws it.
//
// All messages of a round are under way together: what a round sends is what was there before the round; what it
// brings is there after it. In a program, the steps of a round stand together: sends first, then what is received, then
// kReduce. Neighbouring steps of a round that send to (or receive from) the same peer are one message; it may hold
// chunks to copy beside chunks to add. Messages from one rank to another arrive in order; those by multicast are a
// stream of their own. What was set aside is added up in the order in which it came in its messages.
//
// No schedule can deadlock: a rank never holds back a message of a round for another message of that round, and of the
// ranks that are not done, those in the lowest round wait only for ranks in that same round.
//
// Sums of 16-bit vectors: a chunk that holds some but not all contributions is kept and sent in float32, and rounded
// once when it is complete. replay() tells which chunks those are.
struct Schedule {
  std::string name;
  int num_chunks = 1;
  std::vector<std::vector<Step>> program;
  int num_ranks() const { return static_cast<int>(program.size()); }
  int num_rounds() const;
};

// What the ranks start and end with. "Its own" chunk of rank r is chunk r of num_ranks.
enum class Collective : uint8_t {
  kAllReduce,      // everybody starts with a whole vector and ends with the sum of all
  kReduceScatter,  // ... and ends with its own chunk of the sum
  kAllGather,      // everybody starts with its own chunk and ends with all chunks; of nothing, it is a barrier
  kBroadcast,      // the root starts with the vector, everybody ends with it
  kGather,         // everybody starts with its own chunk, the root ends with all
  kAllToAll,       // num_ranks^2 chunks: rank r starts with chunks r * num_ranks + d for all d, ends with
                   // s * num_ranks + r for all s
};
std::string_view name_of(Collective collective);

// The schedules there are for a collective on this layout, the one for smallest messages first.
std::vector<std::string> schedule_names(Collective collective, const Layout& layout);

// Pure: the same arguments give the same schedule on every rank. Any layout. `root` is for kBroadcast and kGather.
// An unknown name, or one that does not fit the layout, is Error{kInvalidArgument} that lists those that do.
//
// All-reduce on any layout: one_shot, two_shot, ring, double_tree[:K] (K pieces per tree in flight, 1 if left out),
// recursive_doubling, halving_doubling, bruck. On one node: one_shot_multicast, two_shot_multicast. On several nodes:
// hier:INTRA/INTER, where INTRA (two_shot, two_shot_multicast, ring, halving_doubling, bruck) reduces and scatters
// inside each node and gathers there again, and INTER is any all-reduce name above without multicast, run between
// nodes for each part.
// Reduce-scatter and all-gather: direct, bruck, ring, and hier: of these. Broadcast: direct, binomial, and hier: of
// these. Gather: direct, binomial. All-to-all: direct, bruck (its chunks pass through ranks they are not for).
// All-gather and broadcast also direct_multicast, on one node or as INTRA.
Schedule make_schedule(std::string_view name, Collective collective, const Layout& layout, int root = 0);

}  // namespace lane::plan
