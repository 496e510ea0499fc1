#include "lane/comm/executor/reduce.h"

#include <algorithm>
#include <cstring>

#include "lane/base/error.h"
#include "lane/base/settings.h"

namespace lane {
namespace {

constexpr int64_t kBlock = 512;  // elements; the block of sums stays in the first-level cache

// Everything below is inlined into one function per instruction set, so that the compiler vectorises it for each.
#define LANE_INLINE inline __attribute__((always_inline))

template <DType kType>
LANE_INLINE float load(const void* data, int64_t i) {
  if constexpr (kType == DType::kF32)
    return static_cast<const float*>(data)[i];
  else if constexpr (kType == DType::kBF16)
    return float_from_bf16(static_cast<const uint16_t*>(data)[i]);
  else
    return float_from_f16(static_cast<const uint16_t*>(data)[i]);
}

template <DType kType>
LANE_INLINE void store(void* data, int64_t i, float value) {
  if constexpr (kType == DType::kF32)
    static_cast<float*>(data)[i] = value;
  else if constexpr (kType == DType::kBF16)
    static_cast<uint16_t*>(data)[i] = bf16_from_float(value);
  else
    static_cast<uint16_t*>(data)[i] = f16_from_float(value);
}

template <DType kType>
LANE_INLINE void accumulate(const void* data, int64_t first, int64_t count, bool is_first, ReduceOp op, float* sums) {
  if (is_first)
    for (int64_t i = 0; i < count; ++i) sums[i] = load<kType>(data, first + i);
  else if (op == ReduceOp::kSum)
    for (int64_t i = 0; i < count; ++i) sums[i] += load<kType>(data, first + i);
  else
    for (int64_t i = 0; i < count; ++i) {
      const float value = load<kType>(data, first + i);
      sums[i] = value > sums[i] || value != value ? value : sums[i];
    }
}

template <DType kType>
LANE_INLINE void round_to(void* data, int64_t first, int64_t count, const float* sums) {
  for (int64_t i = 0; i < count; ++i) store<kType>(data, first + i, sums[i]);
}

LANE_INLINE void reduce_any(std::span<const Operand> operands, void* out, DType out_dtype, int64_t count, ReduceOp op) {
  alignas(64) float sums[kBlock];
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t length = std::min(kBlock, count - first);
    for (const Operand& operand : operands) {
      const bool is_first = &operand == operands.data();
      if (operand.dtype == DType::kF32)
        accumulate<DType::kF32>(operand.data, first, length, is_first, op, sums);
      else if (operand.dtype == DType::kBF16)
        accumulate<DType::kBF16>(operand.data, first, length, is_first, op, sums);
      else
        accumulate<DType::kF16>(operand.data, first, length, is_first, op, sums);
    }
    if (out_dtype == DType::kF32)
      round_to<DType::kF32>(out, first, length, sums);
    else if (out_dtype == DType::kBF16)
      round_to<DType::kBF16>(out, first, length, sums);
    else
      round_to<DType::kF16>(out, first, length, sums);
  }
}

using Reduce = void (*)(std::span<const Operand>, void*, DType, int64_t, ReduceOp);

void reduce_baseline(std::span<const Operand> operands, void* out, DType out_dtype, int64_t count, ReduceOp op) {
  reduce_any(operands, out, out_dtype, count, op);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void reduce_avx2(std::span<const Operand> operands, void* out, DType out_dtype,
                                                 int64_t count, ReduceOp op) {
  reduce_any(operands, out, out_dtype, count, op);
}

Reduce best_reduce() {
  return __builtin_cpu_supports("avx2") && setting("LANE_ISA") != "baseline" ? reduce_avx2 : reduce_baseline;
}
#else
Reduce best_reduce() { return reduce_baseline; }
#endif

}  // namespace

void reduce(std::span<const Operand> operands, void* out, DType out_dtype, int64_t count, ReduceOp op) {
  static const Reduce kReduce = best_reduce();
  kReduce(operands, out, out_dtype, count, op);
}

}  // namespace lane
