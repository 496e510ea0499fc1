#include "lane/kernels/cpu/random.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "lane/base/random.h"

namespace lane::kernels::cpu {
namespace {

constexpr int64_t kBlock = 64;  // groups at a time: the second loop then runs in vector registers

}  // namespace

void random_values(uint64_t key, float mean, float scale, int64_t first, int64_t count, float* out) {
  std::array<uint64_t, kBlock> bits;
  std::array<int16_t, kBlock * 4> parts;
  while (count > 0) {
    const int64_t group = first / 4, skipped = first % 4;
    const int64_t num_groups = std::min(kBlock, (skipped + count + 3) / 4);
    for (int64_t i = 0; i < num_groups; ++i)
      bits[static_cast<size_t>(i)] = mix64(key ^ static_cast<uint64_t>(group + i));
    std::memcpy(parts.data(), bits.data(), sizeof(bits[0]) * static_cast<size_t>(num_groups));
    const int64_t taken = std::min(count, num_groups * 4 - skipped);
    const int16_t* part = parts.data() + skipped;
    for (int64_t i = 0; i < taken; ++i) out[i] = mean + (static_cast<float>(part[i]) + 0.5f) * scale;
    out += taken, first += taken, count -= taken;
  }
}

}  // namespace lane::kernels::cpu
