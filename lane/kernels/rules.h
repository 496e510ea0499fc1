#pragma once
#include <limits>

#include "lane/device/tensor.h"

// All of the sampler's rules (runtime/sampler.h) on a GPU, for rows that want more than kernels/step.h gives: filters,
// penalties, bans and log-probabilities. Nobody waits for the host. GPUs only.
namespace lane::kernels {

// That many most likely tokens can be asked for.
inline constexpr int64_t kMostTop = 1000;

struct TopToken {
  int32_t token;
  float logprob;
};
// What a row that wants log-probabilities gets, in memory that the host sees.
struct RowLogprobs {
  float chosen;
  int32_t count;  // of `top`: fewer than asked for where there are fewer possible tokens
  TopToken top[kMostTop];
};

// How one row chooses.
struct RuleRow {
  double scale = 0;  // of the logits: 1 / temperature; 0: the largest logit wins, whatever the filters
  double top_p = 1, log_min_p = -std::numeric_limits<double>::infinity();
  double repetition = 1, presence = 0, frequency = 0;
  uint64_t noise_key = 0, position = 0;
  int64_t top_k = 0;                // 0: all
  uint32_t* history = nullptr;      // a word for each token, see below; null: neither penalties nor bans
  RowLogprobs* logprobs = nullptr;  // on the GPU; null: none
  int32_t num_top = 0, bans_hold = 0;
};

// A sequence's history: for each token of the vocabulary how often it is in the output, whether it is in prompt or
// output, and whether it must not be chosen while bans hold.
inline constexpr uint32_t kIsBanned = 1u << 31, kIsSeen = 1u << 30, kTimes = kIsSeen - 1;

// history [vocabulary] becomes that of `tokens`, prompt and output so far, and `banned`; lists of int32, all on the
// GPU.
void note_history(TensorView tokens, int64_t num_prompt, TensorView banned, TensorView history, Stream& stream);

// whole [rows, vocabulary] = the logits [rows, slice] of tokens first_id and on, zero elsewhere: the sum over all ranks
// has all logits as they are, since a number plus zeros is that number. Both of one activation type.
void spread_logits(TensorView logits, int64_t first_id, TensorView whole, Stream& stream);

// chosen[row] = the token that the rules choose from logits [rows, vocabulary], of an activation type; -1 if a logit is
// not finite or no token is possible. A row's history counts it from then on. All ranks that have the same logits
// choose the same: whatever is added up has a fixed order, or is of integers.
// `rules` holds a RuleRow for each row.
void choose_tokens(TensorView logits, TensorView rules, TensorView chosen, Stream& stream);

}  // namespace lane::kernels
