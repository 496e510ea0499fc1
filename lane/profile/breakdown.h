#pragma once
#include <array>
#include <span>
#include <string>

#include "lane/base/json.h"
#include "lane/base/trace.h"

namespace lane::profile {

// Seconds per step over the ranks of a run.
struct Spread {
  double min_s = 0, mean_s = 0, max_s = 0;
};

// Where the time of one phase went: the four kinds of operation, and idle, which is what the operations leave of
// the step's wall clock.
struct PhaseBreakdown {
  int64_t num_steps = 0;
  Spread step;
  std::array<Spread, kNumOpKinds + 1> kinds;  // in the order of TraceKind, idle last
};

using RankTotals = std::array<PhaseTotals, kNumPhases>;
using Breakdown = std::array<PhaseBreakdown, kNumPhases>;  // prefill, decode

inline constexpr std::array<const char*, kNumOpKinds + 1> kKindNames = {"matmul", "communication", "attention", "other",
                                                                        "idle"};
inline constexpr std::array<const char*, kNumPhases> kPhaseNames = {"prefill", "decode"};

// One RankTotals a rank. All ranks run the same steps; a rank that differs is a bug.
Breakdown make_breakdown(std::span<const RankTotals> ranks);

// A table for people: a block for each phase that had steps; µs or ms per step and the share of the step.
std::string format_breakdown(const Breakdown& breakdown, int num_ranks);
Json breakdown_to_json(const Breakdown& breakdown);

// How totals travel between ranks.
std::string totals_to_text(const RankTotals& totals);
RankTotals totals_from_text(const std::string& text);  // Error{kCorruptData}

}  // namespace lane::profile
