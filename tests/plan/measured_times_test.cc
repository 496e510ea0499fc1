#include "lane/plan/measured_times.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/json.h"
#include "lane/base/random.h"

namespace lane::plan {
namespace {

constexpr const char* kCsv =
    "# from nowhere\n"
    "library,version,gpu,link,ranks,1024,4096,16384\n"
    "mine,1.0,H100,nvlink,2,10,13,25\n"
    "mine,1.0,L40S,pcie,2,20,,80\n";

TEST(MeasuredTimes, ReadsTables) {
  const auto curves = parse_curves(kCsv, "test.csv");
  ASSERT_EQ(curves.size(), 2u);
  EXPECT_EQ(curves[0].library, "mine");
  EXPECT_EQ(curves[0].num_ranks, 2);
  EXPECT_TRUE(curves[0].nvlink);
  EXPECT_FALSE(curves[1].nvlink);
  EXPECT_EQ(curves[1].points.size(), 2u) << "an empty field is no measurement";
}

TEST(MeasuredTimes, GoesStraightBetweenTwoSizes) {
  const MeasuredCurve curve = parse_curves(kCsv, "test.csv")[0];
  EXPECT_DOUBLE_EQ(curve.at(1024), 10e-6);
  EXPECT_DOUBLE_EQ(curve.at(2560), 11.5e-6);
  EXPECT_DOUBLE_EQ(curve.at(16384), 25e-6);
  EXPECT_DOUBLE_EQ(curve.at(16), 10e-6) << "below: the latency";
  EXPECT_DOUBLE_EQ(curve.at(32768), 50e-6) << "above: the rate";
}

TEST(MeasuredTimes, GoesOnStraightUpToASwitchOfProtocols) {
  MeasuredCurve curve{.library = "x", .points = {{1000, 2}, {2000, 3}, {4000, 10}, {8000, 14}}};
  EXPECT_DOUBLE_EQ(curve.at(3000), 6.5);
  curve.switches = {3500};
  EXPECT_DOUBLE_EQ(curve.at(3000), 4) << "before the switch: the line of the sizes below";
  EXPECT_DOUBLE_EQ(curve.at(3600), 9.6) << "behind it: that of the sizes above";
  EXPECT_DOUBLE_EQ(curve.at(4000), 10);
  EXPECT_DOUBLE_EQ(curve.at(6000), 12) << "elsewhere as before";
  curve.switches = {3100, 3500};
  EXPECT_DOUBLE_EQ(curve.at(3000), 6.5) << "two switches: nothing is known of what is between them";
  curve.switches = {1500, 3500};
  EXPECT_DOUBLE_EQ(curve.at(3000), 6.5) << "the line below has a switch of its own";
}

TEST(MeasuredTimes, KnowWhereNcclSwitches) {
  // 2 x H100: 14.7 us at 1 MiB, 27.9 at 2 MiB: from ll to simple.
  const MeasuredCurve* curve = find_curve("nccl", "H100", 2, 1 << 20);
  EXPECT_TRUE(std::any_of(curve->switches.begin(), curve->switches.end(),
                          [](int64_t size) { return size > 1 << 20 && size <= 2 << 20; }));
  EXPECT_TRUE(std::is_sorted(curve->switches.begin(), curve->switches.end()));
  EXPECT_TRUE(find_curve("vllm", "H100", 2, 1 << 20)->switches.empty());
}

TEST(MeasuredTimes, RefusesNonsenseWithItsLine) {
  const auto message = [](const std::string& csv) {
    try {
      parse_curves(csv, "t.csv");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  const std::string head = "library,version,gpu,link,ranks,1024,4096\n";
  EXPECT_NE(message(head + "a,1,H100,nvlink,2,1\n").find("line 2"), std::string::npos);
  EXPECT_NE(message(head + "a,1,H100,nvlink,1,1,2\n").find("at least 2"), std::string::npos);
  EXPECT_NE(message(head + "a,1,H100,nvlink,2,1,-2\n").find("positive"), std::string::npos);
  EXPECT_NE(message(head + "a,1,H100,nvlink,2,nan,2\n").find("positive"), std::string::npos);
  EXPECT_NE(message(head + "a,1,H100,nvlink,2,,\n").find("no times"), std::string::npos);
  EXPECT_NE(message("library,version,gpu,link,ranks,4096,1024\n").find("ascending"), std::string::npos);
  EXPECT_NE(message("size,us\n").find("header"), std::string::npos);
}

TEST(MeasuredTimes, SurvivesTenThousandMutations) {
  uint64_t counter = 0;
  const auto random = [&] { return random_bits(7, counter++); };
  const std::string alphabet = ",\n#-.0e9x\r";
  for (int i = 0; i < 10'000; ++i) {
    std::string csv = kCsv;
    for (int edits = 1 + static_cast<int>(random() % 6); edits > 0; --edits) {
      const size_t at = random() % csv.size();
      const uint64_t kind = random() % 3;
      if (kind == 0) csv[at] = alphabet[random() % alphabet.size()];
      if (kind == 1) csv.erase(at, 1 + random() % 9);
      if (kind == 2) csv.insert(at, csv.substr(random() % csv.size(), random() % 20));
      if (csv.empty()) csv = "x";
    }
    try {
      for (const MeasuredCurve& curve : parse_curves(csv, "fuzz")) {
        EXPECT_FALSE(curve.points.empty());
        EXPECT_GT(curve.at(3000), 0);
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
    }
  }
}

TEST(MeasuredTimes, ClassesTellWhatWasMeasured) {
  const auto exact = measured_all_reduce("nccl", "H100", 8, 16 << 10);
  ASSERT_TRUE(exact);
  EXPECT_EQ(exact->basis, Basis::kMeasured);
  EXPECT_NEAR(exact->seconds, 19.0e-6, 0.05e-6);
  EXPECT_LT(exact->low_s, exact->seconds);
  const auto between = measured_all_reduce("nccl", "H100", 8, 24 << 10);
  EXPECT_EQ(between->basis, Basis::kInterpolated);
  EXPECT_GT(between->high_s / between->seconds, exact->high_s / exact->seconds) << "less sure";
  const auto six = measured_all_reduce("nccl", "H100", 6, 16 << 10);
  ASSERT_TRUE(six);
  EXPECT_EQ(six->basis, Basis::kInterpolated);
  EXPECT_GT(six->seconds, measured_all_reduce("nccl", "H100", 4, 16 << 10)->seconds);
  EXPECT_LT(six->seconds, exact->seconds);
  EXPECT_EQ(measured_all_reduce("nccl", "H100", 8, int64_t{1} << 32)->basis, Basis::kExtrapolated);
  EXPECT_FALSE(measured_all_reduce("nccl", "H100", 16, 16 << 10)) << "more than any table";
  EXPECT_FALSE(measured_all_reduce("nccl", "H300", 8, 16 << 10));
}

TEST(MeasuredTimes, DoNotGuessRanksOverPcie) {
  EXPECT_TRUE(measured_all_reduce("nccl", "L40S", 4, 16 << 10));
  EXPECT_FALSE(measured_all_reduce("nccl", "L40S", 6, 16 << 10));
}

TEST(MeasuredTimes, LanesOwnMeasurementsComeFirstWhereTheyReach) {
  EXPECT_EQ(find_curve("nccl", "H200", 4, 16 << 10)->version, "2.28.9");
  EXPECT_EQ(find_curve("nccl", "H200", 4, 512)->version, "2.29.2") << "Lane began at 8 KiB";
  EXPECT_NEAR(measured_all_reduce("lane", "H200", 4, 8 << 10)->seconds, 2.36e-6, 0.01e-6);
}

// NVRAR on 8 nodes of 4 GPUs, 512 KiB: three exchanges of a quarter between nodes, and about 4 us each for the
// reduce-scatter and the all-gather inside: about 45 us.
TEST(MeasuredTimes, OfSlingshotGiveNvrarsFormulaItsNetwork) {
  ASSERT_EQ(slingshot_curves().size(), 2u);
  const double exchange_s = slingshot_curves()[0].at((512 << 10) / 4);
  EXPECT_DOUBLE_EQ(exchange_s, 12.15e-6);
  EXPECT_NEAR(3 * exchange_s + 2 * 4e-6, 45e-6, 1e-6);
}

TEST(MeasuredTimes, LanesTableIsThatOfItsReports) {
  const std::string folder = std::string(LANE_SOURCE_DIR) + "/docs/performance/results/allreduce_h200/";
  int compared = 0;
  for (const auto& [file, num_ranks] : {std::pair{"h200x2_bf16.json", 2}, std::pair{"h200x4_bf16.json", 4}}) {
    const Json report = parse_json(read_file(folder + file), file);
    for (const Json& row : report["runs"][0]["rows"]) {
      if (row["kind"] != "lane" || row["mode"] != "graph" || row["algorithm"] == "auto") continue;
      const int64_t bytes = row["bytes"];
      const MeasuredCurve* curve = find_curve("lane_" + row["algorithm"].get<std::string>(), "H200", num_ranks, bytes);
      ASSERT_NE(curve, nullptr);
      ASSERT_TRUE(curve->has(bytes));
      const double median_s = row["time"]["median_s"];
      EXPECT_NEAR(curve->at(bytes), median_s, 5e-4 * median_s) << "four digits";
      ++compared;
    }
  }
  EXPECT_EQ(compared, 40);
}

TEST(MeasuredTimes, KnowGpusByTheDriversNames) {
  EXPECT_EQ(gpu_kind("NVIDIA H100 80GB HBM3"), "H100");
  EXPECT_EQ(gpu_kind("NVIDIA GB200"), "GB200");
  EXPECT_EQ(gpu_kind("NVIDIA GH200 120GB"), "GH200");
  EXPECT_EQ(gpu_kind("NVIDIA A100-SXM4-40GB"), "A100");
  EXPECT_EQ(gpu_kind("Radeon"), "");
}

}  // namespace
}  // namespace lane::plan
