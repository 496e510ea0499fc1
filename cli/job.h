#pragma once
#include <functional>
#include <optional>
#include <string>

#include "cli/ceilings.h"
#include "cli/commands.h"
#include "cli/engine_flags.h"
#include "lane/base/json.h"
#include "lane/profile/breakdown.h"
#include "lane/profile/gpu_profile.h"
#include "lane/runtime/session.h"

namespace lane::cli {

// What a job's ranks recorded, for the leader. On GPUs, where kernels run long after the host has asked for them, it is
// what the GPUs did, and only with --breakdown or --trace.
struct JobProfile {
  int num_ranks = 1;
  std::optional<profile::Breakdown> breakdown;
  std::optional<profile::GpuProfile> gpu;  // its why_not: why there is no breakdown
  GraphStats graphs;                       // of one rank's GPU
  LoadReport load;                         // bytes of all ranks, seconds of the slowest
  double ready_s = 0;                      // from the start of rank 0's program until it could take requests
  Ceilings ceilings;                       // of a job that wants them

  // {"breakdown": {...} or null, "load": {...}, "ready_s": s} and, of GPUs, {"graphs": {...}, "gpu": {...}}
  Json to_json() const;
  std::string to_text() const;         // for --breakdown
  std::string graphs_to_text() const;  // one line; empty where there are none
};

// The leader's part of a job. `work` uses the engine and leaves it idle; `report` runs once all ranks are done.
struct Job {
  std::function<void(Session&)> work;
  std::function<int(Session&, const JobProfile&)> report;  // the exit status
  // A GPU is watched from `work`'s call of Engine::restart_trace() on, so that what comes before it runs at full speed;
  // false: from the beginning.
  bool watches_from_restart = false;
  bool wants_ceilings = false;  // each GPU's memory is read for a moment, once the work is done
};

// Runs `job` on the ranks that the flags or a launcher ask for: starts them, or joins those that were started; opens a
// session on each; ranks other than 0 follow. An error on one rank is told to all. Returns the exit status.
int run_job(EngineFlags& flags, const Program& program, const Job& job);

}  // namespace lane::cli
