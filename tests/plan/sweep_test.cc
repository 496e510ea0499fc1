#include "lane/plan/sweep.h"

#include <gtest/gtest.h>

#include <chrono>

#include "lane/base/error.h"
#include "lane/plan/known_shapes.h"
#include "lane/topology/presets.h"

namespace lane::plan {
namespace {

using topology::Topology;

Work llama(const char* name) {
  return {.shape = *known_shape(name), .batch = 16, .input_tokens = 1024, .output_tokens = 256};
}

TEST(Sweep, FindsAllPlansThatFit) {
  const Topology cluster = topology::preset("h100-dgx-ndr", 1);
  const Reach reach(cluster);
  Planner planner(reach, llama("llama-3-70b"));
  const auto points = sweep(planner);
  size_t expected = 0;
  for (const int tensor : {1, 2, 4, 8})
    for (int pipeline = 1; tensor * pipeline <= 8; ++pipeline) expected += planner.memory({tensor, pipeline}).fits();
  EXPECT_EQ(points.size(), expected);
  for (const SweepPoint& point : points) {
    EXPECT_TRUE(point.memory.fits());
    EXPECT_EQ(point.plan.replicas, 8 / (point.plan.tensor * point.plan.pipeline));
  }
}

TEST(Sweep, TheBestAreNotBeatenAndTheOthersAre) {
  const Topology cluster = topology::preset("a100-dgx-hdr", 8);
  const Reach reach(cluster);
  Planner planner(reach, llama("llama-3-70b"));
  const auto points = sweep(planner);
  const auto beats = [](const SweepPoint& a, const SweepPoint& b) {
    return a.step.seconds <= b.step.seconds && a.tokens_per_s >= b.tokens_per_s &&
           (a.step.seconds < b.step.seconds || a.tokens_per_s > b.tokens_per_s);
  };
  bool others = false;
  for (const SweepPoint& point : points) {
    EXPECT_FALSE(point.is_best && others) << "the best come first";
    others = others || !point.is_best;
    const bool beaten =
        std::any_of(points.begin(), points.end(), [&](const SweepPoint& other) { return beats(other, point); });
    // Not among the best and not beaten: an equal of one of them.
    const bool equal = std::any_of(points.begin(), points.end(), [&](const SweepPoint& other) {
      return other.is_best && other.step.seconds == point.step.seconds && other.tokens_per_s == point.tokens_per_s;
    });
    EXPECT_EQ(point.is_best ? !beaten : beaten || equal, true);
  }
}

TEST(Sweep, OfAThousandGpusTakesFarLessThanTenSeconds) {
  const Topology cluster = topology::preset("h100-dgx-ndr", 128);
  const Reach reach(cluster);
  const auto start = std::chrono::steady_clock::now();
  Planner planner(reach, llama("llama-3-405b"));
  EXPECT_GT(sweep(planner).size(), 300u);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST(Sweep, SaysWhatIsMissingIfNothingFits) {
  const Topology cluster = topology::preset("laptop");
  const Reach reach(cluster);
  Planner planner(reach, llama("llama-3-405b"));
  try {
    sweep(planner);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("no plan fits on 1 GPUs"), std::string::npos) << error.what();
  }
}

TEST(SweepChart, ShowsEveryPlanAndEscapesItsTitle) {
  const Topology cluster = topology::preset("h100-dgx-ndr", 2);
  const Reach reach(cluster);
  Planner planner(reach, llama("llama-3-8b"));
  const auto points = sweep(planner);
  const std::string svg = sweep_chart("a < b & \"c\"", points);
  size_t dots = 0;
  for (size_t at = svg.find("<title>"); at != std::string::npos; at = svg.find("<title>", at + 1)) ++dots;
  EXPECT_EQ(dots, points.size());
  EXPECT_NE(svg.find("a &lt; b &amp; &quot;c&quot;"), std::string::npos);
  EXPECT_NE(svg.find("time between tokens"), std::string::npos);
  EXPECT_NE(svg.find("prefers-color-scheme: dark"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

}  // namespace
}  // namespace lane::plan
