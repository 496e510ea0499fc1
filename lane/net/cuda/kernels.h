// The benchmark's own kernels: what goes on before, between and instead of the all-reduces that are measured.
#pragma once
#include <cstdint>

#include "lane/device/stream.h"
#include "lane/device/tensor.h"

namespace lane::net::cuda {

// Two words of host memory that the GPU sees. The kernel says that it has arrived and stays until the gate is open, ten
// seconds at most.
struct GateWords {
  uint32_t arrived, open;
};
void enqueue_gate(GateWords* words, Stream& stream);

void enqueue_nothing(Stream& stream);  // an empty kernel: what any kernel costs

void enqueue_delay(int64_t cycles, Stream& stream);  // of the processors' clock

// Rows of 1024 bfloat16, each times one vector: reads 2 KiB a row, 16 bytes a load, and writes 4 bytes.
inline constexpr int64_t kGemvCols = 1024, kGemvRowBytes = 2 * kGemvCols;
void enqueue_gemv(const void* weights, const void* vector, float* out, int64_t rows, Stream& stream);

// residual += sum; normed = RMSNorm(residual, epsilon) * weight. Matrices [rows, hidden] of float32, bfloat16 or
// float16; a row is a multiple of 16 bytes, and of 64 KiB at most. One block a row.
void enqueue_add_rms_norm(TensorView sum, TensorView residual, TensorView weight, float epsilon, TensorView normed,
                          Stream& stream);

}  // namespace lane::net::cuda
