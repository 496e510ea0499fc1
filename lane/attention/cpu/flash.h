#pragma once
#include "lane/attention/attention.h"
#include "lane/attention/cpu/flash_tile.h"

namespace lane::flash {

// AttentionBackend::run() with given instructions.
void run(const Loops& loops, const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, int window,
         KvView cache, TensorView out, Stream& stream);

}  // namespace lane::flash
