#include "lane/base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace lane {
namespace {

TEST(Bf16, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = float_from_bf16(half);
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(float_from_bf16(bf16_from_float(value))));
    else
      EXPECT_EQ(bf16_from_float(value), half) << std::hex << bits;
  }
}

TEST(F16, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = float_from_f16(half);
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(float_from_f16(f16_from_float(value))));
    else
      EXPECT_EQ(f16_from_float(value), half) << std::hex << bits;
  }
}

// Between two neighbours the nearer one wins, and the even one in the middle: found by search, not by the code under
// test.
template <class ToFloat>
uint16_t nearest(float value, ToFloat to_float) {
  uint16_t best = 0;
  double best_distance = std::numeric_limits<double>::infinity();
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float candidate = to_float(half);
    if (std::isnan(candidate) || std::isinf(candidate) || std::signbit(candidate) != std::signbit(value)) continue;
    const double distance = std::abs(static_cast<double>(candidate) - value);
    if (distance < best_distance || (distance == best_distance && (half & 1) == 0))
      best = half, best_distance = distance;
  }
  return best;
}

TEST(Dtype, RoundsToNearestEven) {
  for (const float value : {1.0f, 1.00390625f, 1.01171875f, 3.14159265f, -2.71828f, 1e-8f, 5.9604645e-8f, 8.9e-8f,
                            6.1e-5f, 6.097555e-5f, 65519.0f, -0.0f, 0.1f, 1234.567f}) {
    EXPECT_EQ(f16_from_float(value), nearest(value, float_from_f16)) << value;
    EXPECT_EQ(bf16_from_float(value), nearest(value, float_from_bf16)) << value;
  }
}

TEST(F16, TooLargeBecomesInfinity) {
  EXPECT_TRUE(std::isinf(float_from_f16(f16_from_float(65520.0f))));
  EXPECT_EQ(float_from_f16(f16_from_float(65519.0f)), 65504.0f);
  EXPECT_TRUE(std::isinf(float_from_f16(f16_from_float(-std::numeric_limits<float>::infinity()))));
}

}  // namespace
}  // namespace lane
