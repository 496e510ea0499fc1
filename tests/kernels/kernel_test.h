#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "lane/base/random.h"
#include "lane/kernels/kernels.h"

// What the tests of the kernels share: random matrices, outputs that start as NaN, and comparison of bits.
namespace lane::kernels {

// Roughly normal (a sum of four uniforms), reproducible.
inline std::vector<float> random_floats(int64_t count, uint64_t key) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    double sum = -2;
    for (uint64_t j = 0; j < 4; ++j) sum += random_uniform(key, 4 * i + j);
    values[i] = static_cast<float>(sum * 1.7);
  }
  return values;
}

inline TensorView matrix(std::vector<float>& values, int64_t rows, int64_t cols) {
  return {values.data(), DType::kF32, {1, 1, rows, cols}, {}};
}
inline TensorView vector_view(std::vector<float>& values) {
  return matrix(values, 1, static_cast<int64_t>(values.size()));
}

// A result nobody has written yet: all NaN, with a few NaN behind the end that must stay.
struct Output {
  static constexpr int64_t kGuard = 64;
  std::vector<float> values;
  int64_t rows, cols;

  Output(int64_t r, int64_t c)
      : values(static_cast<size_t>(r * c + kGuard), std::numeric_limits<float>::quiet_NaN()), rows(r), cols(c) {}
  TensorView view() { return {values.data(), DType::kF32, {1, 1, rows, cols}, {}}; }
  int64_t count() const { return rows * cols; }
  float at(int64_t r, int64_t c) const { return values[static_cast<size_t>(r * cols + c)]; }
  bool guard_is_intact() const {
    for (int64_t i = count(); i < count() + kGuard; ++i)
      if (!std::isnan(values[static_cast<size_t>(i)])) return false;
    return true;
  }
};

// Whether the first `count` values have the same bits.
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b, int64_t count) {
  return std::memcmp(a.data(), b.data(), static_cast<size_t>(count) * sizeof(float)) == 0;
}

// Values as a tensor of another type, and what it holds.
struct Converted {
  DType dtype;
  int64_t rows, cols;
  std::vector<uint16_t> halves;
  std::vector<float> floats;  // the values after rounding

  Converted(const std::vector<float>& values, int64_t r, int64_t c, DType type)
      : dtype(type), rows(r), cols(c), floats(values) {
    if (type == DType::kF32) return;
    for (float& value : floats) {
      halves.push_back(type == DType::kBF16 ? bf16_from_float(value) : f16_from_float(value));
      value = type == DType::kBF16 ? float_from_bf16(halves.back()) : float_from_f16(halves.back());
    }
  }
  TensorView view() {
    void* const data = dtype == DType::kF32 ? static_cast<void*>(floats.data()) : halves.data();
    return {data, dtype, {1, 1, rows, cols}, {}};
  }
};

inline constexpr DType kWeightTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

}  // namespace lane::kernels
