#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "lane/runtime/kv_cache.h"
#include "lane/runtime/request.h"

namespace lane {

inline constexpr int32_t kUnknownToken = -1;  // of a step that is booked but not filled

// A request under way.
struct Sequence {
  Request request;
  std::vector<int32_t> tokens;  // prompt, then output
  int64_t num_computed = 0;     // tokens whose keys and values are in the cache
  int64_t num_cached = 0;       // of the prompt, found in the cache when it was first admitted
  int64_t max_length = 0;       // of prompt and output: by max_tokens or max_model_len, whichever is reached first
  int64_t num_preemptions = 0;
  std::vector<int32_t> blocks;
  int64_t num_prompt() const { return static_cast<int64_t>(request.prompt.size()); }
  int64_t num_output() const { return static_cast<int64_t>(tokens.size()) - num_prompt(); }
};

struct SchedulerLimits {
  int64_t max_num_seqs = 64;             // sequences under way at once
  int64_t max_num_batched_tokens = 512;  // tokens of one step, over all sequences
  int64_t max_model_len = 2048;          // prompt and output of one sequence; an output is cut there
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
// to prompts, in arrival order, in chunks. A waiting request is admitted when there are blocks for all its tokens and
// one more for each sequence that runs. When blocks run out, the youngest sequence is set back to waiting: its
// blocks are freed and it is computed again later, prompt and output so far, with the same result.
//
// A device may be given the next step before the tokens of this one are known: book_step() counts it as done, with
// kUnknownToken for what will be chosen, and fill_step() brings the tokens later.
//
// Whatever runs is older than whatever waits, and the oldest gets the blocks of all others if it must. So the oldest
// proceeds in every step, and every request that add() took is finished in time.
class Scheduler {
 public:
  // Error{kInvalidArgument} if a limit is below 1. No more sequences run than fit a step's token budget.
  Scheduler(const SchedulerLimits& limits, BlockPool* pool);

  // Error{kInvalidArgument} with the numbers if the request can never fit: its prompt leaves no room for a token below
  // max_model_len, or it would need more blocks than the pool has.
  void add(Request request);
  bool idle() const { return waiting_.empty() && running_.empty(); }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_preemptions() const { return num_preemptions_; }

  // The work of the next step, in a fixed order. Empty only if idle. Valid until the next call of plan_step().
  const std::vector<ScheduledWork>& plan_step();
  // Books the step as done.
  void book_step();
  // Of the oldest step that is booked and not filled: `sampled[i]` is the token chosen for work i (ignored where
  // !samples). The caller then removes the sequences that are finished, those of max_length at the latest.
  void fill_step(const std::vector<int32_t>& sampled);
  // Whether the next step may be planned while tokens are unknown: all that runs decodes, none is at its end by length,
  // and nothing will have to be set back.
  bool can_plan_ahead() const;
  // Takes the sequence out, without tokens that are unknown, and frees its blocks; null if there is none. Not between
  // plan_step() and book_step().
  std::unique_ptr<Sequence> remove(int64_t request_id);

 private:
  void plan_decodes();
  void plan_prompts();
  void admit();
  // Blocks for all of its first `num_tokens` tokens; takes them from younger sequences. False if there are none.
  bool make_room(size_t index, int64_t num_tokens);
  void preempt_youngest();
  void schedule(Sequence* sequence, int64_t count);

  SchedulerLimits limits_;
  BlockPool* pool_;
  std::deque<std::unique_ptr<Sequence>> waiting_;   // in arrival order, all younger than those running
  std::vector<std::unique_ptr<Sequence>> running_;  // in arrival order
  std::vector<ScheduledWork> step_;
  int64_t budget_ = 0;                             // tokens left in the step that is being planned
  bool step_open_ = false;                         // planned, not yet booked
  std::deque<std::vector<ScheduledWork>> booked_;  // not yet filled; without a sequence where it was removed since
  int64_t num_preemptions_ = 0;
};

}  // namespace lane
