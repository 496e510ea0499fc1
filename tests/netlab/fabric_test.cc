#include "tools/netlab/fabric.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "lane/base/error.h"

namespace lane::netlab {
namespace {

constexpr int64_t kMs = 1'000'000;

// A fabric under a clock of its own.
struct Lab {
  explicit Lab(const std::string& json) : fabric(parse_topology(json, "test")) {}

  void send(int64_t at_ns, int from, int to, int32_t bytes, uint32_t tag) {
    run_until(at_ns);
    fabric.submit(at_ns, from, to, bytes, tag);
  }
  void run_until(int64_t at_ns) { fabric.advance(at_ns, ended); }
  void run() { fabric.advance(Fabric::kNever - 1, ended); }
  int64_t arrival_ns(uint32_t tag) const {
    for (const Fabric::Outcome& outcome : ended)
      if (outcome.tag == tag) return outcome.to < 0 ? -1 : outcome.due_ns;
    return -2;
  }
  int64_t num_arrived(int to = -1) const {
    return std::ranges::count_if(ended,
                                 [&](const auto& outcome) { return outcome.to >= 0 && (to < 0 || outcome.to == to); });
  }

  Fabric fabric;
  std::vector<Fabric::Outcome> ended;
};

TEST(Fabric, AnIdlePathCostsItsDelayAndOneSerialization) {
  Lab lab(R"({"hosts": 2, "delay": "1ms", "rate": "100mbit"})");
  lab.send(5, 0, 1, 1250, 1);  // 100 us at 100 Mbit/s
  lab.run();
  EXPECT_EQ(lab.arrival_ns(1), 5 + kMs + 100'000);
}

TEST(Fabric, TheSlowestLinkSetsTheSerialization) {
  for (const char* slow : {"h0", "h1"}) {
    Lab lab(fmt::format(R"({{"hosts": 2, "delay": "1ms", "rate": "1gbit", "links": {{"{}": {{"rate": "100mbit"}}}}}})",
                        slow));
    lab.send(0, 0, 1, 1250, 1);
    lab.run();
    EXPECT_EQ(lab.arrival_ns(1), kMs + 100'000) << slow;
  }
  Lab lab(
      R"({"racks": [{"hosts": ["a"], "uplink": {"rate": "4gbit", "delay": "2ms"}},
                    {"hosts": ["b"], "uplink": {"rate": "4gbit", "delay": "2ms"}}],
          "link": {"delay": "1ms", "rate": "100mbit"}})");
  lab.send(0, 0, 1, 1250, 1);
  lab.run();
  EXPECT_EQ(lab.arrival_ns(1), 3 * kMs + 100'000);  // slow, fast, fast, slow: still one serialization
}

TEST(Fabric, NoRateNoDelayMeansAtOnce) {
  Lab lab(R"({"hosts": 3})");
  lab.send(7, 2, 0, 9000, 1);
  lab.run_until(7);
  EXPECT_EQ(lab.arrival_ns(1), 7);
}

TEST(Fabric, PacketsLeaveAtTheRate) {
  Lab lab(R"({"hosts": 2, "rate": "1gbit", "delay": "0.5ms"})");
  for (uint32_t i = 0; i < 100; ++i) lab.send(0, 0, 1, 9000, i);
  lab.run();
  for (uint32_t i = 0; i < 100; ++i) EXPECT_EQ(lab.arrival_ns(i), kMs / 2 + 72'000 * (i + 1));
}

TEST(Fabric, BothDirectionsHaveTheWholeRate) {
  Lab lab(R"({"hosts": 2, "rate": "1gbit"})");
  for (uint32_t i = 0; i < 10; ++i) lab.send(0, 0, 1, 9000, i), lab.send(0, 1, 0, 9000, 100 + i);
  lab.run();
  EXPECT_EQ(lab.arrival_ns(9), 720'000);
  EXPECT_EQ(lab.arrival_ns(109), 720'000);
}

TEST(Fabric, TwoSendersShareTheReceiversLink) {
  Lab lab(R"({"hosts": 3, "rate": "1gbit"})");
  for (uint32_t i = 0; i < 50; ++i) lab.send(72'000 * i, 0, 2, 9000, i), lab.send(72'000 * i, 1, 2, 9000, 100 + i);
  lab.run();
  EXPECT_EQ(std::max(lab.arrival_ns(49), lab.arrival_ns(149)), 100 * 72'000);
}

TEST(Fabric, TwoFlowsOverAnUplinkGetHalfEach) {
  Lab lab(
      R"({"racks": [{"hosts": ["a", "b"], "uplink": {"rate": "1gbit"}},
                    {"hosts": ["c", "d"], "uplink": {"rate": "1gbit"}}],
          "link": {"rate": "1gbit"}})");
  for (uint32_t i = 0; i < 200; ++i) lab.send(72'000 * i, 0, 2, 9000, 0), lab.send(72'000 * i, 1, 3, 9000, 1);
  lab.run_until(200 * 72'000);
  EXPECT_NEAR(static_cast<double>(lab.num_arrived(2)), 100, 2);
  EXPECT_NEAR(static_cast<double>(lab.num_arrived(3)), 100, 2);
  Lab inside(
      R"({"racks": [{"hosts": ["a", "b"], "uplink": {"rate": "1mbit"}}, {"hosts": ["c"]}],
          "link": {"rate": "1gbit"}})");
  inside.send(0, 0, 1, 9000, 1);
  inside.run();
  EXPECT_EQ(inside.arrival_ns(1), 72'000) << "a packet within a rack does not pass the uplink";
}

TEST(Fabric, AFarHostDoesNotHoldUpANearOne) {
  Lab lab(R"({"hosts": 3, "rate": "1gbit", "links": {"h0": {"delay": "400ms"}}})");
  lab.send(0, 0, 2, 9000, 1);
  lab.send(1000, 1, 2, 9000, 2);
  lab.run();
  EXPECT_EQ(lab.arrival_ns(2), 1000 + 72'000);
  EXPECT_EQ(lab.arrival_ns(1), 200 * kMs + 72'000);
}

TEST(Fabric, TheQueueIsDropTailAndTheSendersOwnLinkWaits) {
  Lab lab(R"({"hosts": 3, "rate": "1gbit", "links": {"h2": {"rate": "100mbit", "queue": "90000"}}})");
  for (uint32_t i = 0; i < 100; ++i) lab.send(72'000 * i, 0, 2, 9000, i);
  lab.run();
  const auto report = lab.fabric.report();
  EXPECT_EQ(report[0].sent.overflowed, 0);
  // In 7.2 ms, 10 of the 100 packets leave at a tenth of the rate and 10 find room in the queue.
  EXPECT_NEAR(static_cast<double>(report[2].received.overflowed), 80, 1);
  EXPECT_EQ(report[2].received.overflowed + lab.num_arrived(), 100);

  Lab sender(R"({"hosts": 2, "rate": "1gbit"})");
  int num_taken = 0;
  while (sender.fabric.accepts(0)) sender.fabric.submit(0, 0, 1, 9000, 0), ++num_taken;
  EXPECT_NEAR(num_taken, 250'000 / 9000, 1);  // 2 ms of 1 Gbit/s
  sender.run_until(72'000);
  EXPECT_TRUE(sender.fabric.accepts(0));
}

TEST(Fabric, LossIsBetweenHostsAndRepeatable) {
  const auto arrived = [](uint64_t seed) {
    Lab lab(fmt::format(R"({{"hosts": 2, "loss": "1%", "seed": {}}})", seed));
    for (uint32_t i = 0; i < 100'000; ++i) lab.send(i, 0, 1, 100, i);
    lab.run();
    return lab.num_arrived();
  };
  EXPECT_NEAR(static_cast<double>(arrived(1)), 99'000, 160);  // five standard deviations
  EXPECT_EQ(arrived(1), arrived(1));
  EXPECT_NE(arrived(1), arrived(2));
  Lab all(R"({"hosts": 2, "loss": "100%"})");
  all.send(0, 0, 1, 100, 1);
  all.run();
  EXPECT_EQ(all.arrival_ns(1), -1);
}

TEST(Fabric, JitterSpreadsTheDelayAndKeepsTheOrder) {
  for (const bool reorder : {false, true}) {
    Lab lab(fmt::format(R"({{"hosts": 2, "delay": "1ms", "jitter": "0.5ms", "reorder": {}}})", reorder));
    for (uint32_t i = 0; i < 1000; ++i) lab.send(10'000 * i, 0, 1, 100, i);
    lab.run();
    ASSERT_EQ(lab.num_arrived(), 1000);
    bool in_order = true;
    int64_t least = Fabric::kNever, most = 0;
    for (uint32_t i = 0; i < 1000; ++i) {
      in_order = in_order && (i == 0 || lab.arrival_ns(i) >= lab.arrival_ns(i - 1));
      least = std::min(least, lab.arrival_ns(i) - 10'000 * i);
      most = std::max(most, lab.arrival_ns(i) - 10'000 * i);
    }
    EXPECT_EQ(in_order, !reorder);
    EXPECT_GE(least, kMs / 2);
    EXPECT_LE(most, 3 * kMs / 2);
    EXPECT_GT(most - least, kMs / 3);
  }
}

TEST(Fabric, ACutStopsEverythingUntilItIsMended) {
  Lab lab(R"({"hosts": 3, "delay": "2ms", "rate": "1mbit"})");
  lab.send(0, 0, 1, 125, 1);  // 1 ms; would leave after the cut
  lab.fabric.change("h1", "cut", "true");
  lab.send(10 * kMs, 0, 1, 125, 2);
  lab.send(20 * kMs, 1, 0, 125, 3);
  lab.send(30 * kMs, 0, 2, 125, 4);  // others go on
  lab.run_until(50 * kMs);
  for (uint32_t tag : {1u, 2u, 3u}) EXPECT_EQ(lab.arrival_ns(tag), -1) << tag;
  EXPECT_EQ(lab.arrival_ns(4), 33 * kMs);
  lab.fabric.change("h1", "cut", "false");
  lab.send(60 * kMs, 0, 1, 125, 5);
  lab.run();
  EXPECT_EQ(lab.arrival_ns(5), 63 * kMs);
  const auto report = lab.fabric.report();
  EXPECT_EQ(report[1].received.cut, 2);
  EXPECT_EQ(report[1].sent.cut, 1);
}

TEST(Fabric, ChangesTakeEffectAtOnceAndKeepTheOrder) {
  Lab lab(R"({"hosts": 2, "delay": "200ms"})");
  lab.send(0, 0, 1, 100, 1);
  lab.run_until(kMs);
  lab.fabric.change("h0", "delay", "1ms");
  lab.fabric.change("h1", "delay", "1ms");
  lab.send(2 * kMs, 0, 1, 100, 2);
  lab.run();
  EXPECT_EQ(lab.arrival_ns(1), 100 * kMs + kMs / 2);  // was on the first half of the way
  EXPECT_GE(lab.arrival_ns(2), lab.arrival_ns(1));
  lab.ended.clear();
  lab.fabric.change("h0", "rate", "1mbit");
  lab.send(1000 * kMs, 0, 1, 125, 3);
  lab.run();
  EXPECT_EQ(lab.arrival_ns(3), 1002 * kMs);
  EXPECT_THROW(lab.fabric.change("h7", "delay", "1ms"), Error);
  EXPECT_THROW(lab.fabric.change("h0", "delay", "soon"), Error);
}

TEST(Fabric, EveryPacketEndsOnce) {
  Lab lab(
      R"({"racks": [{"hosts": ["a", "b", "c"], "uplink": {"rate": "50mbit", "queue": "20000"}}, {"hosts": ["d", "e"]}],
              "link": {"delay": "1ms", "jitter": "1ms", "loss": "3%", "rate": "100mbit", "queue": "30000"}})");
  for (uint32_t i = 0; i < 5000; ++i)
    lab.send(20'000 * i, static_cast<int>(i % 5), static_cast<int>((i / 5 + 1 + i) % 5),
             100 + static_cast<int32_t>(i % 977), i);
  lab.run();
  std::map<uint32_t, int> seen;
  for (const Fabric::Outcome& outcome : lab.ended) ++seen[outcome.tag];
  EXPECT_EQ(seen.size(), 5000u);
  for (const auto& [tag, count] : seen) ASSERT_EQ(count, 1) << tag;
  EXPECT_EQ(lab.fabric.next_ns(), Fabric::kNever);
}

}  // namespace
}  // namespace lane::netlab
