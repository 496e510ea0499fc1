#include "lane/net/measurement.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "lane/base/random.h"

namespace lane::net {
namespace {

// Places from 1, as books print them: sums of binomial coefficients, worked out with whole numbers.
TEST(MedianInterval, IsTheTabulatedOne) {
  const struct {
    int n, low, high;
  } kTable[] = {{6, 1, 6},   {8, 1, 8},    {9, 2, 8},    {10, 2, 9},    {15, 4, 12},
                {20, 6, 15}, {30, 10, 21}, {50, 18, 33}, {100, 40, 61}, {400, 180, 221}};
  for (const auto& row : kTable) {
    EXPECT_EQ(median_interval(row.n).low, row.low - 1) << row.n;
    EXPECT_EQ(median_interval(row.n).high, row.high - 1) << row.n;
  }
  for (const int few : {1, 2, 5}) {  // not enough for 95 %: all of them
    EXPECT_EQ(median_interval(few).low, 0);
    EXPECT_EQ(median_interval(few).high, few - 1);
  }
}

// Whatever the distribution: about 95 of 100 intervals hold the true median. This one is skewed, as timings are.
TEST(MedianInterval, HoldsTheMedianAsOftenAsItSays) {
  constexpr int kTrials = 4000, kSamples = 30;
  int held = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<double> samples;
    for (int i = 0; i < kSamples; ++i) {
      const double u = random_uniform(static_cast<uint64_t>(trial), static_cast<uint64_t>(i));
      samples.push_back(1 / (1 - u));  // median 2, no mean
    }
    const Measurement m = measure(samples);
    held += m.low_s <= 2 && 2 <= m.high_s;
  }
  EXPECT_GT(held, kTrials * 0.94);  // 95.7 % expected; three standard deviations are 1 %
  EXPECT_LT(held, kTrials * 0.97);
}

TEST(Measurement, OfKnownSamples) {
  std::vector<double> samples;
  for (int i = 100; i >= 0; --i) samples.push_back(i);
  const Measurement m = measure(samples);
  EXPECT_EQ(m.num_samples, 101);
  EXPECT_DOUBLE_EQ(m.median_s, 50);
  EXPECT_DOUBLE_EQ(m.p10_s, 10);
  EXPECT_DOUBLE_EQ(m.p99_s, 99);
  EXPECT_DOUBLE_EQ(m.mean_s, 50);
  EXPECT_DOUBLE_EQ(m.uncertainty(), (m.high_s - m.low_s) / 100);
  EXPECT_DOUBLE_EQ(measure({1, 2}).median_s, 1.5);
  EXPECT_EQ(measure({1, 2, 3, 4, 5}).uncertainty(), 1) << "five samples say nothing with 95 %";
  EXPECT_EQ(measure({}).num_samples, 0);
  EXPECT_EQ(to_json(m)["median_s"], 50);
}

}  // namespace
}  // namespace lane::net
