// Choosing by what was measured: a pure function of table, fabric and size.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "lane/base/error.h"
#include "lane/comm/tuner/chooser.h"
#include "lane/comm/tuning.h"
#include "lane/plan/schedule.h"

namespace lane {
namespace {

using plan::Collective;

constexpr int64_t kLargest = int64_t{64} << 20;
const TuningHardware kHardware{"Test CPU", 8, "shared memory"};
constexpr plan::Link kModelLocal{.latency_s = 1e-6, .bytes_per_s = 10e9, .message_s = 1e-7};
constexpr plan::Link kModelRemote{.latency_s = 20e-6, .bytes_per_s = 1e9, .message_s = 2e-6};
// The world is not as the model thinks.
constexpr plan::Link kTrueLocal{.latency_s = 0.3e-6, .bytes_per_s = 4e9, .message_s = 4e-7};
constexpr plan::Link kTrueRemote{.latency_s = 9e-6, .bytes_per_s = 3e9, .message_s = 7e-6};

plan::Cost all_reduce_cost(const std::string& name, const plan::Fabric& fabric, int partial_scale) {
  return plan::cost(plan::make_schedule(name, Collective::kAllReduce, fabric.layout), Collective::kAllReduce, fabric,
                    partial_scale);
}

TuningPoint point(int64_t bytes, double seconds) { return {bytes, seconds, seconds * 0.9, seconds * 1.1, seconds * 2}; }

// What `lane tune` would write where each algorithm takes exactly what its cost on `truth` says.
TuningEntry measured_on(const plan::Fabric& truth, int partial_scale, int factor) {
  TuningEntry entry{kHardware, shape_of(truth.layout), {}, {{Collective::kAllReduce, partial_scale, {}}}};
  for (const std::string& name : plan::schedule_names(Collective::kAllReduce, truth.layout)) {
    TuningCurve curve{name, {}};
    const plan::Cost cost = all_reduce_cost(name, truth, partial_scale);
    for (int64_t bytes = 8; bytes <= kLargest; bytes *= factor) curve.points.push_back(point(bytes, cost.at(bytes)));
    entry.rows[0].curves.push_back(std::move(curve));
  }
  return entry;
}

// At every size the choice takes at most 10 % more than the best there is.
void expect_no_cliff(Chooser& chooser, const plan::Fabric& truth, int partial_scale, const std::string& what) {
  std::vector<plan::Candidate> all;
  for (const std::string& name : plan::schedule_names(Collective::kAllReduce, truth.layout))
    all.push_back({name, all_reduce_cost(name, truth, partial_scale)});
  for (double size = 1; size <= static_cast<double>(kLargest); size = std::max(size + 1, size * 1.07)) {
    const auto bytes = static_cast<int64_t>(size);
    const double best_s = all[plan::cheapest(all, bytes)].cost.at(bytes);
    const std::string& chosen = chooser.choose(Collective::kAllReduce, bytes, partial_scale);
    for (const plan::Candidate& candidate : all)
      if (candidate.name == chosen) {
        EXPECT_LE(candidate.cost.at(bytes), 1.1 * best_s) << what << ": " << chosen << " at " << bytes << " B";
      }
  }
}

TEST(TuningCurve, IsStraightOnLogarithmicAxesAndFollowsTheModelBeyond) {
  const TuningCurve curve{"ring", {point(100, 1e-6), point(10'000, 1e-4), point(40'000, 1e-4)}};
  plan::Cost model;
  model.add_round({{2e-6, 1e-9}});
  EXPECT_DOUBLE_EQ(curve.at(100, model), 1e-6);
  EXPECT_NEAR(curve.at(1000, model), 1e-5, 1e-18);
  EXPECT_DOUBLE_EQ(curve.at(10'000, model), 1e-4);
  EXPECT_NEAR(curve.at(20'000, model), 1e-4, 1e-17);
  EXPECT_DOUBLE_EQ(curve.at(1, model), 1e-6 * model.at(1) / model.at(100));
  EXPECT_DOUBLE_EQ(curve.at(80'000, model), 1e-4 * model.at(80'000) / model.at(40'000));
}

TEST(Chooser, HasNoCliffWithATable) {
  for (const plan::Layout& layout : {plan::Layout::one_node(2), plan::Layout::one_node(4), plan::Layout::one_node(7),
                                     plan::Layout::uniform(2, 2), plan::Layout::uniform(4, 2)})
    for (const int partial_scale : {1, 2}) {
      const plan::Fabric truth{layout, kTrueLocal, kTrueRemote};
      TuningTable table;
      table.merge(measured_on(truth, partial_scale, 4));
      Chooser chooser({layout, kModelLocal, kModelRemote}, true, "auto");
      chooser.use(table, kHardware);
      expect_no_cliff(chooser, truth, partial_scale, std::to_string(layout.num_ranks()) + " ranks");
    }
}

TEST(Chooser, HasNoCliffWithTheModelAlone) {
  for (const plan::Layout& layout : {plan::Layout::one_node(6), plan::Layout::uniform(3, 2)}) {
    const plan::Fabric truth{layout, kTrueLocal, kTrueRemote};
    Chooser chooser(truth, true, "auto");
    expect_no_cliff(chooser, truth, 2, "the model");
  }
}

// Another shape on the same hardware: the links that were fitted.
TEST(Chooser, TakesTheLinksForShapesThatWereNotMeasured) {
  TuningTable table;
  TuningEntry entry = measured_on(plan::Fabric::one_node(4, kTrueLocal), 1, 4);
  entry.links = TuningLinks{kTrueLocal, {}};
  table.merge(entry);
  const plan::Fabric truth = plan::Fabric::one_node(6, kTrueLocal);
  Chooser chooser(plan::Fabric::one_node(6, kModelLocal), true, "auto");
  chooser.use(table, kHardware);
  EXPECT_EQ(chooser.fabric().local, kTrueLocal);
  expect_no_cliff(chooser, truth, 1, "six ranks");
  EXPECT_NE(chooser.explain(Collective::kAllReduce, 4096).find("expected)"), std::string::npos);
}

TEST(Chooser, LeavesATableOfOtherHardwareAlone) {
  TuningTable table;
  TuningEntry entry = measured_on(plan::Fabric::one_node(4, kTrueLocal), 1, 4);
  entry.links = TuningLinks{kTrueLocal, {}};
  table.merge(entry);
  for (const TuningHardware& other :
       {TuningHardware{"Another CPU", 8, "shared memory"}, TuningHardware{"Test CPU", 16, "shared memory"},
        TuningHardware{"Test CPU", 8, "shared memory, TCP"}}) {
    Chooser chooser(plan::Fabric::one_node(4, kModelLocal), true, "auto");
    chooser.use(table, other);
    EXPECT_EQ(chooser.fabric().local, kModelLocal);
    EXPECT_NE(chooser.explain(Collective::kAllReduce, 4096).find("expected)"), std::string::npos);
  }
}

TEST(Chooser, SaysWhatWasMeasuredAndWhatWasNot) {
  TuningTable table;
  table.merge({kHardware,
               {4},
               {},
               {{Collective::kAllReduce, 1, {{"ring", {point(8, 3e-6)}}, {"two_shot", {point(8, 5e-6)}}}}}});
  Chooser chooser(plan::Fabric::one_node(4, kModelLocal), true, "auto");
  chooser.use(table, kHardware);
  EXPECT_EQ(chooser.choose(Collective::kAllReduce, 8), "ring");
  const std::string text = chooser.explain(Collective::kAllReduce, 8);
  EXPECT_EQ(text.find("ring (3 µs measured); "), 0u) << text;
  EXPECT_NE(text.find("two_shot: 2 µs more"), std::string::npos) << text;
  EXPECT_NE(text.find("one_shot: not measured, 1.2 µs expected"), std::string::npos) << text;
  // Of 16-bit sums, and of other collectives, this table knows nothing.
  EXPECT_NE(chooser.explain(Collective::kAllReduce, 8, 2).find("expected)"), std::string::npos);
  EXPECT_NE(chooser.explain(Collective::kAllGather, 8).find("expected)"), std::string::npos);
  chooser.force("bruck");
  EXPECT_EQ(chooser.choose(Collective::kAllReduce, 8), "bruck");
}

TEST(TuningTable, ComesBackFromItsText) {
  TuningTable table;
  TuningEntry entry = measured_on({plan::Layout::uniform(2, 3), kTrueLocal, kTrueRemote}, 2, 64);
  entry.links = TuningLinks{kTrueLocal, kTrueRemote};
  table.merge(entry);
  table.merge(measured_on(plan::Fabric::one_node(2, kTrueLocal), 1, 64));
  const TuningTable read = TuningTable::parse(table.to_text(), "tuning.json");
  EXPECT_EQ(read.entries(), table.entries());
  ASSERT_NE(read.find(kHardware, {3, 3}), nullptr);
  EXPECT_EQ(read.find(kHardware, {3, 3})->links, entry.links);
  EXPECT_EQ(read.find(kHardware, {6}), nullptr);
}

TEST(TuningTable, MergesPointByPoint) {
  const auto entry = [](std::vector<TuningCurve> curves, int scale = 1) {
    return TuningEntry{kHardware, {4}, {}, {{Collective::kAllReduce, scale, std::move(curves)}}};
  };
  TuningTable table;
  table.merge(entry({{"ring", {point(8, 1), point(64, 2)}}, {"bruck", {point(8, 7)}}}));
  table.merge(entry({{"ring", {point(16, 3), point(64, 4), point(128, 5)}}}));
  table.merge(entry({{"ring", {point(8, 9)}}}, 2));
  ASSERT_EQ(table.entries().size(), 1u);
  const TuningRow* row = table.entries()[0].find(Collective::kAllReduce, 1);
  ASSERT_NE(row, nullptr);
  EXPECT_EQ(row->find("ring")->points,
            (std::vector<TuningPoint>{point(8, 1), point(16, 3), point(64, 4), point(128, 5)}));
  EXPECT_EQ(row->find("bruck")->points, std::vector<TuningPoint>{point(8, 7)});
  EXPECT_EQ(table.entries()[0].find(Collective::kAllReduce, 2)->find("ring")->points.size(), 1u);
}

// Each edit makes a file that is refused with a message that names the file, the field and a way out.
TEST(TuningTable, RefusesWhatItDidNotWrite) {
  TuningTable table;
  TuningEntry entry = measured_on(plan::Fabric::one_node(2, kTrueLocal), 1, 1024);
  entry.links = TuningLinks{kTrueLocal, kTrueRemote};
  table.merge(entry);
  const std::string good = table.to_text();
  const auto refused = [&](const std::string& from, const std::string& to, const std::string& words) {
    std::string text = good;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    try {
      TuningTable::parse(text, "here/tuning.json");
      ADD_FAILURE() << to << " was taken";
    } catch (const Error& error) {
      const std::string said = error.what();
      EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
      EXPECT_EQ(said.find("here/tuning.json: "), 0u) << said;
      EXPECT_NE(said.find(words), std::string::npos) << said;
    }
  };
  refused("\"lane tuning\"", "\"other\"", "format: \"other\" where \"lane tuning\" was expected");
  refused("\"version\": 1", "\"version\": 2", "version: \"2\" where 1 was expected; delete the file");
  refused("\"num_cpus\": 8", "\"num_cpus\": 0", "entries[0].hardware.num_cpus");
  refused("\"num_cpus\": 8", "\"num_cpus\": \"8\"", "entries[0].hardware.num_cpus");
  refused("\"all_reduce\"", "\"all_produce\"", "entries[0].rows[0].collective");
  refused("\"partial_scale\": 1", "\"partial_scale\": 3", "partial_scale");
  refused("\"bytes\": 8,", "\"bytes\": 9000,", "points[1].bytes");
  refused("\"bytes\": 8,", "\"bytes\": 8.5,", "points[0].bytes");
  refused("\"bytes\": 8,", "\"octets\": 8,", "points[0].bytes: missing");
  refused("\"median_s\": ", "\"median_s\": -", "median_s");
  refused("\"ranks_per_node\": [", "\"ranks_per_node\": [0,", "ranks_per_node");
  refused("\"bytes_per_s\": ", "\"bytes_per_s\": 0, \"x\": ", "links.local.bytes_per_s");
  refused("{", "", "not valid JSON");
  refused(good.substr(good.size() / 2), "", "not valid JSON");
  refused(good, "[]", "format");
}

}  // namespace
}  // namespace lane
