// How far the models are from what was measured: computed from the tables, so that a new table moves the intervals.
#include <algorithm>
#include <cmath>
#include <vector>

#include "lane/plan/collective_time.h"
#include "lane/plan/measured_times.h"

namespace lane::plan {
namespace {

// The 5th and 95th percentile of measured / modelled.
Spread middle_of(std::vector<double> ratios) {
  std::sort(ratios.begin(), ratios.end());
  const double last = static_cast<double>(ratios.size()) - 1;
  return {std::min(1.0, ratios[static_cast<size_t>(std::floor(0.05 * last))]),
          std::max(1.0, ratios[static_cast<size_t>(std::ceil(0.95 * last))])};
}

GroupShape one_island(const MeasuredCurve& curve) {
  return {.num_ranks = curve.num_ranks,
          .ranks_per_island = curve.num_ranks,
          .inside = curve.nvlink ? Tier::kNvlink : Tier::kNode,
          .gpu = curve.gpu,
          .sm = curve.gpu == "A100"          ? 80
                : curve.gpu == "L40S"        ? 89
                : curve.gpu.find("B200") < 3 ? 100
                                             : 90};
}

double nccl_best_s(const GroupShape& shape, int64_t bytes) {
  return nccl_choices(nccl_group(shape), Collective::kAllReduce, bytes).front().microseconds * 1e-6;
}

}  // namespace

Spread nccl_model_spread() {
  static const Spread spread = [] {
    std::vector<double> ratios;
    for (const MeasuredCurve& curve : all_reduce_curves())
      if (curve.library == "nccl" && curve.nvlink)
        for (const auto& [bytes, seconds] : curve.points)
          ratios.push_back(seconds / nccl_best_s(one_island(curve), bytes));
    return middle_of(ratios);
  }();
  return spread;
}

Spread nccl_calibrated_spread() {
  static const Spread spread = [] {
    std::vector<double> ratios;
    for (const MeasuredCurve& four : all_reduce_curves())
      for (const MeasuredCurve& eight : all_reduce_curves())
        if (four.library == "nccl" && eight.library == "nccl" && four.nvlink && four.gpu == eight.gpu &&
            four.version == eight.version && four.num_ranks == 4 && eight.num_ranks == 8)
          for (const auto& [bytes, seconds] : eight.points) {
            const double scale = four.at(bytes) / nccl_best_s(one_island(four), bytes);
            ratios.push_back(seconds / (scale * nccl_best_s(one_island(eight), bytes)));
          }
    return middle_of(ratios);
  }();
  return spread;
}

// Small all-reduces that people logged, over what the model says: 3x8 H100 over InfiniBand 75.4 us at 4 KiB (25.9;
// nccl issue 1453), 2x8 H20 46.8 (25.2), 2x8 A100 forced to rings 93 (68; nccl issue 812), 2x1 GB10 over RoCE 32.5
// at 8 KiB (16.8): 1.4 to 2.9. They are reports of problems; NVRAR's clusters (arXiv 2511.09557), where NCCL is 1.9 to
// 3.6 times NVRAR's time, agree with the model itself. So it is a lower bound.
Spread nccl_between_nodes() { return {1, 75.38 / 25.874907}; }

Spread alpha_beta_spread() {
  static const Spread spread = [] {
    std::vector<double> ratios;
    for (const MeasuredCurve& curve : all_reduce_curves()) {
      if (!curve.library.starts_with("lane_")) continue;
      // The links of reach.cc are of this machine: 18 links of 26.56 GB/s, a microsecond a step.
      GroupShape shape = one_island(curve);
      shape.local = {1e-6, 18 * 26.56e9 * 0.69, 0.2e-6};
      for (const auto& [bytes, seconds] : curve.points) {
        const auto by_tier = alpha_beta_by_tier(curve.library.substr(5), shape, bytes);
        if (by_tier) ratios.push_back(seconds / (*by_tier)[static_cast<size_t>(Tier::kNvlink)]);
      }
    }
    return middle_of(ratios);
  }();
  return spread;
}

Spread alpha_beta_between_nodes() {
  static const Spread spread = [] {
    const Link link{3.4e-6, 25e9 * 0.94, 0};  // as reach.cc has a port of Slingshot-11
    std::vector<double> ratios;
    for (const MeasuredCurve& curve : slingshot_curves())
      for (const auto& [bytes, seconds] : curve.points)
        ratios.push_back(seconds / (link.latency_s + static_cast<double>(bytes) / link.bytes_per_s));
    return middle_of(ratios);
  }();
  return spread;
}

}  // namespace lane::plan
