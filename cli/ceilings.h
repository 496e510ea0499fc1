#pragma once
#include "cli/engine_flags.h"
#include "lane/base/json.h"
#include "lane/runtime/session.h"

namespace lane::cli {

// What all ranks of a run together could do at most; 0 where that is not known.
struct Ceilings {
  double read_bytes_per_s = 0;  // measured, right after the run, when the other ranks are at rest
  double flops_per_s = 0;       // the datasheet's for 16-bit types, of GPUs that are known
};
Ceilings find_ceilings(const EngineFlags& flags, const Session& session, int num_ranks);

// value / ceiling; null where either is not known.
Json share_of(double value, double ceiling);
std::string percent_of(double value, double ceiling);  // "85.2 %", or "unknown"

}  // namespace lane::cli
