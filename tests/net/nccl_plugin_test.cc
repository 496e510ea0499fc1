// The tuner plugin, opened as NCCL opens it. The test plays NCCL's part: what it passes and reads is that of
// src/plugin/tuner.cc and src/enqueue.cc of NCCL 2.30.7.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <thread>

#include "lane/base/random.h"
#include "lane/net/nccl_tune.h"
#include "tools/nccl_tuner/nccl_tuner_abi.h"
#include "tools/nccl_tuner/rules.h"

namespace {

using namespace nccl_tuner;

std::mutex log_mutex;
std::string log_text;

void log_line(LogLevel level, unsigned long flags, const char*, int, const char* format, ...) {
  EXPECT_EQ(flags, 64u);
  std::array<char, 1000> text{};
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text.data(), text.size(), format, arguments);
  va_end(arguments);
  const std::lock_guard<std::mutex> lock(log_mutex);
  log_text += std::to_string(level) + " " + text.data() + "\n";
}

using CostTable = std::array<std::array<float, kNumProtocols>, kNumAlgorithms>;

CostTable costs_of_nccl() {
  CostTable table;
  for (auto& row : table) row.fill(50);
  table[kNvls] = {kNotAvailable, kNotAvailable, kNotAvailable};
  return table;
}

class Plugin : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    library_ = ::dlopen(LANE_NCCL_TUNER, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << ::dlerror();
    const auto* v6 = static_cast<const TunerV6*>(::dlsym(library_, GetParam()));
    ASSERT_NE(v6, nullptr) << ::dlerror();
    tuner_ = {v6->name, v6->init, v6->get_coll_info, v6->finalize};  // version 6 begins as version 5
    log_text.clear();
  }
  void TearDown() override {
    ::unsetenv("NCCL_TUNER_CONFIG_FILE");
    ::unlink(path_.c_str());
    if (library_) ::dlclose(library_);
  }

  void* init(const std::string& table, size_t ranks = 16, size_t nodes = 2) {
    std::ofstream(path_) << table;
    ::setenv("NCCL_TUNER_CONFIG_FILE", path_.c_str(), 1);
    NvlDomainInfo domains{2, 8, 8};
    void* context = nullptr;
    EXPECT_EQ(tuner_.init(&context, 0x1234, ranks, nodes, log_line, &domains, nullptr), kSuccess);
    return context;
  }

  struct Answer {
    CostTable costs;
    int num_channels;
  };
  Answer ask(void* context, Function function, size_t bytes, int algorithms = kNumAlgorithms) const {
    Answer answer{costs_of_nccl(), 0};
    EXPECT_EQ(tuner_.get_coll_info(context, function, bytes, 1, reinterpret_cast<float**>(answer.costs.data()),
                                   algorithms, kNumProtocols, 0, &answer.num_channels),
              kSuccess);
    return answer;
  }

  void* library_ = nullptr;
  TunerV5 tuner_{};
  std::string path_ = testing::TempDir() + "lane_nccl_" + std::to_string(::getpid()) + ".csv";
};

TEST_P(Plugin, PrefersWhatTheTableNamesAndLeavesTheRest) {
  EXPECT_STREQ(tuner_.name, "Lane");
  void* context = init(
      "# a comment\n"
      "allreduce,0,65536,tree,ll,-1,2,16,-1,-1\n"
      "allreduce,65537,1048576,ring,ll128,8,-1,-1\n"
      "allgather,0,4096,ring,simple,0,2,16,-1,-1\n");
  Answer answer = ask(context, kAllReduce, 16384);
  CostTable expected = costs_of_nccl();
  expected[kTree][kLL] = 0;
  EXPECT_EQ(answer.costs, expected);
  EXPECT_EQ(answer.num_channels, 0) << "NCCL's own number";

  answer = ask(context, kAllReduce, 65537);
  expected = costs_of_nccl();
  expected[kRing][kLL128] = 0;
  EXPECT_EQ(answer.costs, expected);
  EXPECT_EQ(answer.num_channels, 8);

  for (const auto& [function, bytes] :
       {std::pair(kAllReduce, size_t{2000000}), {kBroadcast, size_t{100}}, {kAllGather, size_t{4097}}}) {
    answer = ask(context, function, bytes);
    EXPECT_EQ(answer.costs, costs_of_nccl()) << "nothing matches: nothing is touched";
    EXPECT_EQ(answer.num_channels, 0);
  }
  EXPECT_EQ(tuner_.finalize(context), kSuccess);
  EXPECT_NE(log_text.find("3 TUNER/Lane: 3 rules from"), std::string::npos) << log_text;
}

