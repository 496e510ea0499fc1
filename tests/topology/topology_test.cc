#include "lane/topology/topology.h"

#include <gtest/gtest.h>

#include <functional>

#include "lane/base/error.h"
#include "lane/base/random.h"

namespace lane::topology {
namespace {

// Two racks of hosts on a fat tree, with all that a host can say about itself.
Topology cluster() {
  Topology topology{.name = "test", .nic_latency_us = 3.5, .switch_latency_us = 0.25};
  for (int i = 0; i < 6; ++i) {
    Host host{.name = "n0" + std::to_string(i), .rack = i < 3 ? "r0" : "r1", .leaf_switch = i < 3 ? "leaf0" : "leaf1"};
    host.machine.hostname = host.name;
    host.machine.cpu_model = "CPU";
    for (int g = 0; g < 2; ++g) {
      host.gpus.push_back({.index = g,
                           .pci_id = "0000:1" + std::to_string(g) + ":00.0",
                           .name = "GPU",
                           .sm = 90,
                           .memory_bytes = int64_t{80} << 30,
                           .numa_node = g,
                           .pcie = {32, 32, 16, 16},
                           .num_nvlinks = 18,
                           .max_nvlinks = 18,
                           .nvlink_gb_per_s = 26.5625,
                           .has_nvswitch = true});
      host.nics.push_back({.name = "mlx5_" + std::to_string(g),
                           .kind = NicKind::kInfiniband,
                           .role = NicRole::kCompute,
                           .numa_node = g,
                           .ports = {{1, "ACTIVE", "LinkUp", 400, "4X NDR", {{"link_downed", 2}}}},
                           .rail = g});
    }
    host.gpu_to_gpu = {{Path::kSelf, Path::kNvlink}, {Path::kNvlink, Path::kSelf}};
    host.gpu_to_gpu_nvlinks = {{0, 18}, {18, 0}};
    host.gpu_to_nic = {{Path::kPix, Path::kSys}, {Path::kUnknown, Path::kPxb}};
    topology.hosts.push_back(host);
  }
  topology.hosts[4].gpus[1].is_busy = true;
  topology.switches = {
      {"leaf0", 1, {"spine0", "spine1"}, 3200}, {"leaf1", 1, {"spine0", "spine1"}}, {"spine0", 2}, {"spine1", 2}};
  return topology;
}

TEST(TopologyJson, SurvivesTheRoundTrip) {
  const Topology before = cluster();
  const std::string text = to_json(before);
  EXPECT_EQ(topology_from_json(text, "t.json"), before);
  EXPECT_NE(text.find("n[00-02]"), std::string::npos) << "hosts that differ by name alone are written once";
}

TEST(TopologyJson, AHandWrittenOneNeedsLittle) {
  const Topology read = topology_from_json(
      R"({"schema": 1, "hosts": [{"names": "a[1-3]", "gpus": [{"index": 0}, {"index": 1}]}]})", "t.json");
  ASSERT_EQ(read.hosts.size(), 3u);
  EXPECT_EQ(read.hosts[2].name, "a3");
  EXPECT_EQ(read.hosts[2].gpus.size(), 2u);
  EXPECT_EQ(read.hosts[2].gpus[1].num_nvlinks, -1);
}

void expect_refused(const std::function<void(Topology&)>& spoil, const std::string& words) {
  Topology topology = cluster();
  spoil(topology);
  try {
    check(topology, "t.json");
    ADD_FAILURE() << "taken: " << words;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    EXPECT_EQ(std::string(error.what()).find("t.json: "), 0u) << error.what();
  }
}

TEST(TopologyCheck, NamesWhatIsWrong) {
  check(cluster(), "t.json");
  expect_refused([](Topology& t) { t.hosts[1].name = "n00"; }, "two hosts are called \"n00\"");
  expect_refused([](Topology& t) { t.hosts[1].name = ""; }, "a host has no name");
  expect_refused([](Topology& t) { t.hosts[1].gpus[1].index = 0; }, "host \"n01\": GPU 0 is listed twice");
  expect_refused([](Topology& t) { t.hosts[1].gpus[0].memory_bytes = -1; }, "memory_bytes is -1");
  expect_refused([](Topology& t) { t.hosts[1].gpus[0].num_nvlinks = -2; }, "num_nvlinks is -2");
  expect_refused([](Topology& t) { t.hosts[1].nics[1].name = "mlx5_0"; }, "two NICs are called \"mlx5_0\"");
  expect_refused([](Topology& t) { t.hosts[1].nics[1].ports[0].gbit_per_s = -4; }, "gbit_per_s is -4");
  expect_refused([](Topology& t) { t.hosts[1].gpu_to_nic.pop_back(); }, "gpu_to_nic is not a matrix of 2 x 2");
  expect_refused([](Topology& t) { t.hosts[1].leaf_switch = "leaf7"; }, "\"leaf7\" is not among the switches");
  expect_refused([](Topology& t) { t.hosts[1].leaf_switch = ""; }, "host \"n01\" hangs on no switch");
  expect_refused([](Topology& t) { t.switches[1].name = "leaf0"; }, "two switches are called \"leaf0\"");
  expect_refused([](Topology& t) { t.switches[1].parents = {"top"}; }, "its parent \"top\" is not among the switches");
  expect_refused([](Topology& t) { t.switches[2].parents = {"leaf0"}; }, "a parent is of a higher level");
  expect_refused([](Topology& t) { t.switches[2].level = 0; }, "level is 0");
  expect_refused([](Topology& t) { t.switches[1].parents = {}; }, "cannot reach host");
  expect_refused([](Topology& t) { t.nic_latency_us = -1; }, "nic_latency_us is -1");
}

TEST(TopologyCheck, RailsJoinHostsWithoutASpine) {
  Topology topology = cluster();
  topology.switches = {{"rail0", 1}, {"rail1", 1}};
  for (Host& host : topology.hosts) {
    host.leaf_switch = "";
    for (Nic& nic : host.nics) nic.leaf_switch = "rail" + std::to_string(nic.rail);
  }
  check(topology, "t.json");
}

TEST(TopologyJson, NonsenseIsAnErrorThatNamesThePlace) {
  const auto error_of = [](const std::string& text) -> std::string {
    try {
      topology_from_json(text, "t.json");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(error_of("{}").find("\"schema\" is 0"), std::string::npos);
  EXPECT_NE(error_of(R"({"schema": 1, "hots": []})").find("\"hots\" is not a field"), std::string::npos);
  EXPECT_NE(error_of(R"({"schema": 1, "hosts": [{"name": "a", "gpus": [{"sm": "x"}]}]})").find("hosts[0]: gpus[0]"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"schema": 1, "hosts": [{"name": "a", "nics": [{"name": "b", "kind": "z"}]}]})").find("\"z\""),
            std::string::npos);
  EXPECT_NE(error_of(R"({"schema": 1, "hosts": [{"name": "a", "gpu_to_gpu": [["NVx"]]}]})").find("gpu_to_gpu[0][0]"),
            std::string::npos);
}

TEST(TopologyJson, TenThousandMutationsAreReadOrRefused) {
  const std::string good = to_json(cluster());
  int num_read = 0, num_refused = 0;
  for (uint64_t i = 0; i < 10'000; ++i) {
    std::string text = good;
    for (int edit = 0; edit <= static_cast<int>(random_bits(1, i) % 3); ++edit) {
      const uint64_t draw = random_bits(2 + edit, i);
      const size_t at = draw % text.size();
      if (draw >> 60 < 6)
        text[at] = static_cast<char>(draw >> 32);
      else if (draw >> 60 < 11)
        text.erase(at, 1 + (draw >> 32) % 40);
      else
        text.insert(at, text.substr((draw >> 20) % text.size(), 30));
    }
    try {
      topology_from_json(text, "t.json");
      ++num_read;
    } catch (const Error&) {
      ++num_refused;
    }
  }
  EXPECT_GT(num_read, 0);
  EXPECT_EQ(num_read + num_refused, 10'000);
}

}  // namespace
}  // namespace lane::topology
