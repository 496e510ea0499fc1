#include <algorithm>

#include "tests/kernels/kernel_test.h"

namespace lane::kernels {
namespace {

constexpr double kEps = 0x1p-24;  // one rounding

constexpr int64_t kWidths[] = {1, 2, 3, 15, 16, 17, 31, 33, 100, 255, 257, 1000, 4099, 20011};

// Row `row` of a matrix.
std::vector<float> row_of(const std::vector<float>& values, int64_t row, int64_t cols) {
  return {values.begin() + row * cols, values.begin() + (row + 1) * cols};
}

double inverse_rms(const float* x, int64_t count, double eps) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * x[i];
  return 1 / std::sqrt(sum / static_cast<double>(count) + eps);
}

TEST(RmsNorm, AgreesWithDouble) {
  Stream streams[3] = {Stream({}, 1), Stream({}, 2), Stream({}, 3)};
  for (const int64_t d : kWidths)
    for (const int64_t rows : {0, 1, 2, 5}) {
      std::vector<float> x = random_floats(rows * d, 11), gain = random_floats(d, 12);
      for (Stream& stream : streams) {
        Output out(rows, d);
        rms_norm(matrix(x, rows, d), vector_view(gain), 1e-5f, out.view(), stream);
        EXPECT_TRUE(out.guard_is_intact());
        for (int64_t r = 0; r < rows; ++r) {
          const double scale = inverse_rms(x.data() + r * d, d, 1e-5f);
          int64_t num_wrong = 0;
          for (int64_t i = 0; i < d; ++i) {
            const double exact = x[static_cast<size_t>(r * d + i)] * scale * gain[static_cast<size_t>(i)];
            // up to 21 roundings in the sum, halved by the root; 3 afterwards
            num_wrong += !(std::abs(out.at(r, i) - exact) <= 14 * kEps * std::abs(exact));
          }
          EXPECT_EQ(num_wrong, 0) << "d=" << d << " row " << r;
          Output alone(1, d);
          rms_norm(matrix(x, rows, d).row_range(r, 1), vector_view(gain), 1e-5f, alone.view(), streams[0]);
          EXPECT_EQ(row_of(out.values, r, d), row_of(alone.values, 0, d));
        }
      }
    }
}

TEST(RmsNorm, MayBeInPlace) {
  Stream stream({}, 2);
  std::vector<float> x = random_floats(3 * 100, 13), gain = random_floats(100, 14);
  Output out(3, 100);
  rms_norm(matrix(x, 3, 100), vector_view(gain), 1e-6f, out.view(), stream);
  rms_norm(matrix(x, 3, 100), vector_view(gain), 1e-6f, matrix(x, 3, 100), stream);
  EXPECT_TRUE(same_bits(x, out.values, 300));
}

TEST(HeadRmsNorm, NormalisesEachHeadAndNothingElse) {
  Stream stream({}, 2);
  for (const int64_t d : {1, 3, 64, 128}) {
    const int64_t rows = 4, heads = 3, first = 5, cols = first + heads * d + 7;
    const std::vector<float> before = random_floats(rows * cols, 15);
    std::vector<float> x = before, gain = random_floats(d, 16);
    head_rms_norm(matrix(x, rows, cols), first, heads, vector_view(gain), 1e-6f, stream);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) {
        const size_t i = static_cast<size_t>(r * cols + c);
        if (c < first || c >= first + heads * d) {
          EXPECT_EQ(x[i], before[i]);
          continue;
        }
        const int64_t head = (c - first) / d, j = (c - first) % d;
        const double scale = inverse_rms(before.data() + r * cols + first + head * d, d, 1e-6f);
        const double exact = before[i] * scale * gain[static_cast<size_t>(j)];
        EXPECT_NEAR(x[i], exact, 14 * kEps * std::abs(exact));
      }
  }
}

