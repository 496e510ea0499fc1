#include "lane/profile/breakdown.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <type_traits>

#include "lane/base/error.h"
#include "lane/base/units.h"

namespace lane::profile {
namespace {

double idle_ns(const PhaseTotals& totals) {
  int64_t busy = 0;
  for (const int64_t ns : totals.op_ns) busy += ns;
  return static_cast<double>(std::max<int64_t>(totals.step_ns - busy, 0));
}

// Per step, over the ranks.
Spread spread_of(std::span<const RankTotals> ranks, size_t phase,
                 const std::function<double(const PhaseTotals&)>& ns_of) {
  Spread spread{.min_s = 1e300, .mean_s = 0, .max_s = 0};
  for (const RankTotals& rank : ranks) {
    const PhaseTotals& totals = rank[phase];
    const double seconds = ns_of(totals) * 1e-9 / static_cast<double>(totals.num_steps);
    spread.min_s = std::min(spread.min_s, seconds);
    spread.max_s = std::max(spread.max_s, seconds);
    spread.mean_s += seconds / static_cast<double>(ranks.size());
  }
  return spread;
}

Json spread_to_json(const Spread& spread) {
  return {{"min_s", spread.min_s}, {"mean_s", spread.mean_s}, {"max_s", spread.max_s}};
}

}  // namespace

Breakdown make_breakdown(std::span<const RankTotals> ranks) {
  ensure(!ranks.empty(), "a breakdown needs at least one rank");
  Breakdown breakdown;
  for (size_t phase = 0; phase < kNumPhases; ++phase) {
    PhaseBreakdown& out = breakdown[phase];
    out.num_steps = ranks[0][phase].num_steps;
    for (const RankTotals& rank : ranks)
      ensure(rank[phase].num_steps == out.num_steps, "all ranks ran the same number of steps");
    if (out.num_steps == 0) continue;
    out.step = spread_of(ranks, phase, [](const PhaseTotals& t) { return static_cast<double>(t.step_ns); });
    for (size_t kind = 0; kind < kNumOpKinds; ++kind)
      out.kinds[kind] =
          spread_of(ranks, phase, [kind](const PhaseTotals& t) { return static_cast<double>(t.op_ns[kind]); });
    out.kinds[kNumOpKinds] = spread_of(ranks, phase, idle_ns);
  }
  return breakdown;
}

std::string format_breakdown(const Breakdown& breakdown, int num_ranks) {
  std::string text;
  for (size_t phase = 0; phase < kNumPhases; ++phase) {
    const PhaseBreakdown& part = breakdown[phase];
    if (part.num_steps == 0) continue;
    text += fmt::format("{} steps: {} of {} each, over {} rank{}\n", kPhaseNames[phase], format_count(part.num_steps),
                        format_duration(part.step.mean_s), num_ranks, num_ranks == 1 ? "" : "s");
    text += fmt::format("  {:<14} {:>10} {:>10} {:>10} {:>8}\n", "per step", "min", "mean", "max", "share");
    for (size_t kind = 0; kind < part.kinds.size(); ++kind) {
      const Spread& spread = part.kinds[kind];
      text += fmt::format("  {:<14} {:>10} {:>10} {:>10} {:>7.1f} %\n", kKindNames[kind], format_duration(spread.min_s),
                          format_duration(spread.mean_s), format_duration(spread.max_s),
                          part.step.mean_s > 0 ? 100 * spread.mean_s / part.step.mean_s : 0.0);
    }
  }
  return text;
}

Json breakdown_to_json(const Breakdown& breakdown) {
  Json json = Json::object();
  for (size_t phase = 0; phase < kNumPhases; ++phase) {
    const PhaseBreakdown& part = breakdown[phase];
    Json kinds = Json::object();
    for (size_t kind = 0; kind < part.kinds.size(); ++kind) kinds[kKindNames[kind]] = spread_to_json(part.kinds[kind]);
    json[kPhaseNames[phase]] = {{"num_steps", part.num_steps}, {"step", spread_to_json(part.step)}, {"kinds", kinds}};
  }
  return json;
}

// All ranks of a job run the same program, so the bytes of a plain struct mean the same to each.
static_assert(std::is_trivially_copyable_v<RankTotals>);

std::string totals_to_text(const RankTotals& totals) { return {reinterpret_cast<const char*>(&totals), sizeof totals}; }

RankTotals totals_from_text(const std::string& text) {
  RankTotals totals;
  if (text.size() != sizeof totals)
    throw Error(ErrorCode::kCorruptData,
                fmt::format("time totals of a rank: {} bytes came, {} were expected", text.size(), sizeof totals));
  std::memcpy(&totals, text.data(), sizeof totals);
  return totals;
}

}  // namespace lane::profile
