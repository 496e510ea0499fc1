#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "lane/plan/cost.h"
#include "lane/plan/parallel.h"
#include "lane/plan/step.h"
#include "lane/plan/workload.h"

namespace lane::plan {

// Tokens that go through the model together: a micro-batch of a decode step, or a chunk of a prompt.
struct Pass {
  int64_t tokens = 0;     // whose activations travel
  int64_t sequences = 0;  // whose next token is chosen at the end
  int64_t kv_tokens = 0;  // that attention reads from the cache or puts there, of all sequences together
  double pairs = 0;       // of a token and one that it attends to
  bool operator==(const Pass&) const = default;
};

// `batch` sequences with `context` tokens each, dealt to micro-batches evenly.
std::vector<Pass> decode_passes(int batch, int micro_batches, int64_t context);
// `batch` prompts, one after the other, in chunks of at most `chunk_tokens`.
std::vector<Pass> prefill_passes(int batch, int64_t prompt_tokens, int64_t chunk_tokens);

// A rank computes by the roofline: an operation takes as long as reading its weights or cache, or as its arithmetic,
// whichever is more, and the time to start it.
struct ComputeSpeed {
  double read_bytes_per_s = 1;
  double flop_per_s = std::numeric_limits<double>::infinity();
  double operation_s = 0;
};

// What a step is made of. In each stage a pass runs, layer by layer, attention, all-reduce, MLP, all-reduce; the first
// stage begins with the embedding and its all-reduce, the last ends with the head and the exchange of samples. Rank i
// of a stage hands its result to rank i of the next without waiting for it to arrive, and takes up the next pass. A
// step of decoding ends when the chosen tokens are back at the first stage, which needs them for that pass of the next
// step. Replicas do the same side by side.
struct StepJob {
  ModelShape shape;
  ParallelPlan plan;
  std::vector<Pass> passes;
  int num_steps = 1;  // one after the other; passes of the next step follow as soon as their tokens are there
  int weight_bytes = 2, kv_bytes = 2, activation_bytes = 2;  // per element
  double partial_scale = 2;                                  // as for cost(): of 16-bit activations
  double eager_bytes = std::numeric_limits<double>::infinity();
  std::string algorithm;  // of all-reduces; empty: of each group, the cheapest by cost()
  ComputeSpeed speed;
};

struct StepGraph {
  Workload workload;
  // Of a rank of the last stage and the first pass, for the group where they take longest. Priced alone.
  std::vector<StepCollective> collectives;
  // The step by formula: each collective at its cost(), each stage's passes one after the other, a pass when the stage
  // before has it: C(s, b) = max(C(s-1, b) + hop, C(s, b-1)) + t(s, b). Nothing is in another group's way.
  double priced_s = 0;
  double bubble = 0;  // that formula's: part of the time that an average stage has nothing to do
};

// `fabric_of`: what the ranks of a group are joined by. Throws what check() throws.
using FabricOf = std::function<Fabric(std::span<const int> ranks)>;
StepGraph step_graph(const StepJob& job, const Network& network, const FabricOf& fabric_of);

}  // namespace lane::plan
