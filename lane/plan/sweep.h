#pragma once
#include <string>
#include <vector>

#include "lane/plan/budget.h"

namespace lane::plan {

struct SweepPoint {
  ParallelPlan plan;
  Estimate step, first_token;
  double tokens_per_s = 0;  // of all replicas, while they decode
  MemoryBudget memory;
  bool is_best = false;  // no other plan gives both more tokens per second and less time between tokens
};

// All plans that cut the model and fit into memory, each with as many replicas as the GPUs allow: fewer replicas take
// as long and give less. Those that are best first, by time between tokens; then the others, likewise.
// Error{kInvalidArgument} if none fits, with the numbers of the one that lacks least.
std::vector<SweepPoint> sweep(Planner& planner);

// Tokens per second over time between tokens, both logarithmic, a dot for each plan and a line along the best. Legible
// on light and dark pages.
std::string sweep_chart(const std::string& title, const std::vector<SweepPoint>& points);

}  // namespace lane::plan
