// What two_shot_fp8 computes, rank by rank in plain C++.
#pragma once
#include <algorithm>
#include <span>
#include <vector>

#include "lane/comm/cuda/fp8_lines.h"

namespace lane::cuda {

struct Fp8Sum {
  std::vector<float> sums;     // before they are rounded to the vectors' type; rounding them gives the GPU's bits
  std::vector<double> bounds;  // of their distance to the exact sums
};

inline Fp8Sum fp8_sum(const std::vector<std::vector<float>>& inputs, bool is_average = false) {
  constexpr int64_t kGroup = kFp8PerLine * kLinesPerScale;
  const auto size = static_cast<int>(inputs.size());
  const auto count = static_cast<int64_t>(inputs[0].size());
  const Fp8Parts parts = fp8_parts(count, size);
  Fp8Sum result;
  for (int64_t first = 0; first < count; first += kGroup) {
    const auto length = static_cast<size_t>(std::min(kGroup, count - first));
    const auto owner = static_cast<int>(first / (parts.part * kFp8PerLine));
    std::vector<float> sums(length);
    std::vector<double> bounds(length), exact(length);
    for (int r = 0; r < size; ++r) {
      const std::span<const float> values(inputs[static_cast<size_t>(r)].data() + first, length);
      const Fp8Group group = fp8_group(values);
      double largest = 0;
      for (const float value : values) largest = std::max(largest, static_cast<double>(std::abs(value)));
      for (size_t i = 0; i < length; ++i) {
        const float value = r == owner ? values[i] : group.at(static_cast<int>(i));
        sums[i] = r == 0 ? value : sums[i] + value;
        exact[i] += static_cast<double>(values[i]);
        if (r != owner) bounds[i] += fp8_error(static_cast<double>(values[i]), largest);
        bounds[i] += size * 0x1p-24 * std::abs(static_cast<double>(values[i]));  // float32's rounding, generously
      }
    }
    const float divisor = is_average ? static_cast<float>(size) : 1;
    for (float& sum : sums) sum /= divisor;
    const Fp8Group group = fp8_group(sums);
    double largest = 0;
    for (const float sum : sums) largest = std::max(largest, static_cast<double>(std::abs(sum)));
    for (size_t i = 0; i < length; ++i) {
      result.sums.push_back(group.at(static_cast<int>(i)));
      result.bounds.push_back(bounds[i] / static_cast<double>(divisor) * 18 / 17 +
                              fp8_error(exact[i] / static_cast<double>(divisor), largest));
    }
  }
  return result;
}

}  // namespace lane::cuda
