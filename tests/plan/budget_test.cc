#include "lane/plan/budget.h"

#include <gtest/gtest.h>

#include "lane/base/error.h"
#include "lane/plan/known_shapes.h"
#include "lane/topology/presets.h"

namespace lane::plan {
namespace {

using topology::Topology;

Work llama(const char* name, int batch = 16) {
  return {.shape = *known_shape(name), .batch = batch, .input_tokens = 2048, .output_tokens = 256};
}

const BudgetRow& row(const PhaseBudget& phase, const std::string& name) {
  for (const BudgetRow& one : phase.rows)
    if (one.name == name) return one;
  throw std::runtime_error("no row " + name);
}

bool has_row(const PhaseBudget& phase, const std::string& name) {
  return std::any_of(phase.rows.begin(), phase.rows.end(), [&](const BudgetRow& one) { return one.name == name; });
}

TEST(Budget, RowsAddUpAndEachHasItsBounds) {
  const Topology cluster = topology::preset("h100-dgx-ndr", 8);
  const Reach reach(cluster);
  for (const Collectives from : {Collectives::kAuto, Collectives::kNccl, Collectives::kLane}) {
    Planner planner(reach, llama("llama-3-70b"), {.collectives = from});
    for (const ParallelPlan plan : {ParallelPlan{8, 1, 1}, {16, 1, 2}, {8, 4, 2}, {4, 3, 1}, {64, 1, 1}}) {
      const Budget budget = planner.budget(plan);
      for (const PhaseBudget* phase : {&budget.decode, &budget.prefill}) {
        double sum = 0;
        for (const BudgetRow& one : phase->rows) {
          sum += one.time.seconds;
          EXPECT_GE(one.time.seconds, 0) << one.name;
          EXPECT_LE(one.time.low_s, one.time.seconds * (1 + 1e-12)) << one.name;
          EXPECT_GE(one.time.high_s, one.time.seconds * (1 - 1e-12)) << one.name;
          EXPECT_LE(one.time.basis, phase->total.basis) << "a sum is as good as its worst part";
        }
        EXPECT_NEAR(sum, phase->total.seconds, 1e-9 * sum);
      }
    }
  }
}

// 70.6e9 weights without the embedding, of 2 bytes, over 8 GPUs at the share of their rate that cuBLAS reads.
TEST(Budget, ADecodeStepReadsTheWeights) {
  const Topology cluster = topology::preset("h100-dgx-ndr", 1);
  const Reach reach(cluster);
  Planner planner(reach, llama("llama-3-70b", 1));
  const double weights = 80.0 * (8192.0 * 128 * (2 * 64 + 2 * 8) + 3.0 * 8192 * 28672) + 128256.0 * 8192;
  const Budget budget = planner.budget({8, 1, 1});
  EXPECT_NEAR(row(budget.decode, "matmul").time.seconds, weights * 2 / 8 / (3.35e12 * kReadShare.expected), 1e-6);
  const double kv = 2.0 * 80 * 1 * 128 * (2048 + 128) * 2;
  EXPECT_NEAR(row(budget.decode, "attention").time.seconds, kv / (3.35e12 * kReadShare.expected), 1e-9);
  EXPECT_EQ(budget.decode.message_bytes, 8192 * 2);
  EXPECT_DOUBLE_EQ(budget.decode.num_messages, 161);
  EXPECT_EQ(budget.decode.micro_batches, 1);
  EXPECT_FALSE(has_row(budget.decode, "bubbles"));
}

TEST(Budget, ALargeBatchIsBoundByArithmetic) {
  const Topology cluster = topology::preset("h100-dgx-ndr", 1);
  const Reach reach(cluster);
  Work work = llama("llama-3-8b", 2048);
  work.input_tokens = 16, work.output_tokens = 16;
  Planner planner(reach, work);
  const Budget budget = planner.budget({8, 1, 1});
  const double elements = 32.0 * (4096.0 * 128 * (2 * 32 + 2 * 8) + 3.0 * 4096 * 14336) + 128256.0 * 4096;
  EXPECT_NEAR(row(budget.decode, "matmul").time.seconds, 2 * elements / 8 * 2048 / (989e12 * kProductShare.expected),
              1e-6);
}

TEST(Budget, APipelineWaitsWhenThereIsTooLittleWork) {
  const Topology cluster = topology::preset("h100-dgx-ndr", 4);
  const Reach reach(cluster);
  Planner one(reach, llama("llama-3-70b", 1)), sixteen(reach, llama("llama-3-70b", 16));
  const Budget alone = one.budget({8, 4, 1}), filled = sixteen.budget({8, 4, 1});
  EXPECT_TRUE(has_row(alone.decode, "bubbles")) << "one sequence is on one stage at a time";
  EXPECT_GT(row(alone.decode, "bubbles").time.seconds, 0.6 * alone.decode.total.seconds);
  EXPECT_FALSE(has_row(filled.decode, "bubbles"));
  EXPECT_EQ(filled.decode.micro_batches, 4);
  EXPECT_GT(row(filled.decode, "transfers").time.seconds, 0);
  // A token waits for all stages: more of them do not shorten a step of one sequence.
  EXPECT_GT(alone.decode.total.seconds, one.budget({8, 1, 1}).decode.total.seconds);
}

TEST(Budget, MemoryIsCountedAndRefused) {
  const Topology cluster = topology::preset("h100-dgx-ndr", 2);
  const Reach reach(cluster);
  Planner planner(reach, llama("llama-3-70b"));
  const MemoryBudget memory = planner.memory({8, 1, 1});
  const double weights = (80.0 * (8192.0 * 128 * (2 * 64 + 2 * 8) + 3.0 * 8192 * 28672) + 2 * 128256.0 * 8192) * 2 / 8;
  EXPECT_NEAR(static_cast<double>(memory.weights), weights, 1);
  EXPECT_EQ(memory.kv, int64_t{2} * 80 * 1 * 128 * (2048 + 256) * 16 * 2);
  EXPECT_EQ(memory.available, int64_t{81559} << 20);
  EXPECT_LT(planner.memory({8, 2, 1}).weights, memory.weights * 0.55);
  try {
    planner.budget({1, 1, 1});
    FAIL() << "140 GB of weights do not fit";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    for (const char* part : {"does not fit", "131.41 GiB", "79.65 GiB", "KV cache"})
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
  EXPECT_FALSE(planner.budget({1, 1, 1}, false).memory.fits());
}

TEST(Budget, RefusesWhatCannotBe) {
  const Topology cluster = topology::preset("h100-dgx-ndr", 1);
  const Reach reach(cluster);
  Planner planner(reach, llama("llama-3-8b"));
  EXPECT_THROW(planner.budget({16, 1, 1}), Error) << "more ranks than GPUs";
  EXPECT_THROW(planner.budget({3, 1, 1}), Error) << "heads do not come out even";
  EXPECT_THROW(planner.budget({1, 64, 1}), Error) << "more stages than layers";
  Topology strange = cluster;
  for (topology::Gpu& gpu : strange.hosts[0].gpus) gpu.name = "Graphics 3000";
  const Reach elsewhere(strange);
  EXPECT_THROW(Planner(elsewhere, llama("llama-3-8b")), Error);
  EXPECT_NO_THROW(Planner(elsewhere, llama("llama-3-8b"), {.peaks = {"given", 1e14, 1e12, 0}}));
  Topology mixed = cluster;
  mixed.hosts[0].gpus[3].name = "NVIDIA H200";
  const Reach both(mixed);
  EXPECT_THROW(Planner(both, llama("llama-3-8b")), Error);
  mixed.hosts[0].gpus[3].is_busy = true;
  EXPECT_EQ(Planner(both, llama("llama-3-8b")).num_gpus(), 7) << "who keeps a reference sees the change";
  for (topology::Gpu& gpu : strange.hosts[0].gpus) gpu.is_busy = true;
  EXPECT_THROW(Planner(elsewhere, llama("llama-3-8b"), {.peaks = {"given", 1e14, 1e12, 0}}), Error);
}

TEST(Budget, CrossingATierCosts) {
  const Topology cluster = topology::preset("perlmutter-a100-slingshot", 16);
  const Reach reach(cluster);
  Planner planner(reach, llama("llama-3-70b"), {.collectives = Collectives::kLane});
  const Budget inside = planner.budget({4, 2, 1}, false), wide = planner.budget({64, 1, 1});
  EXPECT_EQ(inside.widest, Tier::kNvlink);
  EXPECT_TRUE(inside.crossings.empty());
  EXPECT_EQ(wide.widest, Tier::kSpine);
  ASSERT_EQ(wide.crossings.size(), 2u);
  EXPECT_EQ(wide.crossings[0].tier, Tier::kNvlink);
  EXPECT_EQ(wide.crossings[1].tier, Tier::kLeaf);
  EXPECT_GT(wide.crossings[0].cost.seconds, wide.crossings[1].cost.seconds);
  EXPECT_GE(wide.crossings[1].cost.seconds, 0) << "the way over the spine hides behind a sender's other messages";
  EXPECT_GT(row(wide.decode, "all-reduce spine").time.seconds, 0);
}

TEST(Budget, SaysWhatCostsMost) {
  const Topology cluster = topology::preset("h100-dgx-ndr", 8);
  const Reach reach(cluster);
  Planner planner(reach, llama("llama-3-70b"), {.collectives = Collectives::kNccl});
  const std::string text = planner.advice(planner.budget({64, 1, 1}));
  EXPECT_EQ(text.find("all-reduce leaf takes most of a decode step"), 0u) << text;
  EXPECT_NE(text.find("With half of the GPUs a replica (TP 32 x PP 1)"), std::string::npos) << text;
  EXPECT_NE(text.find("in place of NCCL's would save"), std::string::npos) << text;
}

TEST(Estimate, ASumIsAsGoodAsItsWorstPart) {
  const Estimate a{2, 1, 4, Basis::kMeasured, "a table"}, b{3, 3, 5, Basis::kDatasheet, "a peak"};
  const Estimate sum = a + b;
  EXPECT_DOUBLE_EQ(sum.seconds, 5);
  EXPECT_DOUBLE_EQ(sum.low_s, 4);
  EXPECT_DOUBLE_EQ(sum.high_s, 9);
  EXPECT_EQ(sum.basis, Basis::kDatasheet);
  EXPECT_EQ(sum.source, "a table; a peak");
  EXPECT_EQ((a + Estimate{}).basis, Basis::kMeasured);
  EXPECT_EQ((Estimate{} + a).source, "a table");
  EXPECT_DOUBLE_EQ(a.times(3).high_s, 12);
  for (const Basis basis : {Basis::kMeasured, Basis::kInterpolated, Basis::kExtrapolated, Basis::kDatasheet})
    EXPECT_FALSE(name_of(basis).empty());
}

TEST(GpuPeaks, AreFoundByTheDriversNames) {
  EXPECT_EQ(gpu_peaks("NVIDIA H100 80GB HBM3").name, "H100");
  EXPECT_EQ(gpu_peaks("NVIDIA H100 PCIe").name, "H100 PCIe");
  EXPECT_EQ(gpu_peaks("NVIDIA A100-SXM4-40GB").read_bytes_per_s, 1.555e12);
  EXPECT_EQ(gpu_peaks("NVIDIA GB200").name, "GB200");
  EXPECT_EQ(gpu_peaks("NVIDIA H200").name, "H200");
  EXPECT_EQ(gpu_peaks("NVIDIA L40S").name, "L40S");
  EXPECT_THROW(gpu_peaks("Voodoo 2"), Error);
}

}  // namespace
}  // namespace lane::plan
