#pragma once
#include <functional>
#include <optional>
#include <string>

#include "cli/commands.h"
#include "cli/engine_flags.h"
#include "lane/profile/breakdown.h"
#include "lane/runtime/session.h"

namespace lane::cli {

// What a job's ranks recorded, for the leader.
struct JobProfile {
  int num_ranks = 1;
  std::optional<profile::Breakdown> breakdown;  // if any steps ran
};

// The leader's part of a job. `work` uses the engine and leaves it idle; `report` runs once all ranks are done.
struct Job {
  std::function<void(Session&)> work;
  std::function<int(Session&, const JobProfile&)> report;  // the exit status
};

// Runs `job` on the ranks that the flags or a launcher ask for: starts them, or joins those that were started; opens a
// session on each; ranks other than 0 follow. An error on one rank is told to all. Returns the exit status.
int run_job(EngineFlags& flags, const Program& program, const Job& job);

}  // namespace lane::cli
