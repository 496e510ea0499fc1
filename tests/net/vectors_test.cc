#include "lane/net/vectors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "lane/base/error.h"

namespace lane::net {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kI32};
constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin, ReduceOp::kProd, ReduceOp::kAvg};

// One rank's "reduction" is what it put in.
TEST(CheckVectors, TakesWhatIsRightAndSeesOneChangedElement) {
  for (const DType dtype : kTypes)
    for (const ReduceOp op : kOps) {
      constexpr int64_t kCount = 10'001;
      std::vector<char> data(static_cast<size_t>(kCount * size_of(dtype)));
      fill(dtype, op, 0, kCount, data.data());
      EXPECT_EQ(count_wrong(dtype, op, 1, data.data(), kCount, Rounding::kOnce), 0);
      const uint64_t before = fingerprint(data.data(), static_cast<int64_t>(data.size()));
      data[data.size() / 2 / 4 * 4 + 3] ^= 0x40;  // an exponent
      EXPECT_EQ(count_wrong(dtype, op, 1, data.data(), kCount, Rounding::kOnce), 1) << lane::name_of(dtype);
      EXPECT_NE(before, fingerprint(data.data(), static_cast<int64_t>(data.size())));
    }
}

TEST(CheckVectors, RankByRankSumsAreRightAndRoundingEachTimeIsNotOnce) {
  constexpr int kRanks = 16;
  constexpr int64_t kCount = 4096;
  std::vector<float> sums(kCount);
  std::vector<uint16_t> rounded(kCount), in(kCount), at_once(kCount);
  for (int rank = 0; rank < kRanks; ++rank) {
    fill(DType::kBF16, ReduceOp::kSum, rank, kCount, in.data());
    for (int64_t i = 0; i < kCount; ++i) {
      sums[i] += float_from_bf16(in[i]);
      rounded[i] = bf16_from_float(float_from_bf16(rounded[i]) + float_from_bf16(in[i]));
    }
  }
  for (int64_t i = 0; i < kCount; ++i) at_once[i] = bf16_from_float(sums[i]);
  EXPECT_EQ(count_wrong(DType::kBF16, ReduceOp::kSum, kRanks, at_once.data(), kCount, Rounding::kOnce), 0);
  EXPECT_EQ(count_wrong(DType::kBF16, ReduceOp::kSum, kRanks, rounded.data(), kCount, Rounding::kEveryStep), 0);
  EXPECT_GT(count_wrong(DType::kBF16, ReduceOp::kSum, kRanks, rounded.data(), kCount, Rounding::kOnce), 0);
}

TEST(CheckVectors, LooksAtBothEndsOfALargeOne) {
  constexpr int64_t kCount = 3 << 20;
  std::vector<float> data(kCount);
  fill(DType::kF32, ReduceOp::kMax, 0, kCount, data.data());
  EXPECT_EQ(count_wrong(DType::kF32, ReduceOp::kMax, 1, data.data(), kCount, Rounding::kOnce), 0);
  for (const int64_t place : {int64_t{0}, kCount - 1, kCount - 4000}) {
    const float kept = data[place];
    data[place] = 1e9f;
    EXPECT_EQ(count_wrong(DType::kF32, ReduceOp::kMax, 1, data.data(), kCount, Rounding::kOnce), 1) << place;
    data[place] = kept;
  }
}

TEST(CheckVectors, NamesComeBack) {
  for (const ReduceOp op : kOps) EXPECT_EQ(reduce_op_from_name(name_of(op)), op);
  for (const DType dtype : kTypes) EXPECT_EQ(summable_from_name(lane::name_of(dtype)), dtype);
  EXPECT_THROW(reduce_op_from_name("median"), Error);
  EXPECT_THROW(summable_from_name("uint8"), Error);
}

}  // namespace
}  // namespace lane::net
