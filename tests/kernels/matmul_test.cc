#include <algorithm>
#include <string>

#include "lane/kernels/cpu/isa.h"
#include "tests/kernels/kernel_test.h"

namespace lane::kernels::cpu {

// How a parameter is shown: the default would print addresses, and so another name in every run.
void PrintTo(const Candidate& candidate, std::ostream* out) { *out << candidate.isa->name; }

}  // namespace lane::kernels::cpu

namespace lane::kernels {
namespace {

// A product with its definition in double; k inputs, n columns, and as many rows as any case below takes.
struct Case {
  int64_t m, n, k;
  std::vector<float> x, bias;
  Converted w;
  PackedMatrix packed;
  std::vector<double> exact, magnitude;  // sum of x w + bias, and of |x| |w| + |bias|

  Case(DType dtype, int64_t m_, int64_t n_, int64_t k_)
      : m(m_),
        n(n_),
        k(k_),
        x(random_floats(m * k, 1)),
        bias(random_floats(n, 2)),
        w(random_floats(n * k, 3), n, k, dtype),
        packed({}, dtype, n, k) {
    Stream stream;
    packed.set_rows(0, w.view(), stream);
    for (int64_t r = 0; r < m; ++r)
      for (int64_t c = 0; c < n; ++c) {
        double sum = bias[static_cast<size_t>(c)], size = std::abs(sum);
        const float *a = x.data() + r * k, *b = w.floats.data() + c * k;
        for (int64_t i = 0; i < k; ++i) {
          const double product = static_cast<double>(a[i]) * b[i];
          sum += product;
          size += std::abs(product);
        }
        exact.push_back(sum);
        magnitude.push_back(size);
      }
  }

  Output run(const cpu::Isa& isa, int64_t rows, Stream& stream) {
    Output out(rows, n);
    cpu::matmul(isa, TensorView{x.data(), DType::kF32, {1, 1, rows, k}, {}}, packed, vector_view(bias), out.view(),
                stream.threads());
    EXPECT_TRUE(out.guard_is_intact());
    return out;
  }

  // k products and k + 1 sums, each rounded by up to 2^-24 of itself. Inputs rounded to bfloat16 add 2^-8.
  double bound(const cpu::Isa& isa, int64_t i) const {
    const bool rounds_inputs = (packed.dtype() == DType::kBF16) && isa.bf16.stage != nullptr;
    const double relative = static_cast<double>(2 * k + 2) * 0x1p-24 + (rounds_inputs ? 0x1p-8 : 0);
    return relative * magnitude[static_cast<size_t>(i)] + 1e-30;
  }
};

class MatmulTest : public testing::TestWithParam<cpu::Candidate> {
 protected:
  void SetUp() override {
    if (GetParam().missing)
      GTEST_SKIP() << "this machine has no " << GetParam().missing << ", which " << isa().name << " needs";
  }
  const cpu::Isa& isa() const { return *GetParam().isa; }
  Stream streams_[3] = {Stream({}, 1), Stream({}, 2), Stream({}, 3)};

