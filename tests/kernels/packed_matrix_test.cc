#include "tests/kernels/kernel_test.h"

namespace lane::kernels {
namespace {

float rounded_to(float value, DType dtype) {
  if (dtype == DType::kBF16) return float_from_bf16(bf16_from_float(value));
  return dtype == DType::kF16 ? float_from_f16(f16_from_float(value)) : value;
}

std::vector<int32_t> counting_ids(int64_t count) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(i));
  return ids;
}

// Every row that was stored is read back by embedding(), converted once and exactly.
TEST(PackedMatrix, GivesBackTheRowsThatWereStored) {
  Stream stream({}, 2);
  for (const DType stored : kWeightTypes)
    for (const DType given : kWeightTypes)
      for (const int64_t k : {1, 2, 3, 15, 16, 17, 100, 511, 512, 513, 1027})
        for (const int64_t n : {1, 3, 15, 16, 17, 33}) {
          Converted rows(random_floats(n * k, 7), n, k, given);
          PackedMatrix packed({}, stored, n, k);
          packed.set_rows(0, rows.view(), stream);
          Output out(n, k);
          const std::vector<int32_t> ids = counting_ids(n);
          embedding(packed, view_of(ids), 0, out.view(), stream);
          EXPECT_TRUE(out.guard_is_intact());
          int64_t num_wrong = 0;
          for (int64_t i = 0; i < n * k; ++i)
            num_wrong += out.values[static_cast<size_t>(i)] != rounded_to(rows.floats[static_cast<size_t>(i)], stored);
          EXPECT_EQ(num_wrong, 0) << name_of(given) << " as " << name_of(stored) << " n=" << n << " k=" << k;
        }
}

TEST(PackedMatrix, RowsComeInAnyOrderAndInPieces) {
  const int64_t n = 77, k = 45;
  Stream stream({}, 2);
  for (const DType dtype : kWeightTypes) {
    Converted rows(random_floats(n * k, 8), n, k, dtype);
    PackedMatrix whole({}, dtype, n, k), pieces({}, dtype, n, k);
    whole.set_rows(0, rows.view(), stream);
    const int64_t cuts[] = {0, 1, 16, 20, 31, 70, 77};
    for (int i : {3, 0, 5, 1, 4, 2})
      pieces.set_rows(cuts[i], rows.view().row_range(cuts[i], cuts[i + 1] - cuts[i]), stream);
    ASSERT_EQ(whole.bytes(), pieces.bytes());
    EXPECT_EQ(std::memcmp(whole.data(), pieces.data(), static_cast<size_t>(whole.bytes())), 0) << name_of(dtype);
  }
}

TEST(PackedMatrix, TakesNoMoreThanThePaddingOfTheOriginal) {
  EXPECT_EQ(PackedMatrix({}, DType::kBF16, 32, 64).bytes(), 32 * 64 * 2);
  EXPECT_EQ(PackedMatrix({}, DType::kF16, 32, 64).bytes(), 32 * 64 * 2);
  EXPECT_EQ(PackedMatrix({}, DType::kF32, 32, 64).bytes(), 32 * 64 * 4);
  EXPECT_EQ(PackedMatrix({}, DType::kBF16, 17, 3).bytes(), 32 * 4 * 2);
}

TEST(PackedMatrix, RefusesRowsThatDoNotFit) {
  std::vector<float> values(64);
  PackedMatrix packed({}, DType::kF32, 4, 8);
  Stream stream;
  EXPECT_THROW(packed.set_rows(0, matrix(values, 5, 8), stream), Error);
  EXPECT_THROW(packed.set_rows(4, matrix(values, 1, 8), stream), Error);
  EXPECT_THROW(packed.set_rows(0, matrix(values, 1, 7), stream), Error);
  EXPECT_THROW(PackedMatrix({}, DType::kI32, 4, 8), Error);
}

TEST(Embedding, RowsOfOtherRanksAreZero) {
  const int64_t n = 20, k = 9;
  Stream stream({}, 3);
  Converted rows(random_floats(n * k, 9), n, k, DType::kBF16);
  PackedMatrix table({}, DType::kBF16, n, k);
  table.set_rows(0, rows.view(), stream);
  const std::vector<int32_t> ids = {100, 119, 99, 120, 0, 107, 107};
  Output out(7, k);
  embedding(table, view_of(ids), 100, out.view(), stream);
  EXPECT_TRUE(out.guard_is_intact());
  for (int64_t i = 0; i < 7; ++i)
    for (int64_t j = 0; j < k; ++j) {
      const int64_t row = ids[static_cast<size_t>(i)] - 100;
      EXPECT_EQ(out.at(i, j), row >= 0 && row < n ? rows.floats[static_cast<size_t>(row * k + j)] : 0.0f);
    }
  Output none(0, k);
  embedding(table, view_of(std::span<const int32_t>()), 100, none.view(), stream);
  EXPECT_TRUE(none.guard_is_intact());
}

}  // namespace
}  // namespace lane::kernels
