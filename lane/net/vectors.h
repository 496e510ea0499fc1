#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "lane/base/dtype.h"
#include "lane/comm/communicator.h"

namespace lane::net {

std::string_view name_of(ReduceOp op);                // sum, max, min, prod, avg
ReduceOp reduce_op_from_name(std::string_view name);  // Error{kInvalidArgument} that lists them
DType summable_from_name(std::string_view name);      // float32, bfloat16, float16 or int32; also Error

// What a rank puts into a reduction that is going to be checked: random, but any rank can say what any other put in.
// Signs differ and sizes by 2^8; factors of a product stay near one. Another `seed` gives other values.
void fill(DType dtype, ReduceOp op, int rank, int64_t count, void* out, uint64_t seed = 0);

// How exact a sum is promised to be. Rounding after every addition is what libraries do that have no wider type to add
// 16-bit numbers in.
enum class Rounding : uint8_t { kOnce, kEveryStep };

// How many elements of `got` are not the reduction of what fill() gives `num_ranks` ranks: further from it, in double
// precision, than float32 sums in any order may be. Large vectors are checked in part: both ends and a sample.
int64_t count_wrong(DType dtype, ReduceOp op, int num_ranks, const void* got, int64_t count, Rounding rounding,
                    uint64_t seed = 0);

// Likewise of a fused operation on [rows, hidden], in one pass over both results: residual + sum, and its RMSNorm times
// weight. The residual before was rank 0's fill() with kResidualSeed, the weight its fill() of `hidden` products with
// kWeightSeed, both the same on all ranks.
inline constexpr uint64_t kResidualSeed = 1000, kWeightSeed = 1001;
int64_t count_wrong_norm(DType dtype, int num_ranks, const void* residual, const void* normed, int64_t rows,
                         int64_t hidden, float epsilon, Rounding rounding, uint64_t seed = 0);

// A number that differs, as good as certainly, when any bit does.
uint64_t fingerprint(const void* data, int64_t bytes);

}  // namespace lane::net
