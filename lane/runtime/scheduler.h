#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "lane/runtime/kv_cache.h"
#include "lane/runtime/request.h"

namespace lane {

// A request under way.
struct Sequence {
  Request request;
  std::vector<int32_t> tokens;  // prompt, then output
  int64_t num_computed = 0;     // tokens whose keys and values are in the cache
  int64_t num_cached = 0;       // of the prompt, found in the cache when it was admitted
  std::vector<int32_t> blocks;
  int64_t num_prompt() const { return static_cast<int64_t>(request.prompt.size()); }
  int64_t num_output() const { return static_cast<int64_t>(tokens.size()) - num_prompt(); }
};

struct SchedulerLimits {
  int64_t max_num_seqs = 64;             // sequences under way at once
  int64_t max_num_batched_tokens = 512;  // tokens of one step, over all sequences
  int64_t max_model_len = 2048;          // prompt and output of one sequence
};

// One sequence's part in a step: tokens [begin, begin + count) are computed; `samples` if they reach the end of what is
// known, so that the next token can be chosen.
struct ScheduledWork {
  Sequence* sequence;
  int64_t begin, count;
  bool samples;
};

// Decides what each step computes. A pure state machine without clock or randomness: every rank runs its own copy and
// comes to the same decisions. Sequences that decode go first, one token each; what is left of the token budget goes
// to prompts, in arrival order, in chunks. When blocks run out, the youngest sequence is set back to waiting: its
// blocks are freed and it is computed again later, prompt and output so far, with the same result.
class Scheduler {
 public:
  Scheduler(const SchedulerLimits& limits, BlockPool* pool);

  // Error{kInvalidArgument} with the numbers if the request can never fit.
  void add(Request request);
  bool idle() const { return waiting_.empty() && running_.empty(); }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_preemptions() const { return num_preemptions_; }

  // The work of the next step, in a fixed order. Empty only if idle.
  const std::vector<ScheduledWork>& plan_step();
  // Books the step as done; `sampled[i]` is the token chosen for work i (ignored where !samples).
  void complete_step(const std::vector<int32_t>& sampled);
  // Takes the sequence out and frees its blocks.
  std::unique_ptr<Sequence> remove(int64_t request_id);

 private:
  SchedulerLimits limits_;
  BlockPool* pool_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in arrival order
  std::vector<ScheduledWork> step_;
  int64_t num_preemptions_ = 0;
};

}  // namespace lane
