#include "tests/kernels/cuda/gpu_kernel_test.h"

namespace lane::kernels {
namespace {

// Rows narrower than a warp, odd ones, ones that fill packs, and those of large models.
constexpr int64_t kWidths[] = {1, 3, 8, 31, 64, 100, 129, 1024, 4096, 5120, 8192, 16384};

class GpuElementwise : public testing::TestWithParam<DType> {
 protected:
  DType type() const { return GetParam(); }
  double eps() const { return epsilon_of(GetParam()); }
  Stream stream_{kGpu};
};
INSTANTIATE_TEST_SUITE_P(Types, GpuElementwise, testing::ValuesIn(kWeightTypes),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST_P(GpuElementwise, RmsNorm) {
  for (const int64_t d : kWidths)
    for (const int64_t rows : {1, 2, 7}) {
      const GpuMatrix x(random_floats(rows * d, 1), rows, d, type(), stream_),
          gain(random_floats(d, 2), 1, d, type(), stream_);
      const GpuMatrix out(rows, d, type(), stream_);
      rms_norm(x.view(), gain.view(), 1e-5f, out.view(), stream_);
      const std::vector<float> got = out.read(stream_);
      for (int64_t r = 0; r < rows; ++r) {
        double square = 0;
        for (int64_t i = 0; i < d; ++i) square += std::pow(x.floats[static_cast<size_t>(r * d + i)], 2);
        const double scale = 1 / std::sqrt(square / static_cast<double>(d) + 1e-5);
        for (int64_t i = 0; i < d; ++i) {
          const double exact = x.floats[static_cast<size_t>(r * d + i)] * scale * gain.floats[static_cast<size_t>(i)];
          // Rounding to the type; sums of d squares in float32, halved by the root; rsqrt and three products.
          const double bound = (eps() + static_cast<double>(d + 8) * 0x1p-24) * std::abs(exact) + least_of(type());
          ASSERT_NEAR(got[static_cast<size_t>(r * d + i)], exact, bound) << "d=" << d << " row " << r << " at " << i;
        }
      }
    }
}

TEST_P(GpuElementwise, AddRmsNorm) {
  for (const int64_t d : kWidths) {
    const int64_t rows = 5;
    const GpuMatrix x(random_floats(rows * d, 1), rows, d, type(), stream_),
        residual(random_floats(rows * d, 3), rows, d, type(), stream_),
        gain(random_floats(d, 2), 1, d, type(), stream_);
    const GpuMatrix out(rows, d, type(), stream_), alone(rows, d, type(), stream_);
    add_rms_norm(x.view(), residual.view(), gain.view(), 1e-5f, out.view(), stream_);
    const std::vector<float> sum = residual.read(stream_);
    for (size_t i = 0; i < sum.size(); ++i)
      ASSERT_EQ(sum[i], Converted({x.floats[i] + residual.floats[i]}, 1, 1, type()).floats[0]) << "d=" << d;
    rms_norm(residual.view(), gain.view(), 1e-5f, alone.view(), stream_);
    ASSERT_TRUE(same_bits(out.read(stream_), alone.read(stream_), rows * d)) << "d=" << d;
  }
}

TEST_P(GpuElementwise, HeadRmsNormLeavesTheRestAlone) {
  for (const int64_t d : {8, 64, 96, 128, 256}) {
    const int64_t rows = 3, heads = 5, first = d, cols = d * (heads + 2);
    const GpuMatrix x(random_floats(rows * cols, 1), rows, cols, type(), stream_),
        gain(random_floats(d, 2), 1, d, type(), stream_);
    head_rms_norm(x.view(), first, heads, gain.view(), 1e-6f, stream_);
    const std::vector<float> got = x.read(stream_);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) {
        const auto at = [&](int64_t col) { return static_cast<size_t>(r * cols + col); };
        const int64_t head = (c - first) / d;
        if (c < first || head >= heads) {
          ASSERT_EQ(got[at(c)], x.floats[at(c)]);
          continue;
        }
        double square = 0;
        for (int64_t i = 0; i < d; ++i) square += std::pow(x.floats[at(first + head * d + i)], 2);
        const double exact = x.floats[at(c)] / std::sqrt(square / static_cast<double>(d) + 1e-6) *
                             gain.floats[static_cast<size_t>((c - first) % d)];
        ASSERT_NEAR(got[at(c)], exact,
                    (eps() + static_cast<double>(d + 8) * 0x1p-24) * std::abs(exact) + least_of(type()));
      }
  }
}

TEST_P(GpuElementwise, Rope) {
  const int64_t tokens = 4, heads = 3, d = 64, cols = d * 5;
  const std::vector<int32_t> positions = {0, 1, 4095, 131071};
  for (const int64_t f : {8, 32}) {
    std::vector<float> frequencies;
    for (int64_t j = 0; j < f; ++j)
      frequencies.push_back(static_cast<float>(std::pow(500000.0, -static_cast<double>(j) / static_cast<double>(f))));
    const Buffer where = list_on_gpu(positions, stream_);
    const GpuMatrix inv_freq(frequencies, 1, f, DType::kF32, stream_), table(tokens, 2 * f, DType::kF32, stream_);
    rope_table(where.view(), inv_freq.view(), 1.5f, table.view(), stream_);
    const std::vector<float> cos_sin = table.read(stream_);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t j = 0; j < f; ++j) {
        const double angle =
            static_cast<float>(positions[static_cast<size_t>(t)]) * frequencies[static_cast<size_t>(j)];
        // CUDA's sincosf is within 2 units in the last place of values up to 1.
        ASSERT_NEAR(cos_sin[static_cast<size_t>(t * 2 * f + j)], 1.5 * std::cos(angle), 1.5 * 6 * 0x1p-24);
        ASSERT_NEAR(cos_sin[static_cast<size_t>(t * 2 * f + f + j)], 1.5 * std::sin(angle), 1.5 * 6 * 0x1p-24);
      }
    const GpuMatrix x(random_floats(tokens * cols, 5), tokens, cols, type(), stream_);
    rope(x.view(), d, heads, d, table.view(), stream_);
    const std::vector<float> got = x.read(stream_);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t c = 0; c < cols; ++c) {
        const int64_t head = (c - d) / d, j = (c - d) % d;
        const auto value = [&](int64_t col) { return x.floats[static_cast<size_t>(t * cols + col)]; };
        double exact = value(c), size = 0;
        if (c >= d && head < heads && j < 2 * f) {
          const int64_t pair = j % f, base = d + head * d;
          const double cosine = cos_sin[static_cast<size_t>(t * 2 * f + pair)],
                       sine = cos_sin[static_cast<size_t>(t * 2 * f + f + pair)];
          const double a = value(base + pair), b = value(base + f + pair);
          exact = j < f ? a * cosine - b * sine : b * cosine + a * sine;
          size = std::abs(a * cosine) + std::abs(b * sine) + std::abs(b * cosine) + std::abs(a * sine);
        }
        ASSERT_NEAR(got[static_cast<size_t>(t * cols + c)], exact, eps() * std::abs(exact) + size * 3 * 0x1p-24);
      }
  }
}

