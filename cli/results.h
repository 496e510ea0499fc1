#pragma once
#include <string>
#include <vector>

#include "cli/job.h"
#include "cli/requests.h"
#include "lane/base/json.h"
#include "lane/runtime/request.h"

namespace lane::cli {

std::string_view name_of(FinishReason reason);  // stop, length, cancelled

// The value below which `share` (0..1) of the samples lie, by linear interpolation; 0 without samples.
double percentile(std::vector<double> samples, double share);

// One line of a results file.
Json result_to_json(const PromptItem& item, const Completion& completion, const Tokenizer* tokenizer);

// What a run did, over all requests. Times in seconds.
struct RunMetrics {
  int64_t num_requests = 0, prompt_tokens = 0, cached_prompt_tokens = 0, completion_tokens = 0;
  double wall_s = 0;
  std::vector<double> first_token_s, token_gaps_s;

  void add(const Completion& completion);
  Json to_json() const;
  std::string to_text() const;
};

}  // namespace lane::cli
