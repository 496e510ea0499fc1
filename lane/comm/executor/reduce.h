#pragma once
#include <cstdint>
#include <span>

#include "lane/base/dtype.h"
#include "lane/comm/communicator.h"

namespace lane {

struct Operand {
  const void* data;
  DType dtype;  // kF32, kBF16 or kF16
};

// out[i] = ((operand 0 + operand 1) + operand 2) + ... in float32, rounded once to out_dtype. `out` may be one of the
// operands if it has its dtype. kMax: the largest; NaN if any is.
void reduce(std::span<const Operand> operands, void* out, DType out_dtype, int64_t count, ReduceOp op);

}  // namespace lane
