#include "lane/net/import_compare.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lane/base/random.h"

namespace lane::net {
namespace {

// Of 252 orders of 5 and 5 values, those with U of at least 25, 24, ...: 1, 2, 4, 7, 12, 19 (Mann and Whitney's table
// I).
TEST(MannWhitney, IsTheTabulatedOneForFiveAndFive) {
  const std::vector<double> older = {1, 2, 3, 4, 5};
  EXPECT_NEAR(chance_of_larger({6, 7, 8, 9, 10}, older), 1 / 252.0, 1e-12);
  EXPECT_NEAR(chance_of_larger({4.5, 7, 8, 9, 10}, older), 2 / 252.0, 1e-12);
  EXPECT_NEAR(chance_of_larger({3.5, 7, 8, 9, 10}, older), 4 / 252.0, 1e-12);
  EXPECT_NEAR(chance_of_larger({2.5, 7, 8, 9, 10}, older), 7 / 252.0, 1e-12);
  EXPECT_NEAR(chance_of_larger({1.5, 7, 8, 9, 10}, older), 12 / 252.0, 1e-12);
  EXPECT_NEAR(chance_of_larger({0.5, 7, 8, 9, 10}, older), 19 / 252.0, 1e-12);
  EXPECT_NEAR(chance_of_larger({-1, -2, -3, -4, -5}, older), 1, 1e-12);
}

// 3 and 4 values: the numbers of orders by U are 1 1 2 3 4 4 5 4 4 3 2 1 1.
TEST(MannWhitney, IsTheTabulatedOneForThreeAndFour) {
  EXPECT_NEAR(chance_of_larger({5, 6, 7}, {1, 2, 3, 4}), 1 / 35.0, 1e-12);
  EXPECT_NEAR(chance_of_larger({3.5, 6, 7}, {1, 2, 3, 4}), 2 / 35.0, 1e-12);
  EXPECT_NEAR(chance_of_larger({2.5, 6, 7}, {1, 2, 3, 4}), 4 / 35.0, 1e-12);
  EXPECT_NEAR(chance_of_larger({5, 6, 7, 8}, {1, 2, 3}), 1 / 35.0, 1e-12);
}

// The definition: of all ways to say which of these values are the newer ones, the share whose U is as large.
double by_definition(const std::vector<double>& newer, const std::vector<double>& older) {
  std::vector<double> all = newer;
  all.insert(all.end(), older.begin(), older.end());
  const size_t m = newer.size();
  const auto u_of = [&](unsigned chosen) {
    double u = 0;
    for (size_t i = 0; i < all.size(); ++i)
      for (size_t j = 0; j < all.size(); ++j)
        if ((chosen >> i & 1) && !(chosen >> j & 1)) u += all[i] > all[j] ? 1 : all[i] == all[j] ? 0.5 : 0;
    return u;
  };
  const double seen = u_of((1u << m) - 1);
  double as_large = 0, count = 0;
  for (unsigned chosen = 0; chosen < 1u << all.size(); ++chosen)
    if (static_cast<size_t>(__builtin_popcount(chosen)) == m) ++count, as_large += u_of(chosen) >= seen;
  return as_large / count;
}

TEST(MannWhitney, WithoutTiesItIsTheDefinition) {
  for (uint64_t key = 0; key < 20; ++key) {
    std::vector<double> newer, older;
    for (uint64_t i = 0; i < 6; ++i) newer.push_back(random_uniform(key, i) + 0.2);
    for (uint64_t i = 0; i < 7; ++i) older.push_back(random_uniform(key, 100 + i));
    EXPECT_NEAR(chance_of_larger(newer, older), by_definition(newer, older), 1e-12);
  }
}

TEST(MannWhitney, WithTiesItIsTheDefinitionToo) {  // printed times have ties
  for (uint64_t key = 0; key < 20; ++key) {
    std::vector<double> newer, older;
    for (uint64_t i = 0; i < 5; ++i) newer.push_back(std::floor(6 * random_uniform(key, i)) + 1);
    for (uint64_t i = 0; i < 8; ++i) older.push_back(std::floor(6 * random_uniform(key, 100 + i)));
    EXPECT_NEAR(chance_of_larger(newer, older), by_definition(newer, older), 1e-12) << key;
  }
}

// Many samples: the normal approximation, beside the share of shuffles. 4 standard deviations of that share are 0.015.
TEST(MannWhitney, OfManySamplesItIsTheShareOfShuffles) {
  constexpr size_t kSamples = 30;
  for (uint64_t key = 0; key < 4; ++key) {
    std::vector<double> all;
    for (uint64_t i = 0; i < 2 * kSamples; ++i)
      all.push_back(std::floor(20 * random_uniform(key, i)) + (i < kSamples ? static_cast<double>(key) : 0));
    const auto u_of = [&](const std::vector<double>& values) {
      double u = 0;
      for (size_t i = 0; i < kSamples; ++i)
        for (size_t j = kSamples; j < values.size(); ++j)
          u += values[i] > values[j] ? 1 : values[i] == values[j] ? 0.5 : 0;
      return u;
    };
    const double seen = u_of(all);
    constexpr int kShuffles = 20000;
    int as_large = 0;
    std::vector<double> shuffled = all;
    for (uint64_t shuffle = 0; shuffle < kShuffles; ++shuffle) {
      for (size_t i = 0; i + 1 < shuffled.size(); ++i)
        std::swap(shuffled[i], shuffled[i + random_bits(shuffle, i) % (shuffled.size() - i)]);
      as_large += u_of(shuffled) >= seen;
    }
    const auto middle = all.begin() + kSamples;
    EXPECT_NEAR(chance_of_larger({all.begin(), middle}, {middle, all.end()}), as_large / double{kShuffles}, 0.015)
        << key;
  }
}

TEST(MannWhitney, OfNothingAndOfAllAlikeItSaysNothing) {
  EXPECT_EQ(chance_of_larger({}, {1, 2}), 1);
  EXPECT_EQ(chance_of_larger({3, 3, 3}, {3, 3}), 1);
}

ImportedRun run_of(const std::vector<std::pair<int64_t, double>>& times) {
  ImportedRun run{.source = "x", .tool = "nccl-tests", .num_ranks = 8, .num_nodes = 1};
  for (const auto& [bytes, us] : times)
    run.rows.push_back({.test = "all_reduce", .type = "float", .bytes = bytes, .time_us = us, .algbw_gb_per_s = 1});
  return run;
}

// Seven runs around `us`, some percent apart.
std::vector<ImportedRun> repeats(int64_t bytes, double us, uint64_t key) {
  std::vector<ImportedRun> runs;
  for (uint64_t i = 0; i < 7; ++i) runs.push_back(run_of({{bytes, us * (1 + 0.02 * random_uniform(key, i))}}));
  return runs;
}

TEST(Compare, OnlyASlowdownIsOne) {
  const Comparison slower = compare_results(repeats(1024, 20, 1), repeats(1024, 21, 2), {});
  ASSERT_EQ(slower.sizes.size(), 1u);
  EXPECT_EQ(slower.sizes[0].verdict, Verdict::kSlower);
  EXPECT_TRUE(slower.sizes[0].by_test);
  EXPECT_LT(slower.sizes[0].chance, 0.001);
  EXPECT_EQ(compare_results(repeats(1024, 21, 1), repeats(1024, 20, 2), {}).sizes[0].verdict, Verdict::kFaster);
  EXPECT_EQ(compare_results(repeats(1024, 20, 1), repeats(1024, 20, 2), {}).sizes[0].verdict, Verdict::kSame);
  const Comparison small = compare_results(repeats(1024, 20, 1), repeats(1024, 21, 2), {.noise = 0.1});
  EXPECT_EQ(small.sizes[0].verdict, Verdict::kSame) << "beyond chance, but less than what was called noise";
}

// 40 sizes, nothing changed: in 5 % of all comparisons there may be one alarm or more. Of 200 that is 10 +- 3.
TEST(Compare, ManySizesRaiseNoFalseAlarm) {
  int alarms = 0;
  constexpr int kTrials = 200;
  for (uint64_t trial = 0; trial < kTrials; ++trial) {
    std::vector<ImportedRun> older, newer;
    for (uint64_t size = 0; size < 40; ++size)
      for (uint64_t i = 0; i < 7; ++i) {
        const auto bytes = static_cast<int64_t>(1024 + size);
        older.push_back(run_of({{bytes, 20 + random_uniform(1000 * trial + size, i)}}));
        newer.push_back(run_of({{bytes, 20 + random_uniform(1000 * trial + size, 50 + i)}}));
      }
    alarms += compare_results(older, newer, {}).count(Verdict::kSlower) > 0;
  }
  EXPECT_LE(alarms, 10 + 3 * 3);
}

TEST(Compare, SingleValuesNeedAStatedNoise) {
  const std::vector<ImportedRun> older = {run_of({{1024, 20}, {2048, 20}, {4096, 20}})};
  const std::vector<ImportedRun> newer = {run_of({{1024, 20.9}, {2048, 21.1}, {4096, 10}})};
  EXPECT_EQ(compare_results(older, newer, {}).count(Verdict::kNotJudged), 3);
  const Comparison stated = compare_results(older, newer, {.noise = 0.05});
  EXPECT_EQ(stated.sizes[0].verdict, Verdict::kSame);
  EXPECT_EQ(stated.sizes[1].verdict, Verdict::kSlower);
  EXPECT_EQ(stated.sizes[2].verdict, Verdict::kFaster);
}

TEST(Compare, WhatIsMissingIsNamed) {
  ImportedRun other_ranks = run_of({{1024, 20}});
  other_ranks.num_ranks = 16;
  const Comparison comparison =
      compare_results({run_of({{1024, 20}, {2048, 20}})}, {run_of({{2048, 20}}), other_ranks}, {.noise = 0.05});
  ASSERT_EQ(comparison.only_older.size(), 1u);
  EXPECT_EQ(words_for(comparison.only_older[0]), "all_reduce 1.00 KiB float, 8 ranks on 1 node");
  ASSERT_EQ(comparison.only_newer.size(), 1u);
  EXPECT_EQ(comparison.only_newer[0].num_ranks, 16);
  EXPECT_EQ(comparison.sizes.size(), 1u);
}

TEST(Compare, SamplesOfSingleCallsDoWhereRunsAreFew) {
  ImportedRun older = run_of({{1024, 20}}), newer = run_of({{1024, 21}});
  for (uint64_t i = 0; i < 20; ++i) {
    older.rows[0].samples_us.push_back(20 + random_uniform(1, i));
    newer.rows[0].samples_us.push_back(21 + random_uniform(2, i));
  }
  const Comparison comparison = compare_results({older}, {newer}, {});
  EXPECT_EQ(comparison.sizes[0].num_newer, 20);
  EXPECT_EQ(comparison.sizes[0].verdict, Verdict::kSlower);
}

TEST(Compare, ABandwidthThatFellIsASlowdown) {
  ImportedRun older = run_of({{65536, 0}}), newer = run_of({{65536, 0}});
  older.rows[0].algbw_gb_per_s = 49, newer.rows[0].algbw_gb_per_s = 40;
  const Comparison comparison = compare_results({older}, {newer}, {.noise = 0.05});
  EXPECT_EQ(comparison.sizes[0].verdict, Verdict::kSlower);
  EXPECT_TRUE(comparison.sizes[0].of_bandwidth);
}

}  // namespace
}  // namespace lane::net
