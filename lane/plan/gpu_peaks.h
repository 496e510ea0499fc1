#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace lane::plan {

// What a datasheet promises of a GPU: dense 16-bit tensor arithmetic and memory.
struct GpuPeaks {
  std::string name;
  double flops_per_s = 0, read_bytes_per_s = 0;
  int64_t memory_bytes = 0;  // as the driver shows it
};

// By the driver's name, or by a part of it that leaves no doubt. Error{kInvalidArgument} lists the known ones and says
// which flags take their place.
GpuPeaks gpu_peaks(std::string_view name);

// Shares of the peaks that were measured: expected, lowest, highest.
struct Share {
  double expected = 1, low = 1, high = 1;
};
// Reading weights in a decode step's matrix products, on H200: cuBLAS reads 3.7 to 3.8 TB/s of 4.8 over the matrices of
// Llama-70B at TP 4; gpt-fast at batch 16, all its time beside operations and KV counted as reading, 3.33; a plain
// read, which none can beat, 4.49 (docs/planning.md).
inline constexpr Share kReadShare = {3.75 / 4.8, 3.33 / 4.8, 4.49 / 4.8};
// Products of large matrices: the best shapes reach 0.80 (H100, 792 of 989 TFLOP/s) to 0.86 (A100, 268 of 312;
// github.com/mag-/gpu_benchmark, MAMF); half of the peak over a whole model counts as good (stas00, ML Engineering).
// Expected: about the middle.
inline constexpr Share kProductShare = {0.65, 0.5, 0.83};
// Attention over a prompt: FlashAttention-3 reaches 740 of 989 TFLOP/s, FlashAttention-2 about 0.35 of them (the
// former's paper). Expected: the middle.
inline constexpr Share kAttentionShare = {0.55, 0.35, 0.75};

}  // namespace lane::plan
