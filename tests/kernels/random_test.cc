// Random tensors against their definition, and parts of one against the whole.
#include "lane/base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "lane/kernels/kernels.h"

namespace lane::kernels {
namespace {

std::vector<float> part_of(const RandomTensor& tensor, int64_t first_row, int64_t rows, int64_t first_col,
                           int64_t cols) {
  std::vector<float> values(static_cast<size_t>(rows * cols), -7);
  Stream stream;
  fill_random(tensor, first_row, first_col, {values.data(), DType::kF32, {1, 1, rows, cols}, {}}, stream);
  return values;
}

TEST(RandomTensors, AreWhatTheirDefinitionSays) {
  for (const int64_t cols : {1, 3, 64, 1001}) {
    const RandomTensor tensor{.key = 0x123456789abcdef0u, .cols = cols, .mean = 0, .deviation = 0.02f};
    const std::vector<float> values = part_of(tensor, 2, 5, 0, cols);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint64_t number = static_cast<uint64_t>(2 * cols) + i;
      const auto quarter = static_cast<int16_t>(mix64(tensor.key ^ (number / 4)) >> (number % 4 * 16));
      const double expected = (quarter + 0.5) * 0.02 * std::sqrt(3.0) / 32768;
      ASSERT_NEAR(values[i], expected, 0x1p-22 * std::abs(expected)) << "element " << number << " of " << cols;
    }
  }
}

TEST(RandomTensors, ComeInPartsAsInTheWhole) {
  const RandomTensor tensor{.key = 99, .cols = 1003, .mean = 0.25f, .deviation = 1};
  const std::vector<float> whole = part_of(tensor, 0, 9, 0, tensor.cols);
  for (const auto& [first_col, cols] :
       {std::pair<int64_t, int64_t>{0, 1003}, {0, 1}, {1, 300}, {501, 502}, {1002, 1}}) {
    const std::vector<float> part = part_of(tensor, 3, 4, first_col, cols);
    for (int64_t row = 0; row < 4; ++row)
      for (int64_t col = 0; col < cols; ++col)
        ASSERT_EQ(part[static_cast<size_t>(row * cols + col)],
                  whole[static_cast<size_t>((row + 3) * tensor.cols + first_col + col)])
            << row << ", " << first_col + col;
  }
}

TEST(RandomTensors, WithoutDeviationAreTheirMean) {
  EXPECT_EQ(part_of({.key = 3, .cols = 10, .mean = 1}, 0, 3, 2, 8), std::vector<float>(24, 1.0f));
}

}  // namespace
}  // namespace lane::kernels
