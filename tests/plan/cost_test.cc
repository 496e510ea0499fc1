// Closed formulas, those of the papers, are the judge of the cost that is counted from the steps.
#include "lane/plan/cost.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

namespace lane::plan {
namespace {

constexpr Link kLink{.latency_s = 2e-6, .bytes_per_s = 5e9};
constexpr int64_t kSizes[] = {0, 8, 100'000, 1 << 24};

double seconds(const std::string& name, Collective collective, const Fabric& fabric, int64_t bytes,
               double partial_scale = 1) {
  return cost(make_schedule(name, collective, fabric.layout), collective, fabric, partial_scale).at(bytes);
}

double seconds(const std::string& name, Collective collective, int n, int64_t bytes, double partial_scale = 1) {
  return seconds(name, collective, Fabric::one_node(n, kLink), bytes, partial_scale);
}

void expect_near(double got, double wanted, const std::string& what) {
  EXPECT_NEAR(got, wanted, 1e-9 * wanted) << what;
}

int floor_log2(int n) { return std::bit_width(static_cast<unsigned>(n)) - 1; }
int ceil_log2(int n) { return n < 2 ? 0 : floor_log2(n - 1) + 1; }

TEST(Cost, AgreesWithClosedFormulas) {
  const double a = kLink.latency_s;
  for (int n = 2; n <= 64; ++n)
    for (const int64_t bytes : kSizes) {
      const double s = static_cast<double>(bytes) / kLink.bytes_per_s, m = n - 1;
      const auto near = [&](double got, double wanted) {
        expect_near(got, wanted, std::to_string(n) + " ranks, " + std::to_string(bytes) + " bytes");
      };
      near(seconds("one_shot", Collective::kAllReduce, n, bytes), a + m * s);
      near(seconds("two_shot", Collective::kAllReduce, n, bytes), 2 * a + 2 * m / n * s);
      near(seconds("ring", Collective::kAllReduce, n, bytes), 2 * m * (a + s / n));
      near(seconds("bruck", Collective::kAllReduce, n, bytes), 2 * (ceil_log2(n) * a + m / n * s));  // Träff
      for (const char* name : {"direct", "bruck", "ring"}) {
        const double rounds = name[0] == 'd' ? 1 : name[0] == 'b' ? ceil_log2(n) : n - 1;
        near(seconds(name, Collective::kReduceScatter, n, bytes), rounds * a + m / n * s);
        near(seconds(name, Collective::kAllGather, n, bytes), rounds * a + m / n * s);
      }
      near(seconds("direct", Collective::kBroadcast, n, bytes), a + m * s);
      near(seconds("binomial", Collective::kBroadcast, n, bytes), ceil_log2(n) * (a + s));
      near(seconds("direct", Collective::kGather, n, bytes), a + m / n * s);
      near(seconds("binomial", Collective::kGather, n, bytes), ceil_log2(n) * a + m / n * s);
      near(seconds("direct", Collective::kAllToAll, n, bytes), a + m / n * s);
    }
}

// The formulas of Thakur, Rabenseifner and Gropp, with two rounds of the whole vector more if n is no power of two.
TEST(Cost, OfDoublingAndHalvingAgreesWithThePaper) {
  const double a = kLink.latency_s;
  for (int n = 2; n <= 64; ++n)
    for (const int64_t bytes : kSizes) {
      const int log = floor_log2(n), core = 1 << log;
      const double s = static_cast<double>(bytes) / kLink.bytes_per_s;
      const double fold = core == n ? 0 : 2 * (a + s);
      const std::string what = std::to_string(n) + " ranks, " + std::to_string(bytes) + " bytes";
      expect_near(seconds("recursive_doubling", Collective::kAllReduce, n, bytes), log * (a + s) + fold, what);
      expect_near(seconds("halving_doubling", Collective::kAllReduce, n, bytes),
                  2 * log * a + 2 * (core - 1.0) / core * s + fold, what);
    }
}

TEST(Cost, OfBrucksAllToAllCountsTheBitsOfDistances) {
  for (int n = 2; n <= 40; ++n) {
    int chunks = 0;  // from a rank in all rounds
    for (int distance = 1; distance < n; ++distance) chunks += std::popcount(static_cast<unsigned>(distance));
    expect_near(seconds("bruck", Collective::kAllToAll, n, 1 << 20),
                ceil_log2(n) * kLink.latency_s + double(chunks) / n * (1 << 20) / kLink.bytes_per_s, std::to_string(n));
  }
}

// With many pieces each port moves about twice the vector, whatever n is: that of the ring, in a logarithm of rounds.
TEST(Cost, OfTheDoubleTree) {
  const double a = kLink.latency_s, s = double(1 << 30) / kLink.bytes_per_s;
  for (int n = 8; n <= 64; n += 7) {
    expect_near(seconds("double_tree", Collective::kAllReduce, n, 0), 2 * floor_log2(n) * a, "latency");
    for (const int pieces : {1, 4, 16}) {  // four pieces a round through each port, at most
      const std::string name = "double_tree:" + std::to_string(pieces);
      double share = 0;
      for (const Traffic& round : traffic(make_schedule(name, Collective::kAllReduce, Layout::one_node(n)),
                                          Collective::kAllReduce, Fabric::one_node(n, kLink)))
        share += round.local_share;
      EXPECT_LE(share, 2 * (1 + (2.0 * floor_log2(n) - 1) / pieces)) << n;
    }
    const double many = seconds("double_tree:256", Collective::kAllReduce, n, 1 << 30);
    EXPECT_GT(many, 1.9 * s) << n;
    EXPECT_LT(many, 2.2 * s) << n;
    EXPECT_LT(many, seconds("double_tree", Collective::kAllReduce, n, 1 << 30)) << n;
  }
}

// 16-bit: what is partly summed travels as float32, twice as large.
TEST(Cost, OfPartialSumsIsScaled) {
  const double a = kLink.latency_s;
  for (int n = 2; n <= 64; ++n) {
    const double s = double(1 << 20) / kLink.bytes_per_s, m = n - 1;
    const std::string what = std::to_string(n);
    // Of the ring's first n-1 rounds all but the first carry float32.
    expect_near(seconds("ring", Collective::kAllReduce, n, 1 << 20, 2), 2 * m * a + (1 + 2.0 * (n - 2) + m) / n * s,
                what);
    for (const char* name : {"one_shot", "two_shot", "two_shot_multicast"})  // these never do
      expect_near(seconds(name, Collective::kAllReduce, n, 1 << 20, 2),
                  seconds(name, Collective::kAllReduce, n, 1 << 20), what);
    if (std::has_single_bit(static_cast<unsigned>(n)))
      expect_near(seconds("recursive_doubling", Collective::kAllReduce, n, 1 << 20, 2),
                  floor_log2(n) * a + (1 + 2.0 * (floor_log2(n) - 1)) * s, what);
  }
}

TEST(Cost, OfMulticastIsOneCopyAtTheSenderAndOneAtEachReceiver) {
  const double a = kLink.latency_s;
  for (int n = 2; n <= 64; ++n) {
    const double s = double(1 << 20) / kLink.bytes_per_s, m = n - 1;
    const std::string what = std::to_string(n);
    expect_near(seconds("direct_multicast", Collective::kBroadcast, n, 1 << 20), a + s, what);
    // Everybody receives from everybody: there multicast does not help ...
    expect_near(seconds("one_shot_multicast", Collective::kAllReduce, n, 1 << 20), a + m * s, what);
    expect_near(seconds("two_shot_multicast", Collective::kAllReduce, n, 1 << 20), 2 * a + 2 * m / n * s, what);
    // ... but with messages: one instead of n-1.
    const Fabric busy = Fabric::one_node(n, {.latency_s = a, .bytes_per_s = 1e9, .message_s = 1e-7});
    expect_near(seconds("one_shot", Collective::kAllReduce, busy, 0), a + (m - 1) * 1e-7, what);
    expect_near(seconds("one_shot_multicast", Collective::kAllReduce, busy, 0), a, what);
    expect_near(seconds("two_shot_multicast", Collective::kAllReduce, busy, 0), 2 * a + (m - 1) * 1e-7, what);
  }
}

// NVRAR (arXiv 2511.09557): T_RS(S, G) + ceil(log2 N) * (a_net + S/G / b) + T_AG(S, G), with a port of rate b for each
// of a node's G ranks. The fabric's one port for the node has B = G b: S/B = (S/G)/b.
TEST(Cost, OfTwoLevelsAgreesWithNvrarsFormula) {
  const Link local{.latency_s = 1e-6, .bytes_per_s = 100e9};
  for (int nodes = 2; nodes <= 32; nodes *= 2)
    for (int g = 1; g <= 8; ++g)
      for (const int64_t bytes : kSizes) {
        const double rate_of_a_rank = 12.5e9, a_net = 4e-6, size = static_cast<double>(bytes);
        const Fabric fabric{.layout = Layout::uniform(nodes, g),
                            .local = local,
                            .remote = {.latency_s = a_net, .bytes_per_s = g * rate_of_a_rank}};
        const double inside = g == 1 ? 0 : local.latency_s + (g - 1.0) / g * size / local.bytes_per_s;
        expect_near(seconds("hier:two_shot/recursive_doubling", Collective::kAllReduce, fabric, bytes),
                    2 * inside + ceil_log2(nodes) * (a_net + size / g / rate_of_a_rank),
                    std::to_string(nodes) + " nodes of " + std::to_string(g));
        // Halving needs twice the rounds, but moves 2 (N-1)/N of the vector instead of log2 N times all of it.
        expect_near(seconds("hier:two_shot/halving_doubling", Collective::kAllReduce, fabric, bytes),
                    2 * inside + 2 * ceil_log2(nodes) * a_net + 2 * (nodes - 1.0) / nodes * size / g / rate_of_a_rank,
                    std::to_string(nodes) + " nodes of " + std::to_string(g));
      }
}

TEST(Cost, SharesANodesPortAmongItsRanks) {
  const Link local{.latency_s = 1e-6, .bytes_per_s = 100e9}, remote{.latency_s = 4e-6, .bytes_per_s = 10e9};
  const double size = 1 << 24;
  for (int g = 1; g <= 8; ++g) {
    const Fabric fabric{.layout = Layout::uniform(2, g), .local = local, .remote = remote};
    // Each rank sends its vector to g ranks there: g * g through the port. Its local port has g - 1 of them to do.
    expect_near(seconds("one_shot", Collective::kAllReduce, fabric, 1 << 24), 4e-6 + g * g * size / 10e9,
                std::to_string(g));
    expect_near(seconds("hier:two_shot/one_shot", Collective::kAllReduce, fabric, 1 << 24),
                (g == 1 ? 0 : 2 * (1e-6 + (g - 1.0) / g * size / 100e9)) + 4e-6 + size / 10e9, std::to_string(g));
  }
}

TEST(Cost, LetsOnlyTheRankThatSendsPayForItsMessages) {
  const Fabric fabric{.layout = Layout::uniform(4, 3),
                      .local = {.latency_s = 1e-6, .bytes_per_s = 1e9, .message_s = 1e-7},
                      .remote = {.latency_s = 4e-6, .bytes_per_s = 1e9, .message_s = 1e-6}};
  // 9 messages leave each rank for other nodes, 2 stay: 8 remote charges are longer.
  expect_near(seconds("one_shot", Collective::kAllReduce, fabric, 0), 4e-6 + 8 * 1e-6, "");
  expect_near(seconds("hier:two_shot/one_shot", Collective::kAllReduce, fabric, 0), 2 * (1e-6 + 1e-7) + 4e-6 + 2 * 1e-6,
              "");
}

TEST(Cost, CountsOversubscribedRacks) {
  const auto fabric = [](double oversubscription) {
    return Fabric{.layout = Layout::uniform(4, 1),
                  .local = {},
                  .remote = {.latency_s = 4e-6, .bytes_per_s = 10e9},
                  .rack_of_node = {0, 0, 1, 1},
                  .uplink = {.latency_s = 1e-6, .bytes_per_s = 2 * 10e9 / oversubscription}};
  };
  const double s = double(1 << 24) / 10e9;
  // Doubling: the first exchange stays in the rack, in the second both nodes of a rack go out.
  for (const double oversubscription : {1.0, 2.0, 4.0})
    expect_near(seconds("recursive_doubling", Collective::kAllReduce, fabric(oversubscription), 1 << 24),
                4e-6 + s + 5e-6 + oversubscription * s, std::to_string(oversubscription));
}

TEST(Traffic, CountsMessagesAndTheBusiestPorts) {
  const Fabric fabric{.layout = Layout::uniform(4, 2), .local = kLink, .remote = kLink, .rack_of_node = {0, 0, 1, 1}};
  const auto rounds = traffic(make_schedule("hier:two_shot/recursive_doubling", Collective::kAllReduce, fabric.layout),
                              Collective::kAllReduce, fabric, 2);
  ASSERT_EQ(rounds.size(), 4u);
  EXPECT_EQ(rounds[0].num_local, 8);
  EXPECT_EQ(rounds[0].num_remote, 0);
  EXPECT_EQ(rounds[0].local_share, 0.5);
  EXPECT_EQ(rounds[1].num_remote, 8);
  EXPECT_EQ(rounds[1].remote_share, 2) << "two halves, partly summed: float32";
  EXPECT_EQ(rounds[1].uplink_share, 0);
  EXPECT_EQ(rounds[2].uplink_share, 4) << "both nodes of the rack";
  EXPECT_EQ(rounds[3].local_share, 0.5) << "complete again";
}

TEST(Cost, OfARankAloneIsNothing) {
  for (const std::string& name : schedule_names(Collective::kAllReduce, Layout::one_node(1)))
    EXPECT_EQ(seconds(name, Collective::kAllReduce, 1, 1 << 20), 0);
}

TEST(Cost, KeepsThePortsThatAreTheBusiestForSomeSize) {
  Cost total;
  total.add_round({{1, 1}, {5, 0}, {0, 2}, {1, 0}, {4, 0.5}, {5, 0}});
  total.add_round({{1, 0}});
  for (const int64_t bytes : {0, 1, 2, 3, 4, 5, 100})
    EXPECT_EQ(total.at(bytes), 1 + std::max({5.0, 4 + 0.5 * double(bytes), 1 + double(bytes), 2.0 * double(bytes)}));
  EXPECT_EQ(total.num_rounds(), 2);
}

std::vector<Candidate> all_reduces(int n, const std::vector<std::string>& names) {
  std::vector<Candidate> candidates;
  const Fabric fabric = Fabric::one_node(n, kLink);
  for (const std::string& name : names)
    candidates.push_back(
        {name, cost(make_schedule(name, Collective::kAllReduce, fabric.layout), Collective::kAllReduce, fabric)});
  return candidates;
}

// a + (n-1) s/B = 2a + 2 (n-1)/n s/B  at  s = a B n / ((n-1)(n-2)).
TEST(Choice, TurnsFromOneShotToTwoShotWhereTheLinesCross) {
  for (int n = 3; n <= 64; ++n) {
    const auto candidates = all_reduces(n, schedule_names(Collective::kAllReduce, Layout::one_node(n)));
    const double limit = kLink.latency_s * kLink.bytes_per_s * n / ((n - 1.0) * (n - 2.0));
    EXPECT_EQ(candidates[cheapest(candidates, static_cast<int64_t>(limit * 0.99))].name, "one_shot");
    EXPECT_EQ(candidates[cheapest(candidates, static_cast<int64_t>(limit * 1.01) + 1)].name, "two_shot");
  }
  EXPECT_EQ(cheapest(all_reduces(2, {"one_shot", "two_shot"}), int64_t{1} << 40), 0) << "the lines never cross";
}

TEST(Choice, ExplainsItself) {
  const std::string text = explain(all_reduces(4, {"one_shot", "two_shot", "ring"}), 1 << 20);
  EXPECT_EQ(text.find("two_shot ("), 0u) << text;
  EXPECT_NE(text.find("one_shot: "), std::string::npos) << text;
  EXPECT_NE(text.find("ring: "), std::string::npos) << text;
}

}  // namespace
}  // namespace lane::plan
