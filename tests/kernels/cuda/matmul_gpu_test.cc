#include <cuda_runtime_api.h>

#include "lane/device/cuda/native.cuh"
#include "lane/kernels/cuda/matmul_table.cuh"
#include "lane/kernels/cuda/skinny.cuh"
#include "tests/kernels/cuda/gpu_kernel_test.h"

namespace lane::kernels {
namespace {

// A product with its definition in double.
struct Product {
  int64_t m, n, k;
  GpuMatrix x, bias;
  PackedMatrix weight;
  std::vector<double> exact, magnitude;  // [m, n]: sum of x w + bias, and of |x| |w| + |bias|

  Product(DType type, int64_t m_, int64_t n_, int64_t k_, Stream& stream)
      : m(m_),
        n(n_),
        k(k_),
        x(random_floats(m * k, 1), m, k, type, stream),
        bias(random_floats(n, 2), 1, n, type, stream),
        weight(kGpu, type, n, k) {
    Converted w(random_floats(n * k, 3), n, k, type);
    weight.set_rows(0, w.view(), stream);
    for (int64_t r = 0; r < m; ++r)
      for (int64_t c = 0; c < n; ++c) {
        double sum = bias.floats[static_cast<size_t>(c)], size = std::abs(sum);
        const float *a = x.floats.data() + r * k, *b = w.floats.data() + c * k;
        for (int64_t i = 0; i < k; ++i) {
          sum += static_cast<double>(a[i]) * b[i];
          size += std::abs(static_cast<double>(a[i]) * b[i]);
        }
        exact.push_back(sum);
        magnitude.push_back(size);
      }
  }

  impl::DeviceMatrix matrix() const { return {weight.data(), weight.dtype(), n, k}; }

  bool goes_to_own(const TensorView& out, bool gated) const {
    return cuda::choose_way(m, n, k, gated).is_own && cuda::is_skinny(x.view(), matrix(), bias.view(), out);
  }

