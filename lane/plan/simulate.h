#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lane/plan/workload.h"

namespace lane::plan {

// Runs a workload: events in picoseconds. A message is a fluid flow: it waits for its turn (Parcel::wait_s; LogGP's o
// and g, of which Lane's links know the larger: Alexandrov et al., LogGP, 1995), then its bytes leave at the max-min
// fair rate of the links on its way, which changes whenever a flow near it starts or ends, then it takes its latency to
// be of use. Computing and messages of a rank do not slow each other down; what waits for what, the programs say.
//
// Pure and deterministic. All times are relative to each other in whole picoseconds, so what happens does not depend on
// when it happens, and things that are alike happen at the very same time.
struct SimulateOptions {
  bool fold = true;           // simulate one of those that behave alike (see fold()); the result is the same
  bool record_spans = false;  // for a trace
};

// Where a rank's time goes. Communication is from when it could send to when it has sent, and from when somebody began
// to send to it to when it has that; what is neither that nor computing is idle: it waits for others.
struct RankTime {
  double compute_s = 0, communication_s = 0, idle_s = 0;
};

// The chain of things of which each waited for the one before, backward from what ended last, summed up by label. The
// parts of all labels together are the makespan.
struct PathPart {
  std::string label;
  int64_t count = 0;      // computations and messages in the chain
  double compute_s = 0;   // of computations
  double wait_s = 0;      // of messages: until it was their turn,
  double transfer_s = 0;  // ... what the bytes take with the links for themselves,
  double sharing_s = 0;   // ... what they took longer because of other messages, those of the same collective too,
  double latency_s = 0;   // ... and the way of the last
  double total_s() const { return compute_s + wait_s + transfer_s + sharing_s + latency_s; }
};

// An op of a rank that others behave like.
struct RankSpan {
  int rank = 0, label = 0;
  bool is_exchange = false;
  double start_s = 0, end_s = 0;
};

struct Simulation {
  double makespan_s = 0;
  std::vector<RankTime> ranks;
  std::vector<double> link_bytes;         // by link
  std::vector<PathPart> critical_path;    // longest first
  std::vector<RankSpan> spans;            // by rank, in the order of its program
  std::vector<int> alike;                 // by rank: the lowest rank that behaves like it
  int64_t num_tasks = 0, num_events = 0;  // that it took: a measure of the simulator's work
};

// A program that waits for a message that nobody sends is Error{kBug}; more tasks than memory is good for is
// Error{kInvalidArgument}.
Simulation simulate(const Workload& workload, const SimulateOptions& options = {});

}  // namespace lane::plan
