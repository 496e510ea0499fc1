#pragma once
#include "lane/device/tensor.h"
#include "tests/kernels/kernel_test.h"

// What the tests of the kernels on a GPU share: tensors there, poisoned before they are written, with a guard behind
// the end, and bounds for results that are rounded to a type.
namespace lane::kernels {

inline constexpr Device kGpu{.kind = DeviceKind::kCuda, .index = 0};

// 2^-8 for bfloat16: half a unit in the last place is at most this share of the value.
// Rounding to the type: by this share of a number, or by this much near zero, where float16's numbers are evenly
// spaced.
inline double epsilon_of(DType type) { return type == DType::kBF16 ? 0x1p-8 : type == DType::kF16 ? 0x1p-11 : 0x1p-24; }
inline double least_of(DType type) { return type == DType::kF16 ? 0x1p-25 : 1e-30; }

inline std::vector<float> to_floats(const std::vector<char>& bytes, DType type, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    if (type == DType::kF32) {
      std::memcpy(&values[i], bytes.data() + 4 * i, 4);
      continue;
    }
    uint16_t half;
    std::memcpy(&half, bytes.data() + 2 * i, 2);
    values[i] = type == DType::kBF16 ? float_from_bf16(half) : float_from_f16(half);
  }
  return values;
}

// A matrix on the GPU; `floats` is what it holds after rounding to its type.
class GpuMatrix {
 public:
  static constexpr int64_t kGuard = 256;  // bytes of 0xff behind it: NaN in every type

  GpuMatrix(const std::vector<float>& values, int64_t rows, int64_t cols, DType type, Stream& stream)
      : GpuMatrix(rows, cols, type, stream) {
    Converted converted(values, rows, cols, type);
    floats = converted.floats;
    copy_to_device(converted.view().data, view(), stream);
    stream.synchronize();
  }
  // Poisoned.
  GpuMatrix(int64_t rows, int64_t cols, DType type, Stream& stream)
      : rows_(rows), cols_(cols), type_(type), buffer_(kGpu, rows * cols * size_of(type) + kGuard) {
    const std::vector<char> poison(static_cast<size_t>(buffer_.bytes()), '\xff');
    copy_to_device(poison.data(), buffer_.view(), stream);
    stream.synchronize();
  }

  TensorView view() const { return buffer_.view(type_, {1, 1, rows_, cols_}); }

  std::vector<float> read(Stream& stream) const {
    std::vector<char> bytes(static_cast<size_t>(buffer_.bytes()));
    copy_to_host(buffer_.view(), bytes.data(), stream);
    for (int64_t i = buffer_.bytes() - kGuard; i < buffer_.bytes(); ++i)
      EXPECT_EQ(bytes[static_cast<size_t>(i)], '\xff') << "written behind the end";
    return to_floats(bytes, type_, rows_ * cols_);
  }

  std::vector<float> floats;

 private:
  int64_t rows_, cols_;
  DType type_;
  Buffer buffer_;
};

inline Buffer list_on_gpu(const std::vector<int32_t>& list, Stream& stream) {
  Buffer buffer(DType::kI32, {1, 1, 1, static_cast<int64_t>(list.size())}, kGpu);
  copy_to_device(list.data(), buffer.view(), stream);
  stream.synchronize();
  return buffer;
}

}  // namespace lane::kernels
