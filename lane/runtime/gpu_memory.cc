#include "lane/runtime/gpu_memory.h"

#include <fmt/format.h>

#include <algorithm>

#include "lane/base/error.h"
#include "lane/base/units.h"

namespace lane {
namespace {

std::string text_of(int64_t bytes) { return format_bytes(static_cast<double>(bytes)); }

}  // namespace

int64_t GpuMemory::budget_bytes() const {
  const auto wanted = static_cast<int64_t>(utilization * static_cast<double>(total_bytes));
  const int64_t used = total_bytes - free_bytes;
  return std::max<int64_t>(0, wanted - used);
}

void check_fits(const GpuMemoryNeed& need, const GpuMemory& memory) {
  const int64_t budget = need.is_cache_fixed ? memory.free_bytes : memory.budget_bytes();
  if (need.total_bytes() <= budget) return;
  const std::string limit =
      need.is_cache_fixed ? "" : fmt::format(", --gpu-memory-utilization is {}", memory.utilization);
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format(
          "{} has too little memory: a rank needs {} (weights {}, work space {}, KV cache for {} tokens {}), and "
          "{} can be taken ({} of {} are free{}). Use more ranks (--tp {}), a shorter --max-model-len, a "
          "smaller --max-num-batched-tokens, or end other programs on the GPU",
          memory.gpu, text_of(need.total_bytes()), text_of(need.weights_bytes), text_of(need.work_bytes),
          format_count(need.cache_tokens), text_of(need.cache_bytes), text_of(budget), text_of(memory.free_bytes),
          text_of(memory.total_bytes), limit, 2 * need.group_size));
}

}  // namespace lane
