#include "lane/plan/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "lane/base/error.h"
#include "lane/base/units.h"

namespace lane::plan {
namespace {

bool cuts(const ParallelPlan& plan, const ModelShape& shape) {
  try {
    check(plan, shape);
    return true;
  } catch (const Error&) {
    return false;
  }
}

void mark_best(std::vector<SweepPoint>& points) {
  std::stable_sort(points.begin(), points.end(), [](const SweepPoint& a, const SweepPoint& b) {
    return a.step.seconds != b.step.seconds ? a.step.seconds < b.step.seconds : a.tokens_per_s > b.tokens_per_s;
  });
  double most = 0;
  for (SweepPoint& point : points) {
    point.is_best = point.tokens_per_s > most;
    most = std::max(most, point.tokens_per_s);
  }
  std::stable_partition(points.begin(), points.end(), [](const SweepPoint& point) { return point.is_best; });
}

}  // namespace

std::vector<SweepPoint> sweep(Planner& planner) {
  const ModelShape& shape = planner.work().shape;
  std::vector<SweepPoint> points;
  std::optional<MemoryBudget> least;
  ParallelPlan nearest;
  for (int tensor = 1; tensor <= planner.num_gpus(); ++tensor) {
    if (!cuts({.tensor = tensor}, shape)) continue;
    for (int pipeline = 1; pipeline <= shape.num_layers && tensor * pipeline <= planner.num_gpus(); ++pipeline) {
      const ParallelPlan plan{tensor, pipeline, planner.num_gpus() / (tensor * pipeline)};
      const MemoryBudget memory = planner.memory(plan);
      if (!memory.fits()) {
        if (!least || memory.total() < least->total()) least = memory, nearest = plan;
        continue;
      }
      const Budget one = planner.budget(plan);
      points.push_back({plan, one.decode.total, one.prefill.total, one.tokens_per_s() * plan.replicas, memory});
    }
  }
  if (points.empty())
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("no plan fits on {} GPUs: TP {} x PP {} comes nearest and needs {} of {} on a rank",
                            planner.num_gpus(), nearest.tensor, nearest.pipeline,
                            format_bytes(least ? static_cast<double>(least->total()) : 0),
                            format_bytes(static_cast<double>(planner.peaks().memory_bytes))));
  mark_best(points);
  return points;
}

}  // namespace lane::plan