TEST_P(Plugin, OtherNodesAndRanksDoNotMatch) {
  const std::string table = "allreduce,0,65536,tree,ll,-1,2,16,-1,-1\n";
  void* same = init(table);
  void* other_ranks = init(table, 8, 2);
  void* other_nodes = init(table, 16, 1);
  EXPECT_EQ(ask(same, kAllReduce, 1).costs[kTree][kLL], 0);
  EXPECT_EQ(ask(other_ranks, kAllReduce, 1).costs, costs_of_nccl());
  EXPECT_EQ(ask(other_nodes, kAllReduce, 1).costs, costs_of_nccl());
  for (void* context : {same, other_ranks, other_nodes}) tuner_.finalize(context);
}

TEST_P(Plugin, WhatIsNotAvailableStaysSoAndTheNextLineIsTried) {
  void* context = init("allreduce,0,65536,nvls,simple,16,-1,-1,-1,-1\nallreduce,0,65536,ring,ll,2,-1,-1,-1,-1\n");
  Answer answer = ask(context, kAllReduce, 1024);
  EXPECT_EQ(answer.costs[kNvls][kSimple], kNotAvailable);
  EXPECT_EQ(answer.costs[kRing][kLL], 0);
  EXPECT_EQ(answer.num_channels, 2);
  answer = ask(context, kAllReduce, 1024, kRing);  // an NCCL that knows the tree only
  EXPECT_EQ(answer.costs, costs_of_nccl());
  tuner_.finalize(context);
}

TEST_P(Plugin, BadLinesAreToldAndLeftOut) {
  void* context = init(
      "allreduce,0,65536\n"
      "allreduce,0,65536,star,ll,-1,-1,-1\n"
      "allreduce,0,65536,ring,ll,-1,-1,-1,-1,-1,7\n"
      "allreduce,9,5,ring,ll,-1,-1,-1\n"
      "allreduce,0x10,65536,ring,ll,-1,-1,-1\n"
      "allreduce,0,99999999999999999999999,ring,ll,-1,-1,-1\n"
      ",,,,,,,,,\n"
      " allreduce , 0 , 65536 , ring , ll , 4 , -1 , -1 \r\n");
  EXPECT_EQ(ask(context, kAllReduce, 1).costs[kRing][kLL], 0);
  for (const char* words :
       {"csv:1: left out: fewer than 8", "csv:2: left out: algorithm \"star\"", "csv:3: left out: more than",
        "csv:4: left out: min_bytes", "csv:5", "csv:6", "csv:7", "1 rules from"})
    EXPECT_NE(log_text.find(words), std::string::npos) << words << "\n" << log_text;
  tuner_.finalize(context);
}

TEST_P(Plugin, WithoutATableNcclChoosesAsBefore) {
  ::unsetenv("NCCL_TUNER_CONFIG_FILE");
  void* context = nullptr;
  EXPECT_EQ(tuner_.init(&context, 1, 8, 1, log_line, nullptr, nullptr), kSuccess);
  EXPECT_EQ(ask(context, kAllReduce, 1).costs, costs_of_nccl());
  EXPECT_NE(log_text.find("2 TUNER/Lane: NCCL_TUNER_CONFIG_FILE is not set"), std::string::npos);
  tuner_.finalize(context);
  ::setenv("NCCL_TUNER_CONFIG_FILE", "/nowhere/table.csv", 1);
  EXPECT_EQ(tuner_.init(&context, 1, 8, 1, nullptr, nullptr, nullptr), kSuccess) << "no one to tell it to";
  EXPECT_EQ(ask(context, kAllReduce, 1).costs, costs_of_nccl());
  tuner_.finalize(context);
}

TEST_P(Plugin, NothingIsNotFollowed) {
  EXPECT_EQ(tuner_.init(nullptr, 1, 8, 1, log_line, nullptr, nullptr), kInvalidArgument);
  EXPECT_EQ(tuner_.finalize(nullptr), kSuccess);
  EXPECT_EQ(ask(nullptr, kAllReduce, 1).costs, costs_of_nccl());
  void* context = init("allreduce,0,65536,ring,ll,-1,-1,-1\n");
  EXPECT_EQ(tuner_.get_coll_info(context, kAllReduce, 1, 1, nullptr, 7, 3, 0, nullptr), kSuccess);
  tuner_.finalize(context);
}

