#pragma once
#include <cstdint>
#include <span>

#include "lane/base/dtype.h"
#include "lane/comm/communicator.h"

namespace lane {

struct Operand {
  const void* data;
  DType dtype;
};

// out[i] = ((operand 0 op operand 1) op operand 2) op ..., then / divisor, rounded once to out_dtype. Operands are
// float32 or all of one 16-bit type mixed with float32, accumulated in float32; or all int32, accumulated in 32 bits
// with wrap-around, division rounding toward zero. `out` may be one of the operands if it has its dtype. kMin and kMax:
// NaN if any is; kAvg adds (the divisor makes the average).
void reduce(std::span<const Operand> operands, void* out, DType out_dtype, int64_t count, ReduceOp op, int divisor = 1);

// Whether there is such a sum for elements of this type.
constexpr bool can_reduce(DType dtype) { return dtype != DType::kU8; }

// The type in which elements of `dtype` are kept and sent while they are partly summed.
constexpr DType partial_type(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 ? DType::kF32 : dtype;
}

}  // namespace lane
