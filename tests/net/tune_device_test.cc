// What `lane tune --device cuda` keeps of a measurement. It needs no GPU.
#include "lane/net/tune_device.h"

#include <gtest/gtest.h>

#include "lane/base/error.h"

namespace lane::net {
namespace {

AllReduceRow row(const std::string& algorithm, double us, int64_t bytes, DType dtype = DType::kBF16) {
  AllReduceRow result{.bytes = bytes, .count = bytes / size_of(dtype), .dtype = dtype, .algorithm = algorithm};
  result.mode = "graph";
  result.time = measure({us * 1e-6, us * 1e-6});
  return result;
}

std::vector<AllReduceRow> rows_at(int64_t bytes, double one_shot_us, double two_shot_us, DType dtype = DType::kBF16) {
  AllReduceRow chosen = row("auto", 1, bytes, dtype), floor = row("empty kernel", 0.1, bytes, dtype);
  chosen.runs = "one_shot";
  floor.is_floor = true;
  AllReduceRow refused = row("nccl", 0, bytes, dtype);
  refused.why_not = "no NCCL was found", refused.time = {};
  return {chosen, row("one_shot", one_shot_us, bytes, dtype), row("two_shot", two_shot_us, bytes, dtype), refused,
          floor};
}

TEST(TuneDevice, KeepsTheAlgorithmsAndNamesTheFastest) {
  TuneResult result;
  add_measured(rows_at(2048, 8, 4), result);
  add_measured(rows_at(1024, 3, 6), result);
  add_measured(rows_at(1024, 5, 6, DType::kF32), result);

  ASSERT_EQ(result.lines.size(), 3u);
  const TuneLine& line = result.lines[0];
  EXPECT_EQ(line.winner, "two_shot");
  EXPECT_EQ(line.of_model, "one_shot");
  EXPECT_DOUBLE_EQ(line.winner_s, 4e-6);
  EXPECT_DOUBLE_EQ(line.of_model_s, 8e-6);
  EXPECT_EQ(line.num_measured, 2);
  EXPECT_EQ(line.num_passed_over, 1);
  EXPECT_EQ(line.bytes, 2048);

  const TuningRow* narrow = result.entry.find(plan::Collective::kAllReduce, 2);
  const TuningRow* wide = result.entry.find(plan::Collective::kAllReduce, 1);
  ASSERT_TRUE(narrow != nullptr && wide != nullptr);
  EXPECT_EQ(narrow->curves.size(), 2u);  // neither auto nor the floor nor what could not run
  ASSERT_NE(narrow->find("one_shot"), nullptr);
  ASSERT_EQ(narrow->find("one_shot")->points.size(), 2u);
  EXPECT_EQ(narrow->find("one_shot")->points[0].bytes, 1024);
  EXPECT_DOUBLE_EQ(narrow->find("one_shot")->points[1].median_s, 8e-6);
  EXPECT_EQ(wide->find("two_shot")->points.size(), 1u);

  // What it wrote can be read again.
  result.entry.hardware = {"Test CPU", 8, "cuda: NVIDIA H200, peer memory (VMM)"};
  result.entry.ranks_per_node = {4};
  TuningTable table;
  table.merge(result.entry);
  EXPECT_EQ(TuningTable::parse(table.to_text(), "tuning.json").entries(), table.entries());
}

TEST(TuneDevice, ATypeOfTheSameWidthReplaces) {
  TuneResult result;
  add_measured(rows_at(1024, 3, 6), result);
  add_measured(rows_at(1024, 7, 6, DType::kF16), result);
  ASSERT_EQ(result.entry.rows.size(), 1u);
  ASSERT_EQ(result.entry.rows[0].find("one_shot")->points.size(), 1u);
  EXPECT_DOUBLE_EQ(result.entry.rows[0].find("one_shot")->points[0].median_s, 7e-6);
}

TEST(TuneDevice, NothingThatRanIsNoLine) {
  AllReduceRow refused = row("one_shot", 0, 64);
  refused.why_not = "the GPUs do not reach each other", refused.time = {};
  TuneResult result;
  add_measured({refused}, result);
  EXPECT_TRUE(result.lines.empty());
  EXPECT_TRUE(result.entry.rows.empty());
}

}  // namespace
}  // namespace lane::net
