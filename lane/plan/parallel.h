#pragma once
#include <cstdint>
#include <string>

namespace lane::plan {

// Elements [begin, end) of a dimension.
struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// The part of [0, total) that one of `parts` owners holds: contiguous, in order, sizes differing by at most one
// unit of `multiple`.
Range even_part(int64_t total, int parts, int index, int64_t multiple = 1);

// The few integers of a model that decide how it can be cut; model/config fills it.
struct ModelShape {
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  int num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
};

// How a model is spread over ranks: `tensor` ranks hold a slice of every layer of a stage (Megatron-style: Shoeybi et
// al., Megatron-LM, 2019), `pipeline` stages hold layers one after the other, `replicas` do the same side by side.
// rank = (replica * pipeline + stage) * tensor + tensor index. The engine runs plans of one stage and one replica.
struct ParallelPlan {
  int tensor = 1, pipeline = 1, replicas = 1;
  int num_ranks() const { return tensor * pipeline * replicas; }
  bool operator==(const ParallelPlan&) const = default;
};

// Throws Error{kInvalidArgument} naming the legal sizes when `plan` cannot cut `shape`.
void check(const ParallelPlan& plan, const ModelShape& shape);

// What one rank of a stage holds, by its tensor index. Query heads are dealt evenly. KV heads are too while there are
// enough; beyond that each is replicated on tensor / num_kv_heads ranks, so that every rank has the one its query heads
// need.
struct RankSlices {
  Range heads, kv_heads, intermediate, vocab;
};
RankSlices slices_of(const ParallelPlan& plan, const ModelShape& shape, int tensor_index);

}  // namespace lane::plan