  // The whole product is right, and its first rows alone have the same bits on every number of threads.
  void check(Case& product, std::initializer_list<int64_t> row_counts) {
    SCOPED_TRACE(std::string(name_of(product.packed.dtype())) + " m=" + std::to_string(product.m) +
                 " n=" + std::to_string(product.n) + " k=" + std::to_string(product.k));
    const Output all = product.run(isa(), product.m, streams_[0]);
    int64_t num_wrong = 0;
    for (int64_t i = 0; i < all.count(); ++i) {
      const double error = std::abs(all.values[static_cast<size_t>(i)] - product.exact[static_cast<size_t>(i)]);
      if (!(error <= product.bound(isa(), i))) ++num_wrong;  // NaN is wrong too
    }
    EXPECT_EQ(num_wrong, 0);
    for (const int64_t rows : row_counts)
      for (Stream& stream : streams_) {
        const Output some = product.run(isa(), rows, stream);
        EXPECT_TRUE(same_bits(some.values, all.values, some.count()))
            << rows << " of the rows on " << stream.threads().size() << " threads";
      }
  }
};

TEST_P(MatmulTest, AgreesWithDoubleOnAwkwardSizes) {
  for (const DType dtype : kWeightTypes)
    for (const int64_t k : {1, 2, 3, 15, 16, 17, 31, 33, 100})
      for (const int64_t n : {1, 2, 3, 15, 16, 17, 31, 33, 100, 161}) {
        Case product(dtype, 13, n, k);
        check(product, {1, 3});
      }
}

TEST_P(MatmulTest, ARowDoesNotDependOnItsBatch) {
  for (const DType dtype : kWeightTypes) {
    Case product(dtype, 33, 333, 1003);
    check(product, {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33});
  }
}

TEST_P(MatmulTest, ManyRowsAreTiledOverInputsRowsAndColumns) {
  for (const DType dtype : kWeightTypes) {
    Case product(dtype, 203, 281, 1101);
    check(product, {1, 6, 24, 25, 48, 49, 97, 203});
  }
}

TEST_P(MatmulTest, BiasIsOptionalAndNoRowsAreNoWork) {
  Case product(DType::kBF16, 3, 20, 7);
  Output out(3, 20);
  cpu::matmul(isa(), matrix(product.x, 3, 7), product.packed, {}, out.view(), streams_[1].threads());
  for (int64_t i = 0; i < out.count(); ++i) {
    const double exact = product.exact[static_cast<size_t>(i)] - product.bias[static_cast<size_t>(i % 20)];
    EXPECT_NEAR(out.values[static_cast<size_t>(i)], exact, product.bound(isa(), i));
  }
  Output none(0, 20);
  cpu::matmul(isa(), matrix(product.x, 0, 7), product.packed, {}, none.view(), streams_[1].threads());
  EXPECT_TRUE(none.guard_is_intact());
}

// One accumulator, inputs in order, one rounding per input where the instructions are fused.
TEST_P(MatmulTest, AddsInputsOneAfterTheOther) {
  if (isa().bf16.stage) GTEST_SKIP() << isa().name << " adds bfloat16 inputs in pairs";
  for (const DType dtype : kWeightTypes) {
    Case product(dtype, 7, 37, 601);
    const Output out = product.run(isa(), 7, streams_[0]);
    bool fused_everywhere = true, split_everywhere = true;
    for (int64_t r = 0; r < product.m; ++r)
      for (int64_t c = 0; c < product.n; ++c) {
        float fused = product.bias[static_cast<size_t>(c)], split = fused;
        for (int64_t i = 0; i < product.k; ++i) {
          const float a = product.x[static_cast<size_t>(r * product.k + i)];
          const float b = product.w.floats[static_cast<size_t>(c * product.k + i)];
          fused = std::fma(a, b, fused);
          volatile float rounded = a * b;  // no fusing here
          split += rounded;
        }
        fused_everywhere &= fused == out.at(r, c);
        split_everywhere &= split == out.at(r, c);
      }
    EXPECT_TRUE(fused_everywhere || split_everywhere) << name_of(dtype);
  }
}

// A row of zeros against infinite weights: padding must not leak NaN into what exists.
TEST_P(MatmulTest, PaddingDoesNotReachResults) {
  for (const DType dtype : kWeightTypes) {
    Case product(dtype, 2, 17, 5);
    std::fill(product.x.begin(), product.x.end(), std::numeric_limits<float>::infinity());
    Converted ones(std::vector<float>(17 * 5, 1.0f), 17, 5, dtype);
    product.packed.set_rows(0, ones.view(), streams_[0]);
    const Output out = product.run(isa(), 2, streams_[0]);
    if (isa().bf16.stage && dtype == DType::kBF16) continue;  // pairs an odd last input with 0 * 0
    for (int64_t i = 0; i < out.count(); ++i) EXPECT_TRUE(std::isinf(out.values[static_cast<size_t>(i)]));
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, MatmulTest, testing::ValuesIn(cpu::candidates().begin(), cpu::candidates().end()),
                         [](const auto& info) { return std::string(info.param.isa->name); });

TEST(ChooseIsa, TakesTheBestAtOrBelowTheCap) {
  const cpu::Isa best{.name = "avx512", .f32 = {}, .bf16 = {}, .f16 = {}};
  const cpu::Isa middle{.name = "avx2", .f32 = {}, .bf16 = {}, .f16 = {}};
  const cpu::Candidate all[] = {{&best, nullptr}, {&middle, nullptr}, {&cpu::kBaseline, nullptr}};
  EXPECT_STREQ(cpu::choose_isa(all, "auto").name, "avx512");
  EXPECT_STREQ(cpu::choose_isa(all, "avx2").name, "avx2");
  EXPECT_STREQ(cpu::choose_isa(all, "baseline").name, "baseline");
  const cpu::Candidate old[] = {{&best, "avx512f"}, {&middle, nullptr}, {&cpu::kBaseline, nullptr}};
  EXPECT_STREQ(cpu::choose_isa(old, "auto").name, "avx2");
  EXPECT_STREQ(cpu::choose_isa(old, "avx512").name, "avx2");
  EXPECT_STREQ(cpu::choose_isa({&all[2], 1}, "avx2").name, "baseline");  // another architecture
  EXPECT_THROW(cpu::choose_isa(all, "sse9"), Error);
}

TEST(Matmul, RunsOnTheChosenInstructions) {
  Case product(DType::kBF16, 5, 40, 64);
  Stream stream({}, 2);
  Output out(5, 40);
  matmul(matrix(product.x, 5, 64), product.packed, vector_view(product.bias), out.view(), stream);
  for (const cpu::Candidate& candidate : cpu::candidates())
    if (candidate.isa->name == cpu_isa()) {
      EXPECT_TRUE(same_bits(out.values, product.run(*candidate.isa, 5, stream).values, out.count()));
    }
}

TEST(Matmul, RefusesShapesThatDoNotFit) {
  Case product(DType::kF32, 2, 4, 8);
  Stream stream;
  Output out(2, 4), wide(2, 5);
  const TensorView x = matrix(product.x, 2, 8), bias = vector_view(product.bias);
  EXPECT_THROW(matmul(matrix(product.x, 2, 7), product.packed, bias, out.view(), stream), Error);
  EXPECT_THROW(matmul(x, product.packed, bias, wide.view(), stream), Error);
  EXPECT_THROW(matmul(x, product.packed, x, out.view(), stream), Error);
  EXPECT_NO_THROW(matmul(x, product.packed, bias, out.view(), stream));
}

}  // namespace
}  // namespace lane::kernels
