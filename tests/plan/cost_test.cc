// Closed formulas, derived by hand, are the judge of the cost that is counted from the steps.
#include "lane/plan/cost.h"

#include <gtest/gtest.h>

#include <cmath>

namespace lane::plan {
namespace {

constexpr Link kLink{.latency_s = 2e-6, .bytes_per_s = 5e9};

double seconds(const char* name, Collective collective, int n, int64_t bytes, double partial_scale = 1) {
  return cost(make_schedule(name, collective, n), collective, kLink, partial_scale).at(bytes);
}

TEST(Cost, AgreesWithClosedFormulas) {
  const double a = kLink.latency_s;
  for (int n = 2; n <= 64; ++n)
    for (const int64_t bytes : {0, 8, 100'000, 1 << 24}) {
      const double s = static_cast<double>(bytes) / kLink.bytes_per_s, m = n - 1;
      const auto near = [&](double got, double wanted) {
        EXPECT_NEAR(got, wanted, 1e-9 * wanted) << n << " " << bytes;
      };
      near(seconds("one_shot", Collective::kAllReduce, n, bytes), a + m * s);
      near(seconds("two_shot", Collective::kAllReduce, n, bytes), 2 * a + 2 * m / n * s);
      near(seconds("ring", Collective::kAllReduce, n, bytes), 2 * m * (a + s / n));
      near(seconds("direct", Collective::kReduceScatter, n, bytes), a + m / n * s);
      near(seconds("direct", Collective::kAllGather, n, bytes), a + m / n * s);
      near(seconds("direct", Collective::kBroadcast, n, bytes), a + m * s);
      near(seconds("binomial", Collective::kBroadcast, n, bytes), std::ceil(std::log2(n)) * (a + s));
      near(seconds("direct", Collective::kGather, n, bytes), a + m / n * s);
      // 16-bit: of the ring's first n-1 hops all but the first carry float32. The direct ones never do.
      near(seconds("ring", Collective::kAllReduce, n, bytes, 2), 2 * m * a + (1 + 2.0 * (n - 2) + m) / n * s);
      near(seconds("two_shot", Collective::kAllReduce, n, bytes, 2), 2 * a + 2 * m / n * s);
    }
}

TEST(Cost, OfARankAloneIsNothing) {
  for (const std::string& name : schedule_names(Collective::kAllReduce))
    EXPECT_EQ(seconds(name.c_str(), Collective::kAllReduce, 1, 1 << 20), 0);
}

std::vector<Candidate> all_reduces(int n) {
  std::vector<Candidate> candidates;
  for (const std::string& name : schedule_names(Collective::kAllReduce))
    candidates.push_back({name, cost(make_schedule(name, Collective::kAllReduce, n), Collective::kAllReduce, kLink)});
  return candidates;
}

// a + (n-1) s/B = 2a + 2 (n-1)/n s/B  at  s = a B n / ((n-1)(n-2)).
TEST(Choice, TurnsFromOneShotToTwoShotWhereTheLinesCross) {
  for (int n = 3; n <= 64; ++n) {
    const std::vector<Candidate> candidates = all_reduces(n);
    const double limit = kLink.latency_s * kLink.bytes_per_s * n / ((n - 1.0) * (n - 2.0));
    EXPECT_EQ(candidates[cheapest(candidates, static_cast<int64_t>(limit * 0.99))].name, "one_shot");
    EXPECT_EQ(candidates[cheapest(candidates, static_cast<int64_t>(limit * 1.01) + 1)].name, "two_shot");
  }
  EXPECT_EQ(cheapest(all_reduces(2), int64_t{1} << 40), 0) << "two ranks: the lines never cross";
}

TEST(Choice, ExplainsItself) {
  const std::string text = explain(all_reduces(4), 1 << 20);
  EXPECT_EQ(text.find("two_shot ("), 0u) << text;
  EXPECT_NE(text.find("one_shot: "), std::string::npos) << text;
  EXPECT_NE(text.find("ring: "), std::string::npos) << text;
}

}  // namespace
}  // namespace lane::plan
