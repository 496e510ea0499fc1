#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lane {

// Every token of the answer carries that many more; they cross the ranks at each step.
inline constexpr int kMostLogprobs = 1000;

// How the next token is chosen. Names and meanings are those of the OpenAI API and of vLLM's SamplingParams.
struct SamplingParams {
  int64_t max_tokens = 16;
  int64_t min_tokens = 0;  // no end-of-sequence, stop token or stop string before that many
  double temperature = 1;  // 0 (below 1e-5): the most likely token, whatever else is set
  int64_t top_k = 0;       // 0 or -1: all
  double top_p = 1;
  double min_p = 0;                                    // relative to the most likely token
  double repetition_penalty = 1;                       // over prompt and output (Keskar et al., CTRL, 2019)
  double presence_penalty = 0, frequency_penalty = 0;  // over output
  uint64_t seed = 0;  // the noise is a function of seed, position and token: equal seeds draw alike
  std::vector<std::string> stop = {};
  std::vector<int32_t> stop_token_ids = {};
  bool include_stop_str_in_output = false;
  bool ignore_eos = false;
  // That many most likely tokens beside the chosen one; -1: none, 0: the chosen one alone. They are log-probabilities
  // of the model itself, before penalties and temperature, as vLLM gives them.
  int logprobs = -1;
};

// Error{kInvalidArgument} naming the field, its value and the legal range.
void check(const SamplingParams& params);

struct Request {
  int64_t id = 0;  // unique in an engine; results carry it
  std::vector<int32_t> prompt;
  SamplingParams sampling;
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};
struct StepLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  // most likely first
};

enum class FinishReason : uint8_t { kStop, kLength, kCancelled };

struct Completion {
  int64_t id = 0;
  std::vector<int32_t> tokens;  // an end-of-sequence or stop token is the last of them
  std::string text;             // without stop strings and special tokens
  FinishReason reason = FinishReason::kLength;
  int64_t prompt_tokens = 0;
  int64_t cached_prompt_tokens = 0;    // taken over from an earlier prompt with the same beginning
  std::vector<StepLogprobs> logprobs;  // one a token, if asked for
  // Times since the request was added, in seconds.
  double queued_s = 0, first_token_s = 0, finished_s = 0;
  std::vector<double> token_gaps_s;  // between one token and the next
};

}  // namespace lane
