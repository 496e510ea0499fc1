#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "lane/comm/communicator.h"
#include "lane/model/model.h"
#include "lane/model/tokenizer.h"
#include "lane/runtime/kv_cache.h"
#include "lane/runtime/request.h"
#include "lane/runtime/scheduler.h"
#include "lane/runtime/step_runner.h"

namespace lane {

struct EngineOptions {
  SchedulerLimits limits;
  int block_tokens = 16;
  int64_t num_blocks = 0;  // of the KV cache on each rank; the same on all
  DType kv_dtype = DType::kBF16;
  std::vector<int32_t> eos_token_ids;  // of config.json and generation_config.json
  bool use_graphs = true;              // on a GPU
  bool cpu_runs_ahead = false;         // as devices do: for tests
};

// Requests in, tokens out. Every rank of the group has an Engine and all run the same steps: the leader (rank 0) calls
// add() and step(), the others call follow(), which returns when the leader calls finish(). Requests travel from the
// leader to the others between steps, announced by a word that rides on the sampler's exchange, so a step costs no
// message beyond those of the model.
//
// The protocol. Commands (add, cancel, finish) are broadcast at two moments, which every rank recognises by itself:
// when nothing is under way, and after a step whose word announced them. Whatever a command changes, it changes on all
// ranks between the same two steps; a step reads nothing else that could differ. A command that comes during or after
// a step is therefore announced by the next step's word and takes effect after it. What cannot be is refused by add()
// before it is sent. A rank that throws leaves the group out of step for good: its caller tells the others by
// Communicator::abort(), and no engine of the group is used again.
//
// Where the device works by itself, the next step is launched before the tokens of the last one are known. A request
// that turns out to have ended then takes part in one step too many, whose result is dropped.
class Engine {
 public:
  // `tokenizer` may be null, on all ranks: then completions have no text and stop strings are refused. Throws
  // Error{kInvalidArgument} if this rank's options are not those of the leader.
  Engine(Model* model, Communicator* group, const Tokenizer* tokenizer, const EngineOptions& options, Stream* stream);
  ~Engine();

  // Leader only. Error{kInvalidArgument} if the request is malformed or can never fit; nothing changes then.
  void add(Request request);
  bool idle() const;
  // One step of all ranks; returns the requests that finished in it. A step that is idle does nothing.
  std::vector<Completion> step();
  // Ends the request early; step() returns what it has with kCancelled. An id that is not under way is ignored: it may
  // just have finished.
  void cancel(int64_t request_id);
  // All ranks forget what they traced so far, at the same step: what comes before is warm-up.
  void restart_trace();
  std::function<void()> on_restart_trace;  // called on every rank where it happens
  // Lets the followers go. Called once, when there is nothing left to do (or to be done: what is under way is dropped).
  void finish();

  // Leader only; called at the end of step() for every token that was chosen, with the text that is now certain (it
  // may be empty). What could be the beginning of a stop string is held back, so that the pieces of a request add up to
  // the text of its completion.
  std::function<void(int64_t request_id, std::string_view new_text)> on_token;

  // All other ranks.
  void follow();

  struct Stats {
    int64_t num_steps = 0;
    int64_t num_steps_ahead = 0;     // of those, launched before the tokens of the one before were known
    int64_t num_prefill_tokens = 0;  // computed in chunks of prompts (and of what was set back and is computed again)
    int64_t num_decode_tokens = 0;   // computed one a step, to choose the next
    int64_t num_cached_tokens = 0;   // of prompts, found in the cache and not computed
    int64_t num_preemptions = 0;
    int64_t most_running = 0;
  };
  const Stats& stats() const { return stats_; }
  GraphStats graphs() const { return runner_->graphs(); }

 private:
  struct Tracked;  // a request under way: its text so far, times, logprobs
  // A step that the runner has. An item without a sequence is one that ended since; its result is dropped.
  using UnderWay = std::vector<ScheduledWork>;
  void check_request(const Request& request) const;
  void exchange_commands();
  void apply_commands(std::string_view text);
  void run_step();
  bool can_run_ahead() const;
  void launch();
  void collect();
  void build_input(const std::vector<ScheduledWork>& work);
  int32_t token_of_last_step(const Sequence& sequence) const;
  void count(const std::vector<ScheduledWork>& work);
  void accept(const Sequence& sequence, int64_t length, SampledToken sampled, int64_t now);
  void tell(int64_t request_id, Tracked& tracked, bool at_end);
  void end_request(int64_t request_id, FinishReason reason, int64_t now);
  bool leads() const { return group_->rank() == 0; }
  bool nothing_under_way() const { return scheduler_.idle() && under_way_.empty(); }

  Model* model_;
  Communicator* group_;
  const Tokenizer* tokenizer_;
  EngineOptions options_;
  Stream* stream_;
  BlockPool pool_;
  KvCache cache_;
  Scheduler scheduler_;
  std::unique_ptr<StepRunner> runner_;
  StepInput input_;  // kept for its memory
  std::deque<UnderWay> under_way_;
  std::unordered_map<int64_t, Tracked> tracked_;
  int64_t num_added_ = 0;
  Stats stats_;

  bool announced_ = false;  // commands are broadcast before the next step
  bool over_ = false;       // the leader has called finish()

  // Of the leader alone.
  std::string pending_;                                // commands that are not broadcast yet
  std::unordered_map<int64_t, int64_t> added_ns_;      // when; of all requests that did not finish yet
  std::vector<Completion> finished_;                   // not returned yet
  std::vector<std::pair<int64_t, std::string>> told_;  // for on_token
};

}  // namespace lane