TEST(RopeTable, IsTheCosineAndSineOfAFloatAngle) {
  Stream stream({}, 2);
  const std::vector<int32_t> positions = {0, 1, 2, 77, 4095, 131071};
  for (const int64_t f : {1, 3, 32, 64}) {
    std::vector<float> inv_freq;
    for (int64_t j = 0; j < f; ++j)
      inv_freq.push_back(static_cast<float>(std::pow(10000.0, -static_cast<double>(j) / static_cast<double>(f))));
    Output out(static_cast<int64_t>(positions.size()), 2 * f);
    rope_table(view_of(positions), view_of(inv_freq), 1.25f, out.view(), stream);
    EXPECT_TRUE(out.guard_is_intact());
    for (size_t t = 0; t < positions.size(); ++t)
      for (int64_t j = 0; j < f; ++j) {
        const float angle = static_cast<float>(positions[t]) * inv_freq[static_cast<size_t>(j)];
        EXPECT_NEAR(out.at(static_cast<int64_t>(t), j), 1.25 * std::cos(static_cast<double>(angle)), 4 * kEps);
        EXPECT_NEAR(out.at(static_cast<int64_t>(t), f + j), 1.25 * std::sin(static_cast<double>(angle)), 4 * kEps);
      }
  }
}

TEST(Rope, RotatesTheFirstElementsOfEachHead) {
  Stream streams[3] = {Stream({}, 1), Stream({}, 2), Stream({}, 3)};
  for (const int64_t head_dim : {2, 6, 64, 128})
    for (const int64_t f : {head_dim / 2, (head_dim + 2) / 4}) {
      const int64_t tokens = 5, heads = 3, first = 2, cols = first + heads * head_dim + 3;
      const std::vector<float> before = random_floats(tokens * cols, 17);
      std::vector<float> table = random_floats(tokens * 2 * f, 18);
      for (Stream& stream : streams) {
        std::vector<float> x = before;
        rope(matrix(x, tokens, cols), first, heads, head_dim, matrix(table, tokens, 2 * f), stream);
        for (int64_t t = 0; t < tokens; ++t)
          for (int64_t c = 0; c < cols; ++c) {
            const size_t i = static_cast<size_t>(t * cols + c);
            const int64_t j = (c - first) % head_dim;
            if (c < first || c >= first + heads * head_dim || j >= 2 * f) {
              EXPECT_EQ(x[i], before[i]);
              continue;
            }
            const bool low = j < f;
            const double cosine = table[static_cast<size_t>(t * 2 * f + j % f)];
            const double sine = table[static_cast<size_t>(t * 2 * f + f + j % f)];
            const double partner = before[low ? i + static_cast<size_t>(f) : i - static_cast<size_t>(f)];
            const double exact = before[i] * cosine + (low ? -partner : partner) * sine;
            EXPECT_NEAR(x[i], exact, 2 * kEps * (std::abs(before[i] * cosine) + std::abs(partner * sine)) + 1e-30);
          }
      }
    }
}

TEST(SiluMul, AgreesWithDouble) {
  Stream streams[3] = {Stream({}, 1), Stream({}, 2), Stream({}, 3)};
  for (const int64_t f : kWidths)
    for (const int64_t rows : {0, 1, 3}) {
      std::vector<float> gate_up = random_floats(rows * 2 * f, 19);
      for (int64_t r = 0; r < rows; ++r)  // a wide range of gates
        for (int64_t i = 0; i < f; ++i) gate_up[static_cast<size_t>(r * 2 * f + i)] *= static_cast<float>(1 + i % 40);
      for (Stream& stream : streams) {
        Output out(rows, f);
        silu_mul(matrix(gate_up, rows, 2 * f), out.view(), stream);
        EXPECT_TRUE(out.guard_is_intact());
        int64_t num_wrong = 0;
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t i = 0; i < f; ++i) {
            const double gate = gate_up[static_cast<size_t>(r * 2 * f + i)];
            const double exact = gate / (1 + std::exp(-gate)) * gate_up[static_cast<size_t>(r * 2 * f + f + i)];
            // exp: 2 ulp = 4 roundings; the sum, the quotient and the product one each
            num_wrong += !(std::abs(out.at(r, i) - exact) <= 8 * kEps * std::abs(exact) + 1e-35);
          }
        EXPECT_EQ(num_wrong, 0) << "f=" << f << " rows=" << rows;
      }
    }
}

