#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "lane/comm/communicator.h"
#include "lane/model/model.h"
#include "lane/model/tokenizer.h"
#include "lane/runtime/kv_cache.h"
#include "lane/runtime/request.h"
#include "lane/runtime/sampler.h"
#include "lane/runtime/scheduler.h"

namespace lane {

struct EngineOptions {
  SchedulerLimits limits;
  int block_tokens = 16;
  int64_t num_blocks = 0;  // of the KV cache on each rank; the same on all
  DType kv_dtype = DType::kBF16;
};

// Requests in, tokens out. Every rank of the group has an Engine and all run the same steps: the leader (rank 0) calls
// add() and step(), the others call follow(), which returns when the leader calls finish(). Requests travel from the
// leader to the others between steps, announced by a word that rides on the sampler's exchange, so a step costs no
// message beyond those of the model.
class Engine {
 public:
  // `tokenizer` may be null: then completions have no text and stop strings are refused.
  Engine(Model* model, Communicator* group, const Tokenizer* tokenizer, const EngineOptions& options, Stream* stream);

  // Leader only. Error{kInvalidArgument} if the request is malformed or can never fit; nothing changes then.
  void add(Request request);
  bool idle() const;
  // One step of all ranks; returns the requests that finished in it. A step that is idle does nothing.
  std::vector<Completion> step();
  // Ends the request early; step() returns what it has with kCancelled.
  void cancel(int64_t request_id);
  // Lets the followers go. Called once, when there is nothing left to do (or to be done).
  void finish();

  // All other ranks.
  void follow();

  struct Stats {
    int64_t num_steps = 0, num_prefill_tokens = 0, num_decode_tokens = 0, num_cached_tokens = 0, num_preemptions = 0;
    int64_t most_running = 0;
  };
  const Stats& stats() const { return stats_; }

 private:
  struct Tracked;  // a request under way: its text so far, times, logprobs
  std::vector<Completion> run_step(uint32_t signal);
  void apply_commands(const std::string& text);

  Model* model_;
  Communicator* group_;
  const Tokenizer* tokenizer_;
  EngineOptions options_;
  Stream* stream_;
  BlockPool pool_;
  KvCache cache_;
  Scheduler scheduler_;
  Sampler sampler_;
  Stats stats_;
};

}  // namespace lane
