#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lane/plan/cost.h"
#include "lane/plan/parallel.h"

namespace lane::plan {

// A decode step to be priced: `batch` sequences, each with `context` tokens in the KV cache.
struct StepWork {
  ModelShape shape;
  ParallelPlan plan;
  int batch = 1;
  int64_t context = 0;
  int weight_bytes = 2, kv_bytes = 2, activation_bytes = 4;  // per element
  bool tied_embeddings = false;                              // one matrix serves as embedding and as head
};

// What a rank's memory gives, and what it costs to start one operation (a kernel, or a parallel loop).
struct RankSpeed {
  double read_bytes_per_s = 1;  // of one rank while all ranks of its node read
  double operation_s = 0;
};

// One kind of collective of a step.
struct StepCollective {
  std::string name, algorithm;
  int count = 1;
  int64_t bytes = 0;   // of the vector
  double seconds = 0;  // of one
};

// Where the time of a step goes, by the roofline of its reads and the cost of its collectives.
struct StepCost {
  double weights_s = 0, kv_s = 0, operations_s = 0, communication_s = 0;
  int64_t weight_bytes = 0, kv_bytes = 0;  // that the busiest rank reads
  std::vector<StepCollective> collectives;
  double total_s() const { return weights_s + kv_s + operations_s + communication_s; }
};

// The same choice of algorithms as a group makes on this fabric without a measured table. Throws what check() throws.
StepCost cost_of_step(const StepWork& work, const Fabric& fabric, const RankSpeed& speed);

// Multiplications and additions, over all ranks, of a forward pass over a sequence's tokens [begin, end): two for each
// element of a layer's matrices and token, causal attention's two products, and the head for `num_logits` of them.
double forward_flops(const ModelShape& shape, int64_t begin, int64_t end, int64_t num_logits);

}  // namespace lane::plan
