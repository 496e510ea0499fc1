// Which all-reduce runs on GPUs: a pure function of the group, the size and what was measured. It needs no GPU.
#include "lane/comm/cuda/choice.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lane/base/error.h"

namespace lane::cuda {
namespace {

using plan::Collective;

const TuningHardware kHost{"Test CPU", 8, "shared memory"};

Situation h200(int ranks_per_node, const TuningTable& table = {}, int num_nodes = 1) {
  const GpuGroup group{"NVIDIA H200", ranks_per_node, num_nodes};
  return {.ranks_per_node = ranks_per_node,
          .num_nodes = num_nodes,
          .has_nccl = true,
          .gpu = group.gpu,
          .measured = find_measured(group, hardware_of_gpus(kHost, group.gpu, "peer memory (VMM)"), table)};
}

Candidate find(const std::vector<Candidate>& all, Algorithm algorithm) {
  for (const Candidate& candidate : all)
    if (candidate.choice.algorithm == algorithm) return candidate;
  ADD_FAILURE() << "not among the candidates";
  return {};
}

TuningPoint point(int64_t bytes, double us) { return {bytes, us * 1e-6, us * 1e-6, us * 1e-6, us * 1e-6}; }

// As `lane tune` would write it on four GPUs.
TuningTable measured_here(int partial_scale, std::vector<TuningCurve> curves, const std::string& gpu = "NVIDIA H200") {
  TuningTable table;
  table.merge({hardware_of_gpus(kHost, gpu, "peer memory (VMM)"),
               {4},
               {},
               {{Collective::kAllReduce, partial_scale, std::move(curves)}}});
  return table;
}

TEST(Choice, NamesComeBack) {
  for (const char* name : {"one_shot", "two_shot", "hier:two_shot/one_shot", "hier:two_shot/recursive_doubling",
                           "hier:two_shot/halving_doubling", "two_shot_fp8", "two_shot_multicast", "proxy", "nccl",
                           "two_shot:64x512", "hier:two_shot/one_shot:8x32"})
    EXPECT_EQ(name_of(choice_from_name(name)), name);
  for (const char* bad :
       {"", "ring", "one_shot:", "one_shot:64", "one_shot:0x64", "one_shot:8x33", "one_shot:8x1024"}) {
    try {
      choice_from_name(bad);
      ADD_FAILURE() << bad << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find("two_shot/one_shot"), std::string::npos) << error.what();
    }
  }
}

TEST(Choice, TheModelDecidesWhereNothingWasMeasured) {
  const Situation three = h200(3);
  EXPECT_EQ(three.measured, nullptr);
  for (const Candidate& candidate : candidates(three, 4096, DType::kBF16)) EXPECT_EQ(candidate.source, "cost model");
  EXPECT_EQ(candidates(three, 4096, DType::kBF16)[0].choice.algorithm, Algorithm::kOneShot);
  EXPECT_EQ(candidates(three, 4 << 20, DType::kBF16)[0].choice.algorithm, Algorithm::kTwoShot);
  const std::vector<Candidate> across = candidates(h200(4, {}, 2), 4096, DType::kBF16);
  EXPECT_EQ(across[0].choice.algorithm, Algorithm::kHierOneShot);
  EXPECT_NE(find(across, Algorithm::kOneShot).why_not, "");
  EXPECT_TRUE(across.front().why_not.empty() && !across.back().why_not.empty());
}

// The time that each width of partial sums has on its way between nodes, in the model.
TEST(Choice, TheModelKnowsThatPartialSumsOf16BitsAreWide) {
  const Situation across = h200(4, {}, 2);
  const double narrow = find(candidates(across, 1 << 20, DType::kBF16), Algorithm::kHierOneShot).expected_s;
  const double wide = find(candidates(across, 1 << 20, DType::kF32), Algorithm::kHierOneShot).expected_s;
  EXPECT_GT(narrow, wide);
}

TEST(Choice, ShippedTablesAreInOrder) {
  for (const ShippedCurve& curve : shipped_curves()) {
    EXPECT_EQ(name_of(choice_from_name(std::string(curve.algorithm))), curve.algorithm);
    EXPECT_TRUE(curve.element_bits == 16 || curve.element_bits == 32);
    ASSERT_FALSE(curve.points.empty());
    for (size_t i = 0; i < curve.points.size(); ++i) {
      EXPECT_GT(curve.points[i].us, 0.5);
      EXPECT_GT(curve.points[i].bytes, i == 0 ? 0 : curve.points[i - 1].bytes) << curve.algorithm;
    }
  }
}

TEST(Choice, AShippedTableIsReadBetweenItsSizes) {
  const Situation four = h200(4);
  ASSERT_NE(four.measured, nullptr);
  EXPECT_EQ(candidates(four, 64 << 10, DType::kBF16)[0].source, "measured on 4x NVIDIA H200");
  const auto seconds = [&](int64_t bytes) {
    return find(candidates(four, bytes, DType::kF16), Algorithm::kTwoShot).expected_s;
  };
  const int64_t low = 1 << 20, high = 2 << 20;
  const auto middle = static_cast<int64_t>(std::sqrt(static_cast<double>(low) * static_cast<double>(high)));
  EXPECT_NEAR(seconds(middle), std::sqrt(seconds(low) * seconds(high)), 1e-11);
  // Beyond them, the model's shape goes on, down to a single byte and to none.
  EXPECT_GT(seconds(256 << 20), 32 * seconds(4 << 20));
  EXPECT_LT(seconds(1), seconds(64 << 10));
  EXPECT_GT(seconds(0), 1e-6);
  for (const int64_t bytes : {1 << 10, 64 << 10})
    EXPECT_EQ(candidates(four, bytes, DType::kBF16)[0].choice.algorithm, Algorithm::kOneShot) << bytes;
  for (const int64_t bytes : {1 << 20, 4 << 20})
    EXPECT_EQ(candidates(four, bytes, DType::kBF16)[0].choice.algorithm, Algorithm::kTwoShot) << bytes;
}

TEST(Choice, WhatWasMeasuredHereComesFirst) {
  const TuningTable table = measured_here(2, {{"two_shot", {point(1024, 2)}}, {"one_shot", {point(1024, 9)}}});
  const std::vector<Candidate> all = candidates(h200(4, table), 1024, DType::kBF16);
  EXPECT_EQ(all[0].choice.algorithm, Algorithm::kTwoShot);
  EXPECT_EQ(all[0].source, "measured here");
  EXPECT_DOUBLE_EQ(all[0].expected_s, 2e-6);
  EXPECT_EQ(all[1].choice.algorithm, Algorithm::kOneShot);
  // NCCL was not, and the model, which thinks it fast, is not mixed with the world.
  EXPECT_EQ(all[2].choice.algorithm, Algorithm::kNccl);
  EXPECT_EQ(all[2].source, "cost model");
  EXPECT_TRUE(all[2].why_not.empty());
  // A table of another group is no table for this one.
  EXPECT_EQ(h200(5, table).measured, nullptr);
}

TEST(Choice, EachWidthHasItsRow) {
  const TuningTable table = measured_here(1, {{"nccl", {point(1024, 1)}}, {"no such thing", {point(1024, 0.1)}}});
  const Situation four = h200(4, table);
  for (const DType type : {DType::kF32, DType::kI32})
    EXPECT_EQ(candidates(four, 1024, type)[0].choice.algorithm, Algorithm::kNccl);
  for (const DType type : {DType::kBF16, DType::kF16})
    EXPECT_EQ(candidates(four, 1024, type)[0].source, "measured on 4x NVIDIA H200");
  Situation without = four;
  without.has_nccl = false;  // what cannot run is not chosen, however fast it was
  EXPECT_EQ(candidates(without, 1024, DType::kF32)[0].choice.algorithm, Algorithm::kOneShot);
}

TEST(Choice, ATableOfOtherGpusIsLeftAlone) {
  const TuningTable table = measured_here(1, {{"nccl", {point(1024, 1)}}}, "NVIDIA H100 80GB HBM3");
  EXPECT_NE(candidates(h200(4, table), 1024, DType::kF32)[0].choice.algorithm, Algorithm::kNccl);
  EXPECT_EQ(name_of_gpus({"NVIDIA H200", "NVIDIA H200"}), "NVIDIA H200");
  const std::string mixed = name_of_gpus({"NVIDIA H200", "NVIDIA A100", "NVIDIA H200"});
  EXPECT_EQ(mixed, "NVIDIA A100 + NVIDIA H200");
  EXPECT_EQ(find_measured({mixed, 4, 1}, kHost, table), nullptr);
}

// The file of `lane tune` keeps CPUs and GPUs apart, and brings both back.
TEST(Choice, TheTuningFileHoldsGpusToo) {
  TuningTable table = measured_here(2, {{"one_shot", {point(1024, 2)}}});
  table.merge({kHost, {4}, {}, {{Collective::kAllReduce, 2, {{"ring", {point(1024, 1)}}}}}});
  table.merge(measured_here(2, {{"one_shot", {point(2048, 3)}}, {"nccl", {point(2048, 8)}}}).entries()[0]);
  const TuningTable read = TuningTable::parse(table.to_text(), "tuning.json");
  EXPECT_EQ(read.entries(), table.entries());
  ASSERT_EQ(read.entries().size(), 2u);
  EXPECT_EQ(read.entries()[0].hardware.transport, "cuda: NVIDIA H200, peer memory (VMM)");
  const std::vector<Candidate> all = candidates(h200(4, read), 2048, DType::kBF16);
  EXPECT_DOUBLE_EQ(all[0].expected_s, 3e-6);
  EXPECT_EQ(all[1].choice.algorithm, Algorithm::kNccl);
}

}  // namespace
}  // namespace lane::cuda
