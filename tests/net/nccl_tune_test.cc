#include "lane/net/nccl_tune.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "lane/base/error.h"
#include "lane/base/random.h"

namespace lane::net {
namespace {

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

using TimeOf = std::function<double(const std::string& setting, int64_t bytes)>;

// Runs of each setting at each size, `noise` apart.
std::vector<SweepFile> sweep(const std::vector<std::string>& settings, const std::vector<int64_t>& sizes, int repeats,
                             double noise, const TimeOf& time_of) {
  std::vector<SweepFile> files;
  for (const std::string& setting : settings)
    for (int repeat = 1; repeat <= repeats; ++repeat) {
      ImportedRun run{.source = "x", .tool = "nccl-tests", .num_ranks = 16, .num_nodes = 2};
      for (const int64_t bytes : sizes) {
        const double us = time_of(setting, bytes);
        if (us <= 0) continue;
        const double of_run =
            random_uniform(hash_name(setting, static_cast<uint64_t>(bytes)), static_cast<uint64_t>(repeat));
        run.rows.push_back(
            {.test = "all_reduce", .type = "bfloat16", .bytes = bytes, .time_us = us * (1 + noise * (of_run - 0.5))});
      }
      files.push_back({"all_reduce." + setting + ".sweep.r" + std::to_string(repeat) + ".json", {run}});
    }
  return files;
}

const std::vector<int64_t> kSizes = {1024, 4096, 16384, 65536, 262144, 1048576, 4194304};

// A tree is fast at first, a ring later; NCCL's own choice is right but from 64 KiB to 1 MiB.
double two_node_time(const std::string& setting, int64_t bytes) {
  const auto b = static_cast<double>(bytes);
  const double tree = 25 + b / 8000, ring = 60 + b / 30000;
  if (setting == "tree_ll") return tree;
  if (setting == "ring_simple") return ring;
  if (bytes < 65536) return tree;
  return bytes <= 1048576 ? 1.3 * std::min(tree, ring) : ring;
}

TEST(NcclSetting, NamesGoThereAndBack) {
  for (const char* name :
       {"default", "ring_ll", "tree_ll128", "nvls_tree_simple", "collnet_chain_simple", "ring_simple_c8"})
    EXPECT_EQ(name_of(parse_nccl_setting(name)), name);
  EXPECT_EQ(parse_nccl_setting("nvls_tree_simple_c16").num_channels, 16);
  for (const char* name : {"", "ring", "ring_auto", "auto_ll", "ring_ll_c0x", "ring_ll_c99", "ring_ll_c-1"})
    EXPECT_NE(message_of([&] { parse_nccl_setting(name); }).find("expected default or"), std::string::npos) << name;
  EXPECT_EQ(algorithm_token("nvls_tree"), "NVLSTree");
  EXPECT_EQ(algorithm_of_token("NVLSTREE"), "nvls_tree");
  EXPECT_EQ(algorithm_of_token("auto"), "") << "there is no such token, and NCCL refuses to start with it";
  EXPECT_EQ(protocol_of_token("simple"), "simple");
  EXPECT_TRUE(can_run("all_reduce", {"tree", "ll"}));
  EXPECT_FALSE(can_run("all_gather", {"tree", "ll"}));
  EXPECT_FALSE(can_run("all_reduce", {"nvls", "ll"}));
}

TEST(NcclTune, ChoosesOnlyWhatBeatsTheDefaultBeyondNoise) {
  const NcclTuning tuning = tune_nccl(sweep({"default", "tree_ll", "ring_simple"}, kSizes, 7, 0.01, two_node_time), {});
  ASSERT_EQ(tuning.groups.size(), 1u);
  const TunedGroup& group = tuning.groups[0];
  ASSERT_EQ(group.sizes.size(), kSizes.size());
  for (const TunedSize& size : group.sizes) {
    const bool was_wrong = size.bytes >= 65536 && size.bytes <= 1048576;
    EXPECT_EQ(!size.chosen.is_default(), was_wrong) << size.bytes << " " << size.why;
    EXPECT_EQ(size.standard.num_runs, 7);
  }
  // 64 KiB and 256 KiB: tree, 33 and 58 us; 1 MiB: ring, 95 us. Lines in the middle of the logarithms; none beyond.
  ASSERT_EQ(group.ranges.size(), 2u);
  EXPECT_EQ(name_of(group.ranges[0].setting), "tree_ll");
  EXPECT_EQ(group.ranges[0].min_bytes, 32769);
  EXPECT_EQ(group.ranges[0].max_bytes, 524288);
  EXPECT_EQ(name_of(group.ranges[1].setting), "ring_simple");
  EXPECT_EQ(group.ranges[1].min_bytes, 524289);
  EXPECT_EQ(group.ranges[1].max_bytes, 2097152);
  EXPECT_TRUE(group.has_ring_and_tree);
  EXPECT_EQ(group.ring_from_bytes, 1048576);
  EXPECT_NE(tuning_text(tuning).find("ring at all sizes from 1.00 MiB on"), std::string::npos) << tuning_text(tuning);
  const std::string csv = tuner_csv(tuning);
  EXPECT_NE(csv.find("\nallreduce,32769,524288,tree,ll,-1,2,16,-1,-1\n"), std::string::npos) << csv;
  EXPECT_NE(csv.find("\nallreduce,524289,2097152,ring,simple,-1,2,16,-1,-1\n"), std::string::npos) << csv;
}

TEST(NcclTune, NoiseKeepsTheDefault) {
  // 10 % faster, but runs are 30 % apart.
  const auto time_of = [](const std::string& setting, int64_t) { return setting == "default" ? 20.0 : 18.0; };
  const NcclTuning noisy = tune_nccl(sweep({"default", "tree_ll"}, kSizes, 7, 0.6, time_of), {});
  for (const TunedSize& size : noisy.groups[0].sizes)
    EXPECT_TRUE(size.chosen.is_default()) << size.gain << " " << size.bound;
  const NcclTuning quiet = tune_nccl(sweep({"default", "tree_ll"}, kSizes, 7, 0.01, time_of), {});
  ASSERT_EQ(quiet.groups[0].ranges.size(), 1u) << "one setting at all sizes is one range";
  EXPECT_EQ(quiet.groups[0].ranges[0].min_bytes, kSizes.front());
  EXPECT_EQ(quiet.groups[0].ranges[0].max_bytes, kSizes.back());
  const auto little = [](const std::string& setting, int64_t) { return setting == "default" ? 20.0 : 19.5; };
  EXPECT_TRUE(tune_nccl(sweep({"default", "tree_ll"}, kSizes, 7, 0.001, little), {}).groups[0].ranges.empty())
      << "2.5 % are not worth it";
}

TEST(NcclTune, NothingChangedGivesNoRange) {
  int with_range = 0;
  for (uint64_t trial = 0; trial < 100; ++trial) {
    const auto time_of = [&](const std::string& setting, int64_t bytes) {
      return 20 * (1 + 0.0001 * random_uniform(hash_name(setting, trial), static_cast<uint64_t>(bytes)));
    };
    with_range +=
        !tune_nccl(sweep({"default", "tree_ll", "ring_ll"}, kSizes, 7, 0.04, time_of), {}).groups[0].ranges.empty();
  }
  EXPECT_LE(with_range, 5);
}

TEST(NcclTune, OneRunSaysNothingUnlessItsNoiseIsStated) {
  const auto files = sweep({"default", "tree_ll", "ring_simple"}, kSizes, 1, 0, two_node_time);
  const NcclTuning unknown = tune_nccl(files, {});
  EXPECT_TRUE(unknown.groups[0].ranges.empty());
  EXPECT_NE(unknown.groups[0].sizes[3].why.find("noise is not known"), std::string::npos);
  EXPECT_EQ(tune_nccl(files, {.noise = 0.02}).groups[0].ranges.size(), 2u);
}

TEST(NcclTune, NeighboursThatAreAlmostAsGoodShareASetting) {
  // ring_ll is 1 % better than tree_ll at one size in the middle: not worth a range of its own.
  const auto time_of = [](const std::string& setting, int64_t bytes) {
    if (setting == "default") return 30.0;
    if (setting == "ring_ll") return bytes == 65536 ? 19.8 : 40.0;
    return 20.0;
  };
  const NcclTuning tuning = tune_nccl(sweep({"default", "tree_ll", "ring_ll"}, kSizes, 7, 0.002, time_of), {});
  ASSERT_EQ(tuning.groups[0].ranges.size(), 1u);
  EXPECT_EQ(name_of(tuning.groups[0].ranges[0].setting), "tree_ll");
  EXPECT_NE(tuning.groups[0].sizes[3].why.find("one range with its neighbours"), std::string::npos);
}

TEST(NcclTune, WhatNcclSaysItRanCounts) {
  auto files = sweep({"default", "nvls_simple"}, kSizes, 7, 0.01,
                     [](const std::string& setting, int64_t) { return setting == "default" ? 20.0 : 10.0; });
  ImportedRun proof{.source = "x", .tool = "nccl-tests", .num_ranks = 16, .num_nodes = 2};
  for (const int64_t bytes : kSizes) {
    proof.chosen.push_back({"all_reduce", "ring", "ll", bytes, 2});
    proof.rows.push_back({.test = "all_reduce", .type = "bfloat16", .bytes = bytes, .time_us = 0.001});
  }
  files.push_back({"all_reduce.nvls_simple.sweep.proof.log", {proof}});
  files.push_back({"all_reduce.default.sweep.proof.log", {proof}});
  const NcclTuning tuning = tune_nccl(files, {});
  EXPECT_TRUE(tuning.groups[0].ranges.empty()) << "it was a ring, whatever was asked for";
  EXPECT_EQ(tuning.groups[0].sizes[0].standard_ran, "ring/ll");
  EXPECT_EQ(tuning.groups[0].sizes[0].standard.num_runs, 7) << "a proof is no measurement";
  EXPECT_NE(tuning.notes.at(0).find("left out: NCCL ran ring/ll"), std::string::npos);
}

TEST(NcclTune, NamesAndEnvironmentsMustAgree) {
  auto files = sweep({"default", "tree_ll"}, {1024}, 3, 0.01, two_node_time);
  files[4].runs[0].environment = {{"NCCL_ALGO", "Ring"}, {"NCCL_PROTO", "LL"}};
  files[5].runs[0].environment = {{"NCCL_ALGO", "Tree"}, {"NCCL_PROTO", "LL"}};
  files.push_back({"results.json", files[5].runs});
  files.push_back({"something.log", files[0].runs});
  const NcclTuning tuning = tune_nccl(files, {});
  EXPECT_EQ(tuning.groups[0].sizes[0].forced[0].num_runs, 3) << "two by their names, one by its environment alone";
  ASSERT_EQ(tuning.notes.size(), 2u);
  EXPECT_NE(tuning.notes[0].find("its name says tree_ll, but its environment ring_ll"), std::string::npos);
  EXPECT_NE(tuning.notes[1].find("something.log: left out"), std::string::npos);
}

TEST(NcclTune, WrongResultsAreNoCandidate) {
  auto files = sweep({"default", "ring_ll128"}, kSizes, 7, 0.01,
                     [](const std::string& setting, int64_t) { return setting == "default" ? 20.0 : 10.0; });
  for (SweepFile& file : files)
    if (file.name.find("ring") != std::string::npos) file.runs[0].failures = {"out of bounds values: 3"};
  EXPECT_TRUE(tune_nccl(files, {}).groups[0].ranges.empty());
}

TEST(NcclTune, ModesChangeTheSizesOnly) {
  const auto files = sweep({"default", "tree_ll", "ring_simple"}, kSizes, 7, 0.01, two_node_time);
  EXPECT_EQ(tune_nccl(files, sizes_of_mode("training")).groups[0].sizes.size(), 2u);
  EXPECT_EQ(tune_nccl(files, sizes_of_mode("inference")).groups[0].sizes.size(), kSizes.size());
  EXPECT_EQ(sizes_of_mode("inference").max_bytes, int64_t{128} << 20);
}

TEST(NcclTune, WithoutADefaultThereIsNothingToCompareWith) {
  const auto files = sweep({"tree_ll", "ring_simple"}, kSizes, 7, 0.01, two_node_time);
  EXPECT_NE(message_of([&] { tune_nccl(files, {}); }).find("NCCL's own choice was not measured"), std::string::npos);
}

TEST(NcclTune, ScriptsAreQuotedAndTheUndoIsWhole) {
  const NcclTuning tuning = tune_nccl(sweep({"default", "tree_ll", "ring_simple"}, kSizes, 7, 0.01, two_node_time), {});
  const std::string text = tuner_environment(tuning, "/a b/it's.csv", "/lib/liblane-nccl-tuner.so");
  EXPECT_NE(text.find("export NCCL_TUNER_CONFIG_FILE='/a b/it'\\''s.csv'\n"), std::string::npos) << text;
  EXPECT_NE(text.find("export NCCL_TUNER_PLUGIN='/lib/liblane-nccl-tuner.so'\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("export NCCL_ALGO"), std::string::npos);
  EXPECT_NE(tuner_undo().find("unset NCCL_TUNER_PLUGIN NCCL_TUNER_CONFIG_FILE\n"), std::string::npos);
  const auto same = [](const std::string&, int64_t) { return 20.0; };
  const std::string nothing =
      tuner_environment(tune_nccl(sweep({"default", "tree_ll"}, kSizes, 7, 0.01, same), {}), "x", "y");
  EXPECT_EQ(nothing.find("export"), std::string::npos) << nothing;
}

TEST(NcclTune, LanesOwnTimesStandBeside) {
  NcclTuning tuning = tune_nccl(sweep({"default", "tree_ll"}, {16384, 65536}, 7, 0.01, two_node_time), {});
  TuningTable table;
  TuningCurve direct{"direct", {{16384, 5.5e-6, 5.4e-6, 5.6e-6, 6e-6}}},
      ring{"ring", {{16384, 9e-6, 9e-6, 9e-6, 9e-6}}};
  TuningEntry entry;
  entry.ranks_per_node = {8, 8};
  entry.rows.push_back({plan::Collective::kAllReduce, 2, {direct, ring}});
  table.merge(entry);
  tuning.others = others_of(table);
  ASSERT_EQ(tuning.others.size(), 1u);
  EXPECT_EQ(tuning.others[0].num_ranks, 16);
  EXPECT_NEAR(tuning.others[0].median_us, 5.5, 1e-9);
  EXPECT_NE(tuning_text(tuning).find("5.50 us  lane direct"), std::string::npos) << tuning_text(tuning);
  EXPECT_EQ(to_json(tuning)["groups"][0]["sizes"][0]["beside"]["name"], "lane direct");
}

}  // namespace
}  // namespace lane::net
