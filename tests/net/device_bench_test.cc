// What of the benchmark on GPUs needs no GPU: its options, its table, its reference for fused operations.
#include <gtest/gtest.h>

#include <cmath>

#include "lane/base/error.h"
#include "lane/net/device_report.h"
#include "lane/net/vectors.h"

namespace lane {
namespace {

using net::AllReduceRow;

TEST(DeviceBench, FusedShapesAndPeersAreReadAsWritten) {
  const net::FusedShape shape = net::fused_shape_from_text("8192x4");
  EXPECT_EQ(shape.hidden, 8192);
  EXPECT_EQ(shape.num_tokens, 4);
  for (const char* bad : {"", "x", "8192", "8192x", "x4", "8192x0", "-8x1", "8192x4x", "8192 x4", "12x1", "65536x1"})
    EXPECT_THROW(net::fused_shape_from_text(bad), Error) << bad;

  const net::DevicePeer plain = net::device_peer_from_text("nccl"), with = net::device_peer_from_text("nccl:a:b");
  EXPECT_EQ(plain.library, "nccl");
  EXPECT_EQ(plain.options, "");
  EXPECT_EQ(with.library, "nccl");
  EXPECT_EQ(with.options, "a:b");
  EXPECT_EQ(with.text, "nccl:a:b");
  for (const char* bad : {"", ":x", "../nccl", "a/b", "N"}) EXPECT_THROW(net::device_peer_from_text(bad), Error) << bad;
}

TEST(DeviceBench, ASkewIsWithinItsLimitAndTheSameEveryTime) {
  double sum = 0;
  for (int call = 0; call < 1000; ++call) {
    const double us = net::skew_of(3, call, 5);
    EXPECT_GE(us, 0);
    EXPECT_LT(us, 5);
    EXPECT_EQ(us, net::skew_of(3, call, 5));
    EXPECT_NE(us, net::skew_of(2, call, 5));
    sum += us;
  }
  EXPECT_NEAR(sum / 1000, 2.5, 0.25);
}

AllReduceRow row(const char* name, bool is_peer, double us, const char* why_not = "") {
  AllReduceRow result{.bytes = 4096, .count = 2048, .dtype = DType::kBF16, .algorithm = name, .is_peer = is_peer};
  result.mode = "graph", result.why_not = why_not;
  if (result.why_not.empty()) result.time = net::measure({us * 1e-6}), result.alone = net::measure({us * 2e-6});
  return result;
}

TEST(DeviceBench, TheTableComparesLaneWithTheBestPeer) {
  net::DeviceTable table;
  AllReduceRow floor = row("empty kernel", false, 1);
  floor.is_floor = true;
  const std::vector<AllReduceRow> rows = {row("auto", false, 4),
                                          row("one_shot", false, 3),
                                          row("nccl", true, 16),
                                          row("nvshmem", true, 10),
                                          row("vllm", true, 0, "no such plugin"),
                                          floor};
  const std::string text = table.text_of(rows);
  EXPECT_NE(text.find("# vllm: no such plugin\n"), std::string::npos) << text;
  EXPECT_NE(text.find("lane auto lane one_shot     nccl  nvshmem     vllm empty kernel peer/lane"), std::string::npos)
      << text;
  EXPECT_NE(text.find("     4.00          3.00    16.00    10.00        -         1.00      2.50  nvshmem"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("p99/1"), std::string::npos);
  const std::string again = table.text_of(rows);
  EXPECT_EQ(again.find('#'), std::string::npos) << "headings and reasons come once: " << again;

  std::vector<AllReduceRow> wrong = rows;
  wrong[1].num_wrong = 7, wrong[1].same_bits = false;
  EXPECT_NE(table.text_of(wrong).find("# lane one_shot: 7 elements are wrong, and the ranks' bits differ"),
            std::string::npos);
}

TEST(DeviceBench, TheChartShowsWhatIsMeasuredOneWay) {
  AllReduceRow cold = row("auto", false, 9), fused = row("auto + norm", false, 9), eager = row("auto", false, 9);
  cold.setting = "cold", fused.hidden = 64, fused.num_tokens = 1, eager.mode = "eager";
  const Json run = net::device_run_to_json({}, {row("auto", false, 4), row("nccl", true, 8), cold, fused, eager});
  EXPECT_EQ(run["rows"].size(), 5u);
  EXPECT_EQ(run["rows"][0]["mode"], "graph");
  EXPECT_DOUBLE_EQ(run["rows"][0]["time_alone"]["median_s"], 8e-6);
  EXPECT_EQ(run["rows"][2]["setting"], "cold");
  EXPECT_EQ(run["rows"][3]["hidden"], 64);
  const std::string svg = net::chart_of_runs(Json::array({run}));
  size_t circles = 0;
  for (size_t at = svg.find("<circle"); at != std::string::npos; at = svg.find("<circle", at + 1)) ++circles;
  EXPECT_EQ(circles, 2u);
  EXPECT_EQ(svg.find("norm"), std::string::npos);
}

// The fused operation as it is promised: sum in float32, rounded; added to the residual, rounded; norm of that.
TEST(DeviceBench, TheFusedReferenceTakesWhatIsRightAndNothingElse) {
  constexpr int64_t kRows = 3, kHidden = 256, kCount = kRows * kHidden;
  constexpr int kRanks = 4;
  constexpr float kEpsilon = 1e-5f;
  const auto number = [](uint16_t bits) { return float_from_bf16(bits); };
  std::vector<uint16_t> residual(kCount), weight(kHidden), part(kCount), normed(kCount);
  net::fill(DType::kBF16, ReduceOp::kSum, 0, kCount, residual.data(), net::kResidualSeed);
  net::fill(DType::kBF16, ReduceOp::kProd, 0, kHidden, weight.data(), net::kWeightSeed);
  std::vector<float> sum(kCount);
  for (int rank = 0; rank < kRanks; ++rank) {
    net::fill(DType::kBF16, ReduceOp::kSum, rank, kCount, part.data(), 5);
    for (int64_t i = 0; i < kCount; ++i) sum[i] += number(part[i]);
  }
  for (int64_t row = 0; row < kRows; ++row) {
    float squares = 0;
    for (int64_t i = row * kHidden; i < (row + 1) * kHidden; ++i) {
      residual[i] = bf16_from_float(number(residual[i]) + number(bf16_from_float(sum[i])));
      squares += number(residual[i]) * number(residual[i]);
    }
    const float scale = 1 / std::sqrt(squares / kHidden + kEpsilon);
    for (int64_t i = 0; i < kHidden; ++i)
      normed[row * kHidden + i] = bf16_from_float(number(residual[row * kHidden + i]) * scale * number(weight[i]));
  }
  const auto wrong = [&] {
    return net::count_wrong_norm(DType::kBF16, kRanks, residual.data(), normed.data(), kRows, kHidden, kEpsilon,
                                 net::Rounding::kOnce, 5);
  };
  EXPECT_EQ(wrong(), 0);
  const uint16_t right = normed[300];
  normed[300] = bf16_from_float(number(right) * 1.1f);
  EXPECT_EQ(wrong(), 1);
  normed[300] = 0xffff;  // as it is before anything is written there
  EXPECT_EQ(wrong(), 1);
  normed[300] = right;
  residual[700] = bf16_from_float(number(residual[700]) * 1.25f + 1);
  EXPECT_EQ(wrong(), 1);
}

TEST(DeviceBench, ABuildWithoutCudaSaysSo) {
  try {
    net::require_cuda_build();
    GTEST_SKIP() << "this build has CUDA";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_STREQ(error.what(), "--device cuda: this build has no CUDA; configure with -DLANE_CUDA=ON (preset cuda)");
  }
}

}  // namespace
}  // namespace lane