TEST_P(GpuElementwise, SiluMul) {
  for (const int64_t f : kWidths)
    for (const int64_t rows : {1, 5}) {
      const GpuMatrix x(random_floats(rows * 2 * f, 1), rows, 2 * f, type(), stream_), out(rows, f, type(), stream_);
      silu_mul(x.view(), out.view(), stream_);
      const std::vector<float> got = out.read(stream_);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < f; ++i) {
          const double gate = x.floats[static_cast<size_t>(r * 2 * f + i)],
                       up = x.floats[static_cast<size_t>(r * 2 * f + f + i)];
          const double exact = gate / (1 + std::exp(-gate)) * up;
          // __expf is good to about 2^-21 for the sizes here; a division and two products.
          ASSERT_NEAR(got[static_cast<size_t>(r * f + i)], exact,
                      (eps() + 0x1p-20) * std::abs(exact) + least_of(type()))
              << "f=" << f;
        }
    }
}

TEST_P(GpuElementwise, EmbeddingGatherAndAdd) {
  for (const int64_t k : {1, 9, 64, 1000, 4096}) {
    const int64_t n = 20;
    Converted rows(random_floats(n * k, 9), n, k, type());
    PackedMatrix table(kGpu, type(), n, k);
    table.set_rows(0, rows.view().row_range(0, 7), stream_);
    table.set_rows(7, rows.view().row_range(7, n - 7), stream_);
    const std::vector<int32_t> ids = {100, 119, 99, 120, 0, 107, 107}, wanted = {6, 0, 1, 1};
    const Buffer id_list = list_on_gpu(ids, stream_), row_list = list_on_gpu(wanted, stream_);
    const GpuMatrix out(7, k, type(), stream_), gathered(4, k, type(), stream_);
    embedding(table, id_list.view(), 100, out.view(), stream_);
    gather_rows(out.view(), row_list.view(), gathered.view(), stream_);
    const std::vector<float> got = out.read(stream_), some = gathered.read(stream_);
    const auto expected = [&](size_t i, int64_t j) {
      const int64_t row = ids[i] - 100;
      return row >= 0 && row < n ? rows.floats[static_cast<size_t>(row * k + j)] : 0.0f;
    };
    for (int64_t j = 0; j < k; ++j) {
      for (size_t i = 0; i < ids.size(); ++i)
        ASSERT_EQ(got[i * static_cast<size_t>(k) + static_cast<size_t>(j)], expected(i, j));
      for (size_t i = 0; i < wanted.size(); ++i)
        ASSERT_EQ(some[i * static_cast<size_t>(k) + static_cast<size_t>(j)],
                  expected(static_cast<size_t>(wanted[i]), j));
    }
    add(out.view(), out.view(), stream_);
    EXPECT_EQ(out.read(stream_)[0], 2 * got[0]);
  }
}

TEST_P(GpuElementwise, NothingIsNoWork) {
  const GpuMatrix none(0, 64, type(), stream_), gain(random_floats(64, 2), 1, 64, type(), stream_);
  rms_norm(none.view(), gain.view(), 1e-5f, none.view(), stream_);
  silu_mul(GpuMatrix(0, 128, type(), stream_).view(), none.view(), stream_);
  gather_rows(gain.view(), list_on_gpu({}, stream_).view(), none.view(), stream_);
  stream_.synchronize();
}

}  // namespace
}  // namespace lane::kernels
