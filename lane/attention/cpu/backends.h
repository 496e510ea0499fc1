#pragma once
#include "lane/attention/attention.h"

namespace lane {

// Processes, per key-value head, tiles of queries against tiles of keys, in float32 and with the softmax computed along
// the way (Dao et al., FlashAttention, 2022).
const AttentionBackend& flash_attention();

// The definition, in double. It takes every shape.
const AttentionBackend& reference_attention();

}  // namespace lane