TEST_P(Plugin, ManyCommunicatorsAndThreads) {
  std::vector<void*> contexts;
  for (size_t i = 0; i < 8; ++i)
    contexts.push_back(init("allreduce,0,65536,tree,ll," + std::to_string(i + 1) + ",-1,-1,-1,-1\n"));
  std::vector<std::thread> threads;
  std::array<int, 8> wrong{};
  for (size_t i = 0; i < 8; ++i)
    threads.emplace_back([&, i] {
      for (int k = 0; k < 2000; ++k) {
        CostTable costs = costs_of_nccl();
        int num_channels = 0;
        tuner_.get_coll_info(contexts[(i + static_cast<size_t>(k)) % 8], kAllReduce, 1024, 1,
                             reinterpret_cast<float**>(costs.data()), kNumAlgorithms, kNumProtocols, 0, &num_channels);
        wrong[i] += costs[kTree][kLL] != 0 || num_channels != static_cast<int>((i + static_cast<size_t>(k)) % 8 + 1);
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const int each : wrong) EXPECT_EQ(each, 0);
  for (void* context : contexts) tuner_.finalize(context);
}

// What `lane tune nccl` writes is what the plugin acts on.
TEST_P(Plugin, ReadsTheTableThatTuneWrites) {
  lane::net::NcclTuning tuning;
  tuning.groups.push_back(
      {.collective = "all_reduce",
       .type = "bfloat16",
       .num_ranks = 16,
       .num_nodes = 2,
       .ranges = {{1024, 65536, {"nvls_tree", "simple", 0}}, {65537, 1 << 20, {"ring", "ll128", 8}}}});
  tuning.groups.push_back({.collective = "reduce_scatter",
                           .type = "bfloat16",
                           .num_ranks = 16,
                           .num_nodes = 2,
                           .ranges = {{4096, 8192, {"pat", "simple", 0}}}});
  void* context = init(lane::net::tuner_csv(tuning));
  EXPECT_EQ(log_text.find("left out"), std::string::npos) << log_text;
  EXPECT_EQ(ask(context, kAllReduce, 1023).costs, costs_of_nccl());
  EXPECT_EQ(ask(context, kAllReduce, 1024).costs[kNvlsTree][kSimple], 0);
  EXPECT_EQ(ask(context, kAllReduce, 65536).num_channels, 0);
  EXPECT_EQ(ask(context, kAllReduce, 65537).costs[kRing][kLL128], 0);
  EXPECT_EQ(ask(context, kAllReduce, 1 << 20).num_channels, 8);
  EXPECT_EQ(ask(context, kAllReduce, (1 << 20) + 1).costs, costs_of_nccl());
  EXPECT_EQ(ask(context, kReduceScatter, 5000).costs[kPat][kSimple], 0);
  tuner_.finalize(context);
}

INSTANTIATE_TEST_SUITE_P(Versions, Plugin, testing::Values("ncclTunerPlugin_v5", "ncclTunerPlugin_v6"),
                         [](const auto& info) { return std::string(info.param).substr(16); });

TEST(PluginV6, LeavesChunksToNccl) {
  void* library = ::dlopen(LANE_NCCL_TUNER, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr);
  EXPECT_EQ(static_cast<const TunerV6*>(::dlsym(library, "ncclTunerPlugin_v6"))->get_chunk_size, nullptr);
  ::dlclose(library);
}

TEST(PluginFuzz, DamagedLinesAreRulesOrReasons) {
  const std::string line = "allreduce,65537,1048576,ring,ll128,8,-1,16,-1,0";
  int num_rules = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    std::string text = line;
    for (uint64_t k = 0; k < 1 + lane::random_bits(i, 0) % 3; ++k) {
      const size_t at = lane::random_bits(i, 3 * k + 1) % text.size();
      if (lane::random_bits(i, 3 * k + 2) % 2 == 0)
        text[at] = static_cast<char>(lane::random_bits(i, 3 * k + 3));
      else
        text.insert(at, text.substr(0, lane::random_bits(i, 3 * k + 3) % text.size()));
    }
    Rule rule{};
    std::string why;
    const bool is_rule = parse_rule(text, &rule, &why);
    ASSERT_TRUE(is_rule || !why.empty());
    if (!is_rule) continue;
    ++num_rules;
    ASSERT_LE(rule.min_bytes, rule.max_bytes);
    ASSERT_LT(rule.algorithm, kNumAlgorithms);
    ASSERT_GE(rule.num_channels, -1);
  }
  EXPECT_GT(num_rules, 0);
}

}  // namespace