  // Products of 16-bit numbers are exact in float32; k sums, each rounded by 2^-24 of what was added up so far (tensor
  // cores truncate: twice that), then one rounding to the type. cuBLASLt's epilogues round the product before the bias
  // is added, and round again.
  double bound(size_t i, bool is_own) const {
    const double eps = epsilon_of(weight.dtype()), product = exact[i] - bias.floats[i % static_cast<size_t>(n)];
    return static_cast<double>(k + 2) * 0x1p-23 * magnitude[i] + eps * std::abs(exact[i]) +
           (is_own ? 0 : eps * (1 + eps) * std::abs(product)) + least_of(weight.dtype());
  }
  void expect_right(const std::vector<float>& got, bool is_own, const std::string& what) const {
    for (size_t i = 0; i < exact.size(); ++i) ASSERT_NEAR(got[i], exact[i], bound(i, is_own)) << what << " at " << i;
  }
};

class GpuMatmul : public testing::TestWithParam<DType> {
 protected:
  Stream stream_{kGpu};
};
INSTANTIATE_TEST_SUITE_P(Types, GpuMatmul, testing::ValuesIn(kWeightTypes),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST_P(GpuMatmul, IsRightForAllShapes) {
  for (const auto& [n, k] :
       {std::pair<int64_t, int64_t>{1, 8}, {16, 32}, {17, 40}, {100, 264}, {515, 1000}, {64, 4096}, {33, 7}})
    for (const int64_t m : {1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 70}) {
      const Product product(GetParam(), m, n, k, stream_);
      const GpuMatrix out(m, n, GetParam(), stream_);
      matmul(product.x.view(), product.weight, product.bias.view(), out.view(), stream_);
      product.expect_right(out.read(stream_), product.goes_to_own(out.view(), false),
                           "m=" + std::to_string(m) + " n=" + std::to_string(n) + " k=" + std::to_string(k));
    }
}

TEST_P(GpuMatmul, FewRowsAreRight) {
  if (GetParam() == DType::kF32) GTEST_SKIP() << "for 16-bit weights";
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{48, 64}, {131, 1040}, {256, 2056}, {4096, 1032}, {9096, 520}})
    for (const int64_t m : {1, 3, 4, 8, 9, 12, 16}) {
      const Product product(GetParam(), m, n, k, stream_);
      const GpuMatrix out(m, n, GetParam(), stream_);
      cuda::skinny_matmul(product.x.view(), product.matrix(), product.bias.view(), out.view(), false, stream_);
      product.expect_right(out.read(stream_), true, "m=" + std::to_string(m) + " n=" + std::to_string(n));
    }
}

TEST_P(GpuMatmul, GatedIsTheProductThenSiluMul) {
  for (const auto& [f, k] : {std::pair<int64_t, int64_t>{24, 64}, {70, 1032}})
    for (const int64_t m : {1, 5, 16, 32, 40, 70}) {
      const Product product(GetParam(), m, 2 * f, k, stream_);
      const auto expect_right = [&](const std::vector<float>& got, bool is_own, const std::string& what) {
        for (int64_t r = 0; r < m; ++r)
          for (int64_t c = 0; c < f; ++c) {
            const auto gate_at = static_cast<size_t>(r * 2 * f + c), up_at = gate_at + static_cast<size_t>(f);
            const double gate = product.exact[gate_at], up = product.exact[up_at];
            const double sigmoid = 1 / (1 + std::exp(-gate)), exact = gate * sigmoid * up;
            // d silu is at most 1.1 d gate; both factors may be rounded to the type on their way (cuBLAS).
            const double bound =
                1.1 * product.bound(gate_at, is_own) * std::abs(up) +
                product.bound(up_at, is_own) * (std::abs(gate * sigmoid) + 1.1 * product.bound(gate_at, is_own)) +
                (epsilon_of(GetParam()) + 0x1p-20) * std::abs(exact) + least_of(GetParam());
            ASSERT_NEAR(got[static_cast<size_t>(r * f + c)], exact, bound) << what;
          }
      };
      const GpuMatrix scratch(m, 2 * f, GetParam(), stream_), out(m, f, GetParam(), stream_);
      matmul_silu_mul(product.x.view(), product.weight, product.bias.view(), scratch.view(), out.view(), stream_);
      expect_right(out.read(stream_), product.goes_to_own(out.view(), true), "chosen");
      if (GetParam() == DType::kF32 || m > cuda::kSkinnyRows) continue;
      const GpuMatrix other(m, f, GetParam(), stream_);
      cuda::skinny_matmul(product.x.view(), product.matrix(), product.bias.view(), other.view(), true, stream_);
      expect_right(other.read(stream_), true, "its own");
    }
}

// The same bits in every run, and whatever and how many the other rows are.
TEST_P(GpuMatmul, FewRowsAreRepeatable) {
  if (GetParam() == DType::kF32) GTEST_SKIP() << "for 16-bit weights";
  constexpr int64_t kMost = cuda::kSkinnyRows;
  const Product product(GetParam(), kMost, 512, 2048, stream_);
  const auto rows_from = [&](int64_t first, int64_t rows) {
    const GpuMatrix out(rows, 512, GetParam(), stream_);
    cuda::skinny_matmul(product.x.view().row_range(first, rows), product.matrix(), product.bias.view(), out.view(),
                        false, stream_);
    return out.read(stream_);
  };
  const std::vector<float> wanted = rows_from(0, kMost);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(same_bits(rows_from(0, kMost), wanted, kMost * 512));
  for (const int64_t rows : {1, 5, 8, 9, 15}) {
    const int64_t first = kMost - rows;
    ASSERT_EQ(std::memcmp(rows_from(first, rows).data(), wanted.data() + first * 512,
                          static_cast<size_t>(rows) * 512 * sizeof(float)),
              0)
        << rows << " rows";
  }
}

// Chained kernels in a graph: a product feeds a norm feeds a product, replayed on changing inputs.
TEST_P(GpuMatmul, AGraphOfChainedKernelsGivesWhatEagerCallsGive) {
  const DType type = GetParam();
  const int64_t m = 3, d = 1024;
  Product first(type, m, d, d, stream_), second(type, m, d, d, stream_);
  const GpuMatrix gain(random_floats(d, 7), 1, d, type, stream_), a(m, d, type, stream_), b(m, d, type, stream_),
      c(m, d, type, stream_);
  const auto run = [&] {
    matmul(first.x.view(), first.weight, {}, a.view(), stream_);
    rms_norm(a.view(), gain.view(), 1e-5f, b.view(), stream_);
    matmul(b.view(), second.weight, {}, c.view(), stream_);
    rms_norm(c.view(), gain.view(), 1e-5f, first.x.view(), stream_);  // the next round's input
  };
  const Converted start(random_floats(m * d, 8), m, d, type);
  const auto restart = [&] {
    Converted copy = start;
    copy_to_device(copy.view().data, first.x.view(), stream_);
    stream_.synchronize();
  };
  restart();
  for (int i = 0; i < 50; ++i) run();
  const std::vector<float> wanted = first.x.read(stream_);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  cuda::check(cudaStreamBeginCapture(cuda::raw(stream_), cudaStreamCaptureModeThreadLocal), "capturing");
  run();
  cuda::check(cudaStreamEndCapture(cuda::raw(stream_), &graph), "capturing");
  cuda::check(cudaGraphInstantiate(&ready, graph, 0), "instantiating");
  restart();
  for (int i = 0; i < 50; ++i) cuda::check(cudaGraphLaunch(ready, cuda::raw(stream_)), "launching");
  EXPECT_TRUE(same_bits(first.x.read(stream_), wanted, m * d));
  cudaGraphExecDestroy(ready);
  cudaGraphDestroy(graph);
}

}  // namespace
}  // namespace lane::kernels
