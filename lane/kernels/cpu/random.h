#pragma once
#include <cstdint>

namespace lane::kernels::cpu {

// out[i] = value first + i, counted over the whole tensor, of the random tensor of `key`: see fill_random().
void random_values(uint64_t key, float mean, float scale, int64_t first, int64_t count, float* out);

}  // namespace lane::kernels::cpu
