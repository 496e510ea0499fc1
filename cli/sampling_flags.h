#pragma once
#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lane/model/config.h"
#include "lane/runtime/request.h"

namespace lane::cli {

// Sampling parameters from the command line; what is not given comes from generation_config.json.
struct SamplingFlags {
  std::optional<int64_t> max_tokens, min_tokens, top_k;
  std::optional<double> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  uint64_t seed = 0;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  int logprobs = -1;

  void add_to(CLI::App& app);
  SamplingParams resolve(const GenerationDefaults& defaults) const;
};

// The model's own defaults as sampling parameters: greedy unless generation_config.json says do_sample.
SamplingParams sampling_defaults(const GenerationDefaults& defaults);

}  // namespace lane::cli
