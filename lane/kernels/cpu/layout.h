#pragma once
#include "lane/base/dtype.h"
#include "lane/kernels/cpu/matmul.h"

namespace lane::kernels::cpu {

// Where the elements of a packed matrix are (the layout itself is drawn in matmul.h).
struct Layout {
  Layout(DType dtype, int64_t n, int64_t k)
      : pair_bytes(2 * kGroup * size_of(dtype)),
        group_bytes((k + 1) / 2 * pair_bytes),
        bytes((n + kGroup - 1) / kGroup * group_bytes) {}

  int64_t pair_bytes;   // two inputs of one group
  int64_t group_bytes;  // all inputs of one group
  int64_t bytes;
};

}  // namespace lane::kernels::cpu
