#pragma once
#include <functional>
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

// What was recorded to be launched as a whole; see lane/device/graph.h.
struct GraphStats {
  int64_t count = 0, bytes = 0;  // of device memory
  double seconds = 0;
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
  virtual GraphStats graphs() const { return {}; }
};

// On the CPU a step is done when launch() returns. `ahead`: it may still be collected a step later, as a device does
// it.
std::unique_ptr<StepRunner> make_cpu_runner(Model* model, Communicator* group, const KvCache* cache, Stream* stream,
                                            bool ahead);

struct DeviceRunnerOptions {
  int64_t max_seqs = 0, max_tokens = 0, max_model_len = 0;  // of a step; of a sequence
  bool use_graphs = true;
  std::function<void(int64_t places)> while_recording = {};  // for tests: what it throws, recording a graph throws
};

// On a GPU a step that only decodes is one graph, recorded when the first step of its size comes; sizes are rounded up
// (1, 2, 4, 8, 12, ... ), the places left over are empty. Tokens are chosen on the GPU: quickly where all rows of a
// step have a temperature at most, by a DeviceSampler where one has more rules; these are two graphs. Where a graph
// finds no memory, steps of its size are launched kernel by kernel, with one warning; the other ranks need not know,
// for a graph launches the same collectives.
std::unique_ptr<StepRunner> make_device_runner(Model* model, Communicator* group, const KvCache* cache, Stream* stream,
                                               const DeviceRunnerOptions& options);

}  // namespace lane
