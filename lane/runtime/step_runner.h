#pragma once
#include <memory>
#include <vector>

#include "lane/model/model.h"
#include "lane/runtime/kv_cache.h"
#include "lane/runtime/sampler.h"

namespace lane {

// What a step computes on, packed over its sequences; see AttentionBatch.
struct StepInput {
  std::vector<int32_t> token_ids;  // a token, or -1 - r: the one that the step before chose for its row r
  std::vector<int32_t> positions, query_start, kv_length, block_tables;
  int64_t max_blocks = 0;
  std::vector<int32_t> logit_rows;
  std::vector<SamplingRow> rows;  // of logit_rows; read at launch() only
  uint32_t signal = 0;            // of rank 0, for all: see Sampler
};

struct StepResult {
  std::vector<SampledToken> sampled;  // one for each of its logit_rows
  uint32_t signal = 0;
};

// Runs steps on the model's device: forward pass and choice of tokens. Results come in the order of the launches. Every
// rank of the group launches and collects alike.
class StepRunner {
 public:
  virtual ~StepRunner() = default;
  // Whether a step with such sampling may be launched before the one before it is collected.
  virtual bool runs_ahead(const SamplingParams& sampling) const = 0;
  // At most two steps are under way.
  virtual void launch(const StepInput& input) = 0;
  virtual StepResult collect() = 0;
};

// On the CPU a step is done when launch() returns. `ahead`: it may still be collected a step later, as a device does
// it.
std::unique_ptr<StepRunner> make_cpu_runner(Model* model, Communicator* group, const KvCache* cache, Stream* stream,
                                            bool ahead);

}  // namespace lane
