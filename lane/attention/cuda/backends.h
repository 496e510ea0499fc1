#pragma once
#include "lane/attention/attention.h"

namespace lane {

// Fastest first. A build without CUDA has one that says so.
std::vector<const AttentionBackend*> cuda_attention_backends();

}  // namespace lane
