// A GPU makes the CPU's bits.
#include "lane/base/random.h"
#include "tests/kernels/cuda/gpu_kernel_test.h"

namespace lane::kernels {
namespace {

struct Shape {
  int64_t first_row, rows, first_col, cols, tensor_cols;
};

// What the CPU has there, rounded to the type as set_rows() does.
std::vector<float> on_cpu(const RandomTensor& tensor, const Shape& s, DType type) {
  Stream stream;
  std::vector<float> values(static_cast<size_t>(s.rows * s.cols));
  const TensorView view{values.data(), DType::kF32, {1, 1, s.rows, s.cols}, {}};
  fill_random(tensor, s.first_row, s.first_col, view, stream);
  std::vector<char> rounded(values.size() * static_cast<size_t>(size_of(type)));
  convert(view, {rounded.data(), type, view.shape, {}});
  return to_floats(rounded, type, s.rows * s.cols);
}

TEST(RandomTensorsGpu, AreTheCpusBitForBit) {
  Stream stream(kGpu);
  // Whole rows, columns that begin inside a group of four, a vector, more rows than a grid has, places beyond 2^32.
  for (const Shape& s : {Shape{0, 5, 0, 64, 64},
                         {3, 70, 0, 1001, 1001},
                         {2, 33, 7, 50, 203},
                         {0, 1, 5, 4097, 9000},
                         {1, 70001, 1, 3, 6},
                         {300'000, 9, 16'001, 515, 28'672}})
    for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
      for (const auto& [mean, deviation] : {std::pair{0.0f, 0.02f}, {1.0f, 0.0f}, {-3.5f, 1.25f}, {0.0f, 1e-6f}}) {
        const RandomTensor tensor{
            .key = mix64(static_cast<uint64_t>(s.cols)), .cols = s.tensor_cols, .mean = mean, .deviation = deviation};
        const GpuMatrix out(s.rows, s.cols, type, stream);
        fill_random(tensor, s.first_row, s.first_col, out.view(), stream);
        const std::vector<float> got = out.read(stream), expected = on_cpu(tensor, s, type);
        size_t different = 0;
        for (size_t i = 0; i < got.size(); ++i)
          different += std::bit_cast<uint32_t>(got[i]) != std::bit_cast<uint32_t>(expected[i]);
        EXPECT_EQ(different, 0u) << s.rows << " x " << s.cols << " at " << s.first_row << ", " << s.first_col << " in "
                                 << name_of(type) << " around " << mean;
      }
}

}  // namespace
}  // namespace lane::kernels
