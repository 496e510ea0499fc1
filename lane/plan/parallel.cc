#include "lane/plan/parallel.h"

#include <algorithm>

#include "lane/base/error.h"

namespace lane::plan {
namespace {

// Kernels pack weights in groups of this many rows (kernels::PackedMatrix::kRowGroup): a slice of whole groups wastes
// nothing.
constexpr int64_t kPackedRows = 16;

bool divides_heads(int64_t tensor, const ModelShape& shape) {
  return shape.num_heads % tensor == 0 && (shape.num_kv_heads % tensor == 0 || tensor % shape.num_kv_heads == 0);
}

// Every rank needs a row of the MLP and a token of the vocabulary.
int64_t most_ranks(const ModelShape& shape) {
  return std::min({int64_t{shape.num_heads}, shape.intermediate_size, shape.vocab_size});
}

std::string legal_sizes(const ModelShape& shape) {
  std::string list;
  for (int64_t tensor = 1; tensor <= most_ranks(shape); ++tensor)
    if (divides_heads(tensor, shape)) list += (list.empty() ? "" : ", ") + std::to_string(tensor);
  return list;
}

// Whole groups of packed rows when that leaves no rank without any, else single rows.
Range packed_part(int64_t total, int parts, int index) {
  const int64_t num_groups = (total + kPackedRows - 1) / kPackedRows;
  return even_part(total, parts, index, num_groups >= parts ? kPackedRows : 1);
}

}  // namespace

Range even_part(int64_t total, int parts, int index, int64_t multiple) {
  ensure(total >= 0 && multiple > 0 && 0 <= index && index < parts, "the part is one of those that make up the total");
  const int64_t units = (total + multiple - 1) / multiple, base = units / parts, longer = units % parts;
  const auto start = [&](int64_t part) {
    return std::min(total,
                    (part * base + std::min(part, longer)) * multiple);  // the first `longer` parts have one more
  };
  return {start(index), start(index + 1)};
}

void check(const ParallelPlan& plan, const ModelShape& shape) {
  ensure(shape.num_heads > 0 && shape.num_kv_heads > 0 && shape.num_heads % shape.num_kv_heads == 0,
         "the shape's KV heads divide its query heads");
  const int64_t tensor = plan.tensor;
  if (plan.pipeline < 1 || plan.pipeline > shape.num_layers)
    throw Error(ErrorCode::kInvalidArgument, "a model of " + std::to_string(shape.num_layers) +
                                                 " layers cannot be cut into " + std::to_string(plan.pipeline) +
                                                 " stages; give 1 to " + std::to_string(shape.num_layers));
  if (plan.replicas < 1)
    throw Error(ErrorCode::kInvalidArgument, std::to_string(plan.replicas) + " replicas: give at least 1");
  if (tensor >= 1 && tensor <= most_ranks(shape) && divides_heads(tensor, shape)) return;
  throw Error(ErrorCode::kInvalidArgument, "a model of " + std::to_string(shape.num_heads) + " query heads and " +
                                               std::to_string(shape.num_kv_heads) + " KV heads cannot be cut over " +
                                               std::to_string(tensor) +
                                               " ranks; legal tensor-parallel sizes: " + legal_sizes(shape));
}

RankSlices slices_of(const ParallelPlan& plan, const ModelShape& shape, int tensor_index) {
  check(plan, shape);
  ensure(0 <= tensor_index && tensor_index < plan.tensor, "the rank is in the plan");
  RankSlices slices;
  slices.heads = even_part(shape.num_heads, plan.tensor, tensor_index);
  // Query head h reads KV head h / (num_heads / num_kv_heads); with more ranks than KV heads this is one for all of
  // the rank's query heads.
  const int64_t heads_per_kv = shape.num_heads / shape.num_kv_heads;
  slices.kv_heads = {slices.heads.begin / heads_per_kv, (slices.heads.end - 1) / heads_per_kv + 1};
  slices.intermediate = packed_part(shape.intermediate_size, plan.tensor, tensor_index);
  slices.vocab = packed_part(shape.vocab_size, plan.tensor, tensor_index);
  return slices;
}

}  // namespace lane::plan
