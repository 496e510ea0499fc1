#include "cli/results.h"

#include <fmt/format.h>

#include <algorithm>

#include "lane/base/units.h"

namespace lane::cli {

std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "?";
}

double percentile(std::vector<double> samples, double share) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  const double at = share * static_cast<double>(samples.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, samples.size() - 1);
  return samples[below] + (at - static_cast<double>(below)) * (samples[above] - samples[below]);
}

Json result_to_json(const PromptItem& item, const Completion& completion, const Tokenizer* tokenizer) {
  Json json{{"id", item.id},
            {"prompt", item.text},
            {"text", completion.text},
            {"token_ids", completion.tokens},
            {"finish_reason", name_of(completion.reason)},
            {"prompt_tokens", completion.prompt_tokens},
            {"completion_tokens", completion.tokens.size()}};
  if (!completion.logprobs.empty()) {
    const auto one = [&](const TokenLogprob& entry) {
      return Json{{"token_id", entry.token},
                  {"token", tokenizer ? tokenizer->decode(std::vector{entry.token}, false) : ""},
                  {"logprob", entry.logprob}};
    };
    Json list = Json::array();
    for (const StepLogprobs& step : completion.logprobs) {
      Json entry = one(step.chosen);
      entry["top"] = Json::array();
      for (const TokenLogprob& top : step.top) entry["top"].push_back(one(top));
      list.push_back(std::move(entry));
    }
    json["logprobs"] = std::move(list);
  }
  return json;
}

void RunMetrics::add(const Completion& completion) {
  ++num_requests;
  prompt_tokens += completion.prompt_tokens;
  cached_prompt_tokens += completion.cached_prompt_tokens;
  completion_tokens += static_cast<int64_t>(completion.tokens.size());
  if (!completion.tokens.empty()) first_token_s.push_back(completion.first_token_s);
  token_gaps_s.insert(token_gaps_s.end(), completion.token_gaps_s.begin(), completion.token_gaps_s.end());
}

Json RunMetrics::to_json() const {
  return {{"num_requests", num_requests},
          {"prompt_tokens", prompt_tokens},
          {"cached_prompt_tokens", cached_prompt_tokens},
          {"completion_tokens", completion_tokens},
          {"wall_s", wall_s},
          {"output_tokens_per_s", wall_s > 0 ? static_cast<double>(completion_tokens) / wall_s : 0},
          {"total_tokens_per_s", wall_s > 0 ? static_cast<double>(prompt_tokens + completion_tokens) / wall_s : 0},
          {"ttft_p50_s", percentile(first_token_s, 0.5)},
          {"ttft_p99_s", percentile(first_token_s, 0.99)},
          {"tbt_p50_s", percentile(token_gaps_s, 0.5)},
          {"tbt_p99_s", percentile(token_gaps_s, 0.99)}};
}

std::string RunMetrics::to_text() const {
  std::string text =
      fmt::format("{} request{}, {} prompt tokens ({} from the cache), {} completion tokens in {}: {:.1f} tokens/s\n",
                  num_requests, num_requests == 1 ? "" : "s", format_count(prompt_tokens),
                  format_count(cached_prompt_tokens), format_count(completion_tokens), format_duration(wall_s),
                  wall_s > 0 ? static_cast<double>(completion_tokens) / wall_s : 0);
  text += fmt::format("time to first token p50 {}, p99 {}; between tokens p50 {}, p99 {}\n",
                      format_duration(percentile(first_token_s, 0.5)), format_duration(percentile(first_token_s, 0.99)),
                      format_duration(percentile(token_gaps_s, 0.5)), format_duration(percentile(token_gaps_s, 0.99)));
  return text;
}

}  // namespace lane::cli
