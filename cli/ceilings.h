#pragma once
#include <span>
#include <vector>

#include "cli/engine_flags.h"
#include "lane/base/json.h"
#include "lane/comm/communicator.h"
#include "lane/runtime/session.h"

namespace lane::cli {

// What all ranks of a run together could do at most; 0 where that is not known.
struct Ceilings {
  double read_bytes_per_s = 0;                         // measured, right after the run
  double flops_per_s = 0;                              // the datasheet's for 16-bit types, of GPUs that are known
  std::vector<double> read_bytes_per_s_of_ranks = {};  // of GPUs
};

// Called by all ranks once their work is done; what it gives is for rank 0. Each rank measures its own GPU. On CPUs,
// which ranks share, rank 0 measures for all.
Ceilings find_ceilings(const EngineFlags& flags, const Session& session, Communicator& group);

// Of several ranks, from each rank's own: their sums. The sum of the read rates is what the memories give when all are
// busy; a step that waits for the slowest GPU does not reach it, and that is not hidden. Unknown where one is.
Ceilings add_up(std::span<const Ceilings> ranks);

// value / ceiling; null where either is not known.
Json share_of(double value, double ceiling);
std::string percent_of(double value, double ceiling);  // "85.2 %", or "unknown"

}  // namespace lane::cli
