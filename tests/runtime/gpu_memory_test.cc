#include "lane/runtime/gpu_memory.h"

#include <gtest/gtest.h>

#include "lane/base/error.h"

namespace lane {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

GpuMemory h200(int64_t free_gib) {
  return {.gpu = "GPU 3 (NVIDIA H200)", .total_bytes = 140 * kGiB, .free_bytes = free_gib * kGiB, .utilization = 0.9};
}

TEST(GpuMemory, TheBudgetIsAShareOfTheWholeLessWhatIsTaken) {
  EXPECT_EQ(h200(140).budget_bytes(), 126 * kGiB);
  EXPECT_EQ(h200(100).budget_bytes(), 86 * kGiB);
  EXPECT_EQ(h200(14).budget_bytes(), 0);
  EXPECT_EQ(h200(3).budget_bytes(), 0);
}

TEST(GpuMemory, WhatFitsPassesToTheLastByte) {
  const GpuMemoryNeed need{.weights_bytes = 120 * kGiB, .work_bytes = 2 * kGiB, .cache_bytes = 4 * kGiB};
  EXPECT_NO_THROW(check_fits(need, h200(140)));
  GpuMemoryNeed more = need;
  ++more.work_bytes;
  EXPECT_THROW(check_fits(more, h200(140)), Error);
  EXPECT_THROW(check_fits(need, h200(139)), Error);
  // A cache of a size that was asked for may use what the share would leave alone.
  more.is_cache_fixed = true;
  EXPECT_NO_THROW(check_fits(more, h200(127)));
  EXPECT_THROW(check_fits(more, h200(126)), Error);
}

TEST(GpuMemory, WhatDoesNotFitIsToldInNumbers) {
  try {
    check_fits({.weights_bytes = 131 * kGiB,
                .work_bytes = kGiB,
                .cache_bytes = 5 * kGiB / 4,
                .cache_tokens = 4096,
                .group_size = 1},
               h200(139));
    ADD_FAILURE() << "it does not fit";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_STREQ(error.what(),
                 "GPU 3 (NVIDIA H200) has too little memory: a rank needs 133.25 GiB (weights 131.00 GiB, work space "
                 "1.00 GiB, KV cache for 4,096 tokens 1.25 GiB), and 125.00 GiB can be taken (139.00 GiB of 140.00 GiB "
                 "are free, --gpu-memory-utilization is 0.9). Use more ranks (--tp 2), a shorter --max-model-len, a "
                 "smaller --max-num-batched-tokens, or end other programs on the GPU");
  }
}

}  // namespace
}  // namespace lane
