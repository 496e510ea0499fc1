#include "lane/plan/step.h"

#include <algorithm>

namespace lane::plan {
namespace {

// What a rank offers to the others for each sequence that it samples: a header and a few candidates.
constexpr int64_t kSampleBytes = 64;

// Operations of a layer on a rank: two norms, four matrices, rope and KV write, attention, activation.
constexpr int kOperationsPerLayer = 9, kOtherOperations = 5;

StepCollective priced(const char* name, Collective collective, int count, int64_t bytes, const Fabric& fabric) {
  std::vector<Candidate> candidates;
  for (const std::string& algorithm : schedule_names(collective, fabric.layout))
    candidates.push_back({algorithm, cost(make_schedule(algorithm, collective, fabric.layout), collective, fabric)});
  const Candidate& best = candidates[cheapest(candidates, bytes)];
  return {name, best.name, count, bytes, best.cost.at(bytes)};
}

}  // namespace

StepCost cost_of_step(const StepWork& work, const Fabric& fabric, const RankSpeed& speed) {
  const ModelShape& shape = work.shape;
  StepCost result;
  for (int rank = 0; rank < work.plan.num_ranks(); ++rank) {
    const RankSlices slices = slices_of(work.plan, shape, rank);
    const int64_t head = shape.head_dim;
    const int64_t layer = shape.hidden_size * head * (2 * slices.heads.size() + 2 * slices.kv_heads.size()) +
                          3 * shape.hidden_size * slices.intermediate.size();
    // Of an embedding, only the rows of the batch are read; the head is read whole.
    const int64_t weights = shape.num_layers * layer + slices.vocab.size() * shape.hidden_size;
    result.weight_bytes = std::max(result.weight_bytes, weights * work.weight_bytes);
    const int64_t kv = 2 * shape.num_layers * slices.kv_heads.size() * head * work.context * work.batch;
    result.kv_bytes = std::max(result.kv_bytes, kv * work.kv_bytes);
  }
  result.weights_s = static_cast<double>(result.weight_bytes) / speed.read_bytes_per_s;
  result.kv_s = static_cast<double>(result.kv_bytes) / speed.read_bytes_per_s;
  result.operations_s = speed.operation_s * (kOperationsPerLayer * shape.num_layers + kOtherOperations);
  if (work.plan.num_ranks() == 1) return result;

  // Embedding, then the attention's and the MLP's output of each layer; then the samples of all ranks.
  const int64_t hidden = work.batch * shape.hidden_size * work.activation_bytes;
  result.collectives.push_back(priced("all_reduce", Collective::kAllReduce, 1 + 2 * shape.num_layers, hidden, fabric));
  result.collectives.push_back(
      priced("all_gather", Collective::kAllGather, 1, work.batch * kSampleBytes * work.plan.num_ranks(), fabric));
  for (const StepCollective& collective : result.collectives)
    result.communication_s += collective.count * collective.seconds;
  return result;
}

double forward_flops(const ModelShape& shape, int64_t begin, int64_t end, int64_t num_logits) {
  const double hidden = static_cast<double>(shape.hidden_size), layers = shape.num_layers;
  const double query = static_cast<double>(shape.num_heads) * shape.head_dim;
  const double layer = hidden * 2 * (query + static_cast<double>(shape.num_kv_heads) * shape.head_dim) +
                       3 * hidden * static_cast<double>(shape.intermediate_size);
  const double first = static_cast<double>(begin), last = static_cast<double>(end), tokens = last - first;
  const double pairs = (last * (last + 1) - first * (first + 1)) / 2;  // a token and one that it sees, itself too
  return 2 * (layers * layer * tokens + hidden * static_cast<double>(shape.vocab_size * num_logits)) +
         4 * layers * query * pairs;
}

}  // namespace lane::plan
