#pragma once
#include <cstdint>
#include <string>

namespace lane {

// A GPU's memory as it is now, and what the one rank that computes on it may take.
struct GpuMemory {
  std::string gpu;  // "GPU 0 (NVIDIA H200)"
  int64_t total_bytes = 0, free_bytes = 0;
  double utilization = 0.9;  // share of the total that may be taken, by whomever

  // What this rank may still take: the rest is for graphs and for the libraries' own.
  int64_t budget_bytes() const;
};

// What a rank takes before it can compute anything.
struct GpuMemoryNeed {
  int64_t weights_bytes = 0, work_bytes = 0;
  int64_t cache_bytes = 0;      // of KV cache, the least that makes sense
  int64_t cache_tokens = 0;     // that many
  int group_size = 1;           // ranks that share the model
  bool is_cache_fixed = false;  // asked for by --kv-cache-memory-bytes: then all free memory may be taken

  int64_t total_bytes() const { return weights_bytes + work_bytes + cache_bytes; }
};

// Error{kInvalidArgument} with all the numbers and what can be done, if it does not fit.
void check_fits(const GpuMemoryNeed& need, const GpuMemory& memory);

}  // namespace lane
