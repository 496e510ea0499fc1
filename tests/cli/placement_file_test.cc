#include "cli/placement_file.h"

#include <gtest/gtest.h>

#include "lane/base/error.h"
#include "lane/base/random.h"

namespace lane::cli {
namespace {

using topology::GpuRef;

topology::Topology three_hosts() {
  topology::Topology topology;
  for (const char* name : {"n1", "n2", "n3"}) topology.hosts.push_back({.name = name, .gpus = {{}, {}}});
  return topology;
}

const std::string kPlaced = R"({
  "schema": 1, "objective": "decode", "plan": {"tensor": 2, "pipeline": 1, "replicas": 2},
  "ranks": [
    {"rank": 1, "replica": 0, "stage": 0, "tensor": 1, "host": "n3", "local_rank": 1, "gpu": 1},
    {"rank": 0, "replica": 0, "stage": 0, "tensor": 0, "host": "n3", "local_rank": 0, "gpu": 0},
    {"rank": 2, "replica": 1, "stage": 0, "tensor": 0, "host": "n1", "local_rank": 0, "gpu": 0},
    {"rank": 3, "replica": 1, "stage": 0, "tensor": 1, "host": "n2", "local_rank": 0, "gpu": 1}
  ]
})";

TEST(PlacementFile, GivesEachRankItsGpu) {
  const std::vector<GpuRef> wanted = {{2, 0}, {2, 1}, {0, 0}, {1, 1}};
  EXPECT_EQ(parse_placement(kPlaced, "file", three_hosts(), 4), wanted);
  EXPECT_EQ(parse_placement(kPlaced, "file", three_hosts(), 0), wanted);
}

std::string error_of(const std::string& text, int num_ranks = 0) {
  try {
    parse_placement(text, "p.json", three_hosts(), num_ranks);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
    return error.what();
  }
  return "";
}

TEST(PlacementFile, SaysWhatIsWrong) {
  const auto has = [](const std::string& message, const std::string& words) {
    EXPECT_NE(message.find("p.json"), std::string::npos) << message;
    EXPECT_NE(message.find(words), std::string::npos) << message;
  };
  const auto changed = [](const std::string& from, const std::string& to) {
    std::string text = kPlaced;
    return text.replace(text.find(from), from.size(), to);
  };
  has(error_of("{}"), "lane place --format json");
  has(error_of("[1]"), "lane place --format json");
  has(error_of(R"({"ranks": [1]})"), "objects");
  has(error_of(kPlaced, 8), "the plan has 8");
  has(error_of(changed("\"n2\"", "\"n9\"")), "not in the topology");
  has(error_of(changed("\"rank\": 3", "\"rank\": 2")), "once");
  has(error_of(changed("\"rank\": 3", "\"rank\": 4")), "once");
  has(error_of(changed("\"gpu\": 1", "\"gpu\": 2")), "no such GPU");
  has(error_of(changed("\"gpu\": 1", "\"gpu\": 0")), "both on gpu 0");
}

TEST(PlacementFile, SurvivesMutations) {
  const topology::Topology topology = three_hosts();
  int num_accepted = 0;
  for (uint64_t key = 0; key < 10'000; ++key) {
    std::string text = kPlaced;
    uint64_t draw = 0;
    const auto below = [&](size_t limit) { return random_bits(key, draw++) % limit; };
    for (size_t i = 0, n = 1 + below(4); i < n; ++i) {
      const size_t at = below(text.size());
      switch (below(4)) {
        case 0:
          text[at] = static_cast<char>(below(256));
          break;
        case 1:
          text.erase(at, 1 + below(20));
          break;
        case 2:
          text.insert(at, text.substr(below(text.size()), 1 + below(40)));
          break;
        default:
          text[at] = "0123456789-.e\"{}[],:"[below(20)];
      }
      if (text.empty()) text = "{";
    }
    try {
      const std::vector<GpuRef> gpus = parse_placement(text, "file", topology, 0);
      ++num_accepted;
      for (const GpuRef gpu : gpus) {
        ASSERT_TRUE(0 <= gpu.host && gpu.host < 3 && 0 <= gpu.gpu && gpu.gpu < 2) << text;
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorruptData) << text;
    }
  }
  EXPECT_GT(num_accepted, 100) << "mutations of what does not matter";
}

}  // namespace
}  // namespace lane::cli
