// `lane tune collectives` and what follows from its table.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "lane/base/file.h"
#include "lane/comm/tuning.h"
#include "tests/support/subprocess.h"

namespace lane {
namespace {

struct Folder {
  std::string path = "/tmp/lane-tune-test-XXXXXX";
  Folder() { EXPECT_NE(::mkdtemp(path.data()), nullptr); }
  ~Folder() { std::filesystem::remove_all(path); }
};

test::Outcome lane_with(const std::string& table, std::vector<std::string> arguments, const std::string& log = "warn") {
  arguments.insert(arguments.begin(), LANE_BINARY);
  return test::run(arguments, {.environment = {{"LANE_TUNING", table}, {"LANE_LOG", log}}});
}

TEST(Tune, MeasuresSavesMergesAndIsUsed) {
  const Folder folder;
  const std::string file = folder.path + "/new/tuning.json";
  const test::Outcome dry = lane_with(file, {"tune", "collectives", "--sizes", "64,4K", "--dry-run"});
  EXPECT_EQ(dry.status, 0) << dry.err;
  EXPECT_NE(dry.out.find("nothing was measured"), std::string::npos) << dry.out;
  EXPECT_FALSE(file_exists(file));

  const std::vector<std::string> tune = {"tune", "collectives", "--time-limit", "0.02", "--confidence", "0.5"};
  std::vector<std::string> first = tune, second = tune;
  first.insert(first.end(), {"--sizes", "64,4K"});
  second.insert(second.end(), {"--sizes", "1K", "--dtype", "float32"});
  const test::Outcome run = lane_with(file, first);
  EXPECT_EQ(run.status, 0) << run.err;
  for (const char* words : {"the cost model's choice", "Constants of the cost model", "saved in "})
    EXPECT_NE(run.out.find(words), std::string::npos) << run.out;
  EXPECT_EQ(lane_with(file, second).status, 0);

  const TuningTable table = TuningTable::parse(read_file(file), file);
  ASSERT_EQ(table.entries().size(), 1u);
  const TuningEntry& entry = table.entries()[0];
  EXPECT_EQ(entry.ranks_per_node, std::vector<int>{2});
  EXPECT_EQ(entry.hardware.transport, "shared memory");
  ASSERT_TRUE(entry.links.has_value());
  const TuningRow* wide = entry.find(plan::Collective::kAllReduce, 1);
  const TuningRow* narrow = entry.find(plan::Collective::kAllReduce, 2);
  ASSERT_TRUE(wide != nullptr && narrow != nullptr);
  EXPECT_EQ(wide->find("one_shot")->points.size(), 3u);
  EXPECT_EQ(narrow->find("one_shot")->points.size(), 2u);

  const std::vector<std::string> bench = {"bench", "allreduce", "--sizes", "2K", "--batches", "5"};
  EXPECT_NE(lane_with(file, bench, "info").err.find(" measured); "), std::string::npos);
  EXPECT_NE(lane_with("off", bench, "info").err.find(" expected); "), std::string::npos);
}

// Said before any rank is started.
TEST(Tune, OnGpusItNeedsThem) {
  const test::Outcome limit = lane_with("off", {"tune", "collectives", "--device", "cuda", "--confidence", "0.1"});
  EXPECT_NE(limit.status, 0);
  EXPECT_NE(limit.err.find("--confidence and --time-limit are for --device cpu"), std::string::npos) << limit.err;
  const test::Outcome run = lane_with("off", {"tune", "collectives", "--device", "cuda", "--sizes", "1K"});
  EXPECT_NE(run.status, 0);  // no CUDA, no GPU, or no place for the table
  EXPECT_NE(run.err, "");
}

// A table that cannot be used costs a warning; the job runs.
TEST(Tune, ACorruptTableIsAWarning) {
  const Folder folder;
  const std::string file = folder.path + "/tuning.json";
  for (const std::string content : {"", "{}", "{\"format\": \"lane tuning\", \"version\": 9}"}) {
    write_file(file, content);
    const test::Outcome run = lane_with(file, {"bench", "allreduce", "--sizes", "64", "--batches", "5"});
    EXPECT_EQ(run.status, 0) << run.err;
    const size_t at = run.err.find("measured collectives are not used: " + file);
    EXPECT_NE(at, std::string::npos) << run.err;
    EXPECT_EQ(run.err.find("measured collectives are not used", at + 1), std::string::npos) << "once, not by each rank";
    // To be merged with, it has to be right.
    const test::Outcome tune = lane_with(file, {"tune", "collectives", "--sizes", "64", "--time-limit", "0.01"});
    EXPECT_NE(tune.status, 0);
    EXPECT_NE(tune.err.find(file), std::string::npos) << tune.err;
  }
}

}  // namespace
}  // namespace lane
