#pragma once
#include "lane/attention/attention.h"

namespace lane {

// What run() demands of its arguments and can be seen without reading the lists: a bug of the caller otherwise.
void check_shapes(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, KvView cache,
                  TensorView out);

}  // namespace lane