// The same element in the body and in the tail of a row, and in rows of any width, has the same bits.
TEST(SiluMul, DoesNotDependOnTheColumn) {
  Stream stream;
  const std::vector<float> gates = random_floats(301, 20), ups = random_floats(301, 21);
  for (int64_t f = 1; f <= 300; ++f) {
    std::vector<float> gate_up;
    for (const auto* half : {&gates, &ups}) gate_up.insert(gate_up.end(), half->end() - f, half->end());
    Output out(1, f), last(1, 1);
    silu_mul(matrix(gate_up, 1, 2 * f), out.view(), stream);
    std::vector<float> one = {gates.back(), ups.back()};
    silu_mul(matrix(one, 1, 2), last.view(), stream);
    ASSERT_EQ(out.at(0, f - 1), last.at(0, 0)) << f;
  }
}

TEST(SiluMul, ExtremeGatesSaturate) {
  Stream stream;
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> gate_up = {-1000, -88, 0, 88, 1000, inf, nan, 1, 1, 1, 1, 1, 1, 1};
  Output out(1, 7);
  silu_mul(matrix(gate_up, 1, 14), out.view(), stream);
  EXPECT_NEAR(out.at(0, 0), 0, 1e-33);
  EXPECT_NEAR(out.at(0, 1), 0, 1e-33);
  EXPECT_EQ(out.at(0, 2), 0);
  EXPECT_EQ(out.at(0, 3), 88);
  EXPECT_EQ(out.at(0, 4), 1000);
  EXPECT_EQ(out.at(0, 5), inf);
  EXPECT_TRUE(std::isnan(out.at(0, 6)));
}

TEST(Add, AddsEveryElement) {
  Stream streams[3] = {Stream({}, 1), Stream({}, 2), Stream({}, 3)};
  for (const int64_t cols : kWidths)
    for (const int64_t rows : {0, 1, 5})
      for (Stream& stream : streams) {
        std::vector<float> a = random_floats(rows * cols, 22), b = random_floats(rows * cols, 23);
        std::vector<float> expected = a;
        for (size_t i = 0; i < a.size(); ++i) expected[i] += b[i];
        add(matrix(a, rows, cols), matrix(b, rows, cols), stream);
        EXPECT_EQ(a, expected);
      }
}

TEST(Elementwise, RefuseShapesThatDoNotFit) {
  Stream stream;
  std::vector<float> a(64), b(64);
  EXPECT_THROW(add(matrix(a, 2, 8), matrix(b, 2, 7), stream), Error);
  EXPECT_THROW(rms_norm(matrix(a, 2, 8), matrix(b, 1, 7), 1e-5f, matrix(b, 2, 8), stream), Error);
  EXPECT_THROW(silu_mul(matrix(a, 2, 8), matrix(b, 2, 8), stream), Error);
  EXPECT_THROW(rope(matrix(a, 2, 8), 0, 2, 4, matrix(b, 2, 6), stream), Error);
  EXPECT_THROW(head_rms_norm(matrix(a, 2, 8), 4, 2, matrix(b, 1, 4), 1e-5f, stream), Error);
}

TEST(AddRmsNorm, IsTheSumThenTheNorm) {
  Stream stream({}, 2);
  const int64_t rows = 5, cols = 37;
  std::vector<float> x = random_floats(rows * cols, 11), residual = random_floats(rows * cols, 12),
                     gain = random_floats(cols, 13), sum = residual;
  add(matrix(sum, rows, cols), matrix(x, rows, cols), stream);
  Output wanted(rows, cols), out(rows, cols);
  rms_norm(matrix(sum, rows, cols), vector_view(gain), 1e-5f, wanted.view(), stream);
  add_rms_norm(matrix(x, rows, cols), matrix(residual, rows, cols), vector_view(gain), 1e-5f, out.view(), stream);
  EXPECT_TRUE(same_bits(residual, sum, rows * cols));
  EXPECT_TRUE(same_bits(out.values, wanted.values, rows * cols));
}

TEST(GatherRows, TakesTheRowsThatAreAskedFor) {
  Stream stream;
  std::vector<float> x = random_floats(6 * 11, 14);
  const std::vector<int32_t> rows = {5, 0, 3, 3};
  Output out(4, 11);
  gather_rows(matrix(x, 6, 11), view_of(rows), out.view(), stream);
  EXPECT_TRUE(out.guard_is_intact());
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t j = 0; j < 11; ++j)
      EXPECT_EQ(out.at(i, j), x[static_cast<size_t>(rows[static_cast<size_t>(i)] * 11 + j)]);
}

}  // namespace
}  // namespace lane::kernels
