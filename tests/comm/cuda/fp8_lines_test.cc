#include "lane/comm/cuda/fp8_lines.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "lane/base/random.h"
#include "tests/comm/cuda/fp8_sum.h"

namespace lane::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint32_t kEmptyWord = 0x80000000u;

float normal(uint64_t key, uint64_t i) {
  const double radius = std::sqrt(-2 * std::log(random_uniform(key, 2 * i)));
  return static_cast<float>(radius * std::cos(6.283185307179586 * random_uniform(key, 2 * i + 1)));
}

// Every code is what it decodes to, and every float goes to a nearest code, at a tie to the even one.
TEST(Fp8Lines, RoundsToNearest) {
  EXPECT_EQ(float_from_e4m3(0x38), 1);
  EXPECT_EQ(float_from_e4m3(0x7e), 448);
  EXPECT_EQ(float_from_e4m3(0x01), 0x1p-9f);
  for (int code = 0; code < 256; ++code) {
    const float value = float_from_e4m3(static_cast<uint8_t>(code));
    if ((code & 0x7f) == 0x7f)
      EXPECT_TRUE(std::isnan(value));
    else
      EXPECT_EQ(e4m3_from_float(value), code);
  }
  for (int code = 0; code < 0x7e; ++code) {
    const float low = float_from_e4m3(static_cast<uint8_t>(code));
    const float high = float_from_e4m3(static_cast<uint8_t>(code + 1)), middle = (low + high) / 2;
    EXPECT_EQ(e4m3_from_float(middle), code + code % 2);
    EXPECT_EQ(e4m3_from_float(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(e4m3_from_float(std::nextafter(middle, 1e3f)), code + 1);
    EXPECT_EQ(e4m3_from_float(-middle), 0x80 + code + code % 2);
  }
  EXPECT_EQ(e4m3_from_float(1e-30f), 0);
  EXPECT_EQ(e4m3_from_float(1e30f), 0x7e);
  EXPECT_EQ(e4m3_from_float(-kInfinity), 0xfe);
  EXPECT_EQ(e4m3_from_float(std::nanf("")), 0x7f);
}

TEST(Fp8Lines, ScalesArePowersOfTwoThatFit) {
  for (uint64_t i = 0; i < 100000; ++i) {
    const auto bits = static_cast<uint32_t>(random_bits(1, i) % 0x7f800000u);
    const float largest = std::bit_cast<float>(bits), scale = std::bit_cast<float>(fp8_scale(bits));
    int exponent;
    ASSERT_EQ(std::frexp(scale, &exponent), 0.5f) << largest;
    ASSERT_EQ(scale * std::bit_cast<float>(fp8_inverse(fp8_scale(bits))), 1) << largest;
    const double scaled = static_cast<double>(largest) / static_cast<double>(scale);
    ASSERT_LE(scaled, 448) << largest;
    ASSERT_TRUE(scaled > 224 || scale == 0x1p-126f) << largest;
  }
  EXPECT_EQ(std::bit_cast<float>(fp8_scale(std::bit_cast<uint32_t>(448.0f))), 1);
  EXPECT_EQ(std::bit_cast<float>(fp8_scale(std::bit_cast<uint32_t>(448.5f))), 2);
  EXPECT_EQ(std::bit_cast<float>(fp8_scale(0)), 0x1p-126f);
}

// Of all magnitudes, from the largest numbers down to subnormals, within a group as well.
TEST(Fp8Lines, KeepsTheBoundAndIsNeverEmpty) {
  for (uint64_t g = 0; g < 20000; ++g) {
    const int spread = static_cast<int>(random_bits(2, g) % 40), top = static_cast<int>(random_bits(3, g) % 272) - 149;
    std::vector<float> values(1 + random_bits(4, g) % 128);
    double largest = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const int down = spread == 0 ? 0 : static_cast<int>(random_bits(5, g * 128 + i) % static_cast<uint64_t>(spread));
      values[i] = std::ldexp(normal(6, g * 128 + i), top - down);
      largest = std::max(largest, static_cast<double>(std::abs(values[i])));
    }
    const Fp8Group group = fp8_group(values);
    for (size_t i = 0; i < values.size(); ++i) {
      const double value = static_cast<double>(values[i]);
      ASSERT_LE(std::abs(static_cast<double>(group.at(static_cast<int>(i))) - value), fp8_error(value, largest))
          << value << " of " << largest;
    }
    ASSERT_NE(group.scale, kEmptyWord);
    for (const uint32_t word : group.words) ASSERT_NE(word, kEmptyWord);
  }
}

TEST(Fp8Lines, MinusZerosAreNotEmpty) {
  const std::vector<float> values = {0.0f, 0.0f, 0.0f, -0.0f, 1.0f, -1e-20f, -0.0f, -0.0f};
  const Fp8Group group = fp8_group(values);
  EXPECT_EQ(group.words[0], 0u);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(group.at(static_cast<int>(i)), i == 4 ? 1.0f : 0.0f);
  EXPECT_NE(fp8_group(std::vector<float>(128, -0.0f)).scale, kEmptyWord);
}

TEST(Fp8Lines, NanAndInfinityAreSeen) {
  for (const float bad : {std::nanf(""), -std::nanf(""), kInfinity, -kInfinity}) {
    std::vector<std::vector<float>> inputs(3, std::vector<float>(300, 1.0f));
    inputs[1][130] = bad;
    const std::vector<float> sums = fp8_sum(inputs).sums;
    for (size_t i = 0; i < sums.size(); ++i) {
      if (i / 128 == 1)
        EXPECT_TRUE(std::isnan(sums[i])) << i;
      else
        EXPECT_EQ(sums[i], 3) << i;
    }
  }
}

// Parts hold the vector, whole warps at a time, and one part at least is never empty.
TEST(Fp8Lines, PartsHoldTheVector) {
  for (const int size : {1, 2, 3, 8, 72})
    for (const int64_t count : {1, 16, 17, 512, 513, 4096, 100000, 4 << 20}) {
      const Fp8Parts parts = fp8_parts(count, size);
      EXPECT_GE(parts.lines * kFp8PerLine, count);
      EXPECT_LT((parts.lines - 1) * kFp8PerLine, count);
      EXPECT_GE(parts.part * size, parts.lines);
      EXPECT_EQ(parts.part % kLinesPerWarp, 0);
      EXPECT_EQ(parts.slots, 2 * (size - 1) * parts.part);
      EXPECT_EQ((parts.used - parts.slots) * 4 * kLinesPerScale, parts.slots);  // a word for 8 lines
    }
}

// Sums of activations with outliers: within the bound each, and a few percent as a whole.
TEST(Fp8Lines, SumsKeepTheBound) {
  for (const int size : {2, 3, 8, 16})
    for (const bool is_average : {false, true}) {
      const int64_t count = 20000 + size;
      std::vector<std::vector<float>> inputs(static_cast<size_t>(size), std::vector<float>(static_cast<size_t>(count)));
      for (size_t r = 0; r < inputs.size(); ++r)
        for (size_t i = 0; i < inputs[r].size(); ++i)
          inputs[r][i] = normal(10 + r, i) * (random_bits(9, i) % 500 == 0 ? 300.0f : 1.0f);
      const Fp8Sum made = fp8_sum(inputs, is_average);
      double errors = 0, squares = 0;
      for (size_t i = 0; i < made.sums.size(); ++i) {
        double exact = 0, magnitudes = 0;
        for (const auto& input : inputs)
          exact += static_cast<double>(input[i]), magnitudes += static_cast<double>(std::abs(input[i]));
        if (is_average) exact /= size, magnitudes /= size;
        const double error = static_cast<double>(made.sums[i]) - exact;
        ASSERT_LE(std::abs(error), made.bounds[i]) << size << " ranks, element " << i;
        ASSERT_LE(std::abs(error), magnitudes / 8 + 0.1) << size << " ranks, element " << i;
        if (random_bits(9, i) % 500 != 0) errors += error * error, squares += exact * exact;
      }
      EXPECT_LT(std::sqrt(errors / squares), 0.04) << size << " ranks";
    }
}

}  // namespace
}  // namespace lane::cuda
