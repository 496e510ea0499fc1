#include "lane/profile/breakdown.h"

#include <gtest/gtest.h>

#include "lane/base/error.h"

namespace lane::profile {
namespace {

constexpr auto kDecode = static_cast<size_t>(TracePhase::kDecode);
constexpr size_t kIdle = kNumOpKinds;

RankTotals decode_totals(int64_t steps, int64_t step_ns, std::array<int64_t, kNumOpKinds> op_ns) {
  RankTotals totals{};
  totals[kDecode] = {.num_steps = steps, .step_ns = step_ns, .op_ns = op_ns};
  return totals;
}

TEST(Breakdown, WhatOperationsLeaveIsIdle) {
  const RankTotals ranks[] = {decode_totals(10, 1000, {400, 300, 100, 50}),
                              decode_totals(10, 1000, {600, 100, 100, 50})};
  const Breakdown breakdown = make_breakdown(ranks);
  const PhaseBreakdown& decode = breakdown[kDecode];
  EXPECT_EQ(decode.num_steps, 10);
  EXPECT_DOUBLE_EQ(decode.step.mean_s, 100e-9);
  EXPECT_DOUBLE_EQ(decode.kinds[0].min_s, 40e-9);
  EXPECT_DOUBLE_EQ(decode.kinds[0].mean_s, 50e-9);
  EXPECT_DOUBLE_EQ(decode.kinds[0].max_s, 60e-9);
  EXPECT_DOUBLE_EQ(decode.kinds[kIdle].mean_s, 15e-9);
  double sum = 0;
  for (const Spread& kind : decode.kinds) sum += kind.mean_s;
  EXPECT_NEAR(sum, decode.step.mean_s, 1e-18);
  EXPECT_EQ(breakdown[0].num_steps, 0);
}

TEST(Breakdown, RanksThatRanDifferentStepsAreABug) {
  const RankTotals ranks[] = {decode_totals(10, 1000, {}), decode_totals(11, 1000, {})};
  EXPECT_THROW(make_breakdown(ranks), Error);
}

TEST(Breakdown, TheTableNamesEveryKindAndOnlyPhasesThatRan) {
  const RankTotals ranks[] = {decode_totals(4, 4000, {1000, 1000, 1000, 500})};
  const std::string table = format_breakdown(make_breakdown(ranks), 1);
  for (const char* kind : kKindNames) EXPECT_NE(table.find(kind), std::string::npos) << table;
  EXPECT_NE(table.find("decode steps: 4 of 1 µs each, over 1 rank\n"), std::string::npos) << table;
  EXPECT_EQ(table.find("prefill"), std::string::npos) << table;
  EXPECT_DOUBLE_EQ(breakdown_to_json(make_breakdown(ranks))["decode"]["kinds"]["idle"]["mean_s"].get<double>(), 125e-9);
}

TEST(Breakdown, TotalsTravelAsText) {
  const RankTotals totals = decode_totals(3, 99, {1, 2, 3, 4});
  EXPECT_EQ(totals_from_text(totals_to_text(totals))[kDecode].op_ns, totals[kDecode].op_ns);
  EXPECT_THROW(totals_from_text("short"), Error);
}

}  // namespace
}  // namespace lane::profile
