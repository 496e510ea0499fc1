#include "tools/netlab/topology.h"

#include <gtest/gtest.h>

#include "lane/base/error.h"

namespace lane::netlab {
namespace {

// The error's words, or "" if there is none.
std::string refusal(const std::string& json) {
  try {
    parse_topology(json, "lab.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Topology, ShortForm) {
  const Topology topology = parse_topology(
      R"({"hosts": 3, "delay": "0.5ms", "rate": "1gbit", "loss": "1%", "jitter": "50us", "mtu": 1500, "seed": 7,
          "links": {"h1": {"delay": "2ms", "queue": "1M"}}})",
      "lab.json");
  ASSERT_EQ(topology.hosts.size(), 3u);
  EXPECT_EQ(topology.hosts[2].name, "h2");
  EXPECT_EQ(topology.hosts[2].address, "10.77.0.3");
  EXPECT_EQ(topology.hosts[0].link.delay_ns, 500'000);
  EXPECT_EQ(topology.hosts[0].link.jitter_ns, 50'000);
  EXPECT_DOUBLE_EQ(topology.hosts[0].link.rate_bits_per_s, 1e9);
  EXPECT_DOUBLE_EQ(topology.hosts[0].link.loss, 0.01);
  EXPECT_EQ(topology.hosts[1].link.delay_ns, 2'000'000);
  EXPECT_EQ(topology.hosts[1].link.queue_limit_bytes(), 1 << 20);
  EXPECT_EQ(topology.hosts[0].link.queue_limit_bytes(), 6'250'000);  // 50 ms of 1 Gbit/s
  EXPECT_EQ(topology.mtu, 1500);
  EXPECT_EQ(topology.seed, 7u);
}

TEST(Topology, Racks) {
  const Topology topology = parse_topology(
      R"({"racks": [{"name": "a", "hosts": ["x", "y"], "uplink": {"rate": "200mbit", "delay": "1ms"}},
                    {"hosts": ["z"]}],
          "link": {"delay": "4ms", "rate": "1gbit", "loss": 0.02}})",
      "lab.json");
  EXPECT_EQ(topology.racks[0].name, "a");
  EXPECT_EQ(topology.racks[1].name, "r1");
  EXPECT_EQ(topology.hosts[2].address, "10.77.1.1");
  const PathSettings inside = path(topology, 0, 1), across = path(topology, 0, 2);
  EXPECT_EQ(inside.delay_ns, 4'000'000);
  EXPECT_DOUBLE_EQ(inside.rate_bits_per_s, 1e9);
  EXPECT_NEAR(inside.loss, 0.02, 1e-12);
  EXPECT_EQ(across.delay_ns, 4'500'000);  // half of the uplink's millisecond; rack r1 has none
  EXPECT_DOUBLE_EQ(across.rate_bits_per_s, 2e8);
}

TEST(Topology, ErrorsNameFileFieldValueAndRemedy) {
  EXPECT_EQ(refusal(R"({"hosts": 2, "delay": "5"})"),
            "lab.json: \"delay\": \"5\"; write a duration with its unit: 0.5ms, 200us, 1s, 10min");
  const std::string unknown = refusal(R"({"hosts": 2, "dealy": "5ms"})");
  EXPECT_NE(unknown.find("\"dealy\" is no key"), std::string::npos) << unknown;
  EXPECT_NE(unknown.find("delay, jitter, rate"), std::string::npos) << unknown;
  for (const char* json : {"",
                           "[]",
                           "{}",
                           R"({"hosts": 0})",
                           R"({"hosts": 1000})",
                           R"({"hosts": -1})",
                           R"({"hosts": "four"})",
                           R"({"hosts": []})",
                           R"({"hosts": ["a", "a"]})",
                           R"({"hosts": ["a b"]})",
                           R"({"hosts": ["-a"]})",
                           R"({"hosts": ["localhost"]})",

                           R"({"hosts": 2, "racks": []})",
                           R"({"racks": []})",
                           R"({"racks": [{}]})",
                           R"({"racks": [{"hosts": 2}]})",
                           R"({"racks": [{"name": "a", "hosts": ["a"]}]})",
                           R"({"racks": [{"hosts": ["a"], "uplnk": {}}]})",
                           R"({"racks": [{"hosts": ["a"]}], "delay": "1ms"})",
                           R"({"hosts": 2, "rate": "1"})",
                           R"({"hosts": 2, "rate": "0mbit"})",
                           R"({"hosts": 2, "rate": "-1gbit"})",
                           R"({"hosts": 2, "rate": 1e9})",
                           R"({"hosts": 2, "delay": "1e300s"})",
                           R"({"hosts": 2, "delay": "nanms"})",
                           R"({"hosts": 2, "loss": "101%"})",
                           R"({"hosts": 2, "loss": "1 %"})",
                           R"({"hosts": 2, "queue": "many"})",
                           R"({"hosts": 2, "mtu": 100})",
                           R"({"hosts": 2, "mtu": 1e6})",
                           R"({"hosts": 2, "cut": 1})",
                           R"({"hosts": 2, "links": {"h9": {}}})",
                           R"({"hosts": 2, "links": {"h1": 3}})",
                           R"({"hosts": 2, "links": [1]})",
                           R"({"hosts": 2, "": "1ms"})",
                           R"({"hosts": 2, "delay": null})"})
    EXPECT_EQ(refusal(json).substr(0, 8), "lab.json") << json << ": " << refusal(json);
}

TEST(Topology, QuantitiesWithUnits) {
  EXPECT_EQ(parse_duration_ns("200us", "t"), 200'000);
  EXPECT_EQ(parse_duration_ns("1.5s", "t"), 1'500'000'000);
  EXPECT_DOUBLE_EQ(parse_bit_rate("2.5gbit", "t"), 2.5e9);
  EXPECT_DOUBLE_EQ(parse_bit_rate("unlimited", "t"), 0);
  EXPECT_DOUBLE_EQ(parse_share("0.5%", "t"), 0.005);
  EXPECT_DOUBLE_EQ(parse_share("1", "t"), 1);
}

}  // namespace
}  // namespace lane::netlab
