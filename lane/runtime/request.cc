#include "lane/runtime/request.h"

#include <fmt/format.h>

#include <cmath>
#include <string_view>

#include "lane/base/error.h"

namespace lane {
namespace {

// NaN is refused too: it compares as false.
template <class T>
void require(bool holds, std::string_view field, T value, std::string_view legal) {
  if (!holds) throw Error(ErrorCode::kInvalidArgument, fmt::format("{} is {}; it must be {}", field, value, legal));
}

}  // namespace

void check(const SamplingParams& p) {
  require(p.max_tokens >= 1, "max_tokens", p.max_tokens, "at least 1");
  require(p.min_tokens >= 0 && p.min_tokens <= p.max_tokens, "min_tokens", p.min_tokens,
          fmt::format("between 0 and max_tokens ({})", p.max_tokens));
  require(p.temperature >= 0 && std::isfinite(p.temperature), "temperature", p.temperature, "0 or more, and finite");
  require(p.top_k >= -1, "top_k", p.top_k, "at least 1, or 0 or -1 for all tokens");
  require(p.top_p > 0 && p.top_p <= 1, "top_p", p.top_p, "above 0 and at most 1");
  require(p.min_p >= 0 && p.min_p <= 1, "min_p", p.min_p, "between 0 and 1");
  require(p.repetition_penalty > 0 && std::isfinite(p.repetition_penalty), "repetition_penalty", p.repetition_penalty,
          "above 0, and finite");
  require(p.presence_penalty >= -2 && p.presence_penalty <= 2, "presence_penalty", p.presence_penalty,
          "between -2 and 2");
  require(p.frequency_penalty >= -2 && p.frequency_penalty <= 2, "frequency_penalty", p.frequency_penalty,
          "between -2 and 2");
  require(p.logprobs >= -1 && p.logprobs <= kMostLogprobs, "logprobs", p.logprobs,
          fmt::format("between 0 and {}, or -1 for none", kMostLogprobs));
  for (size_t i = 0; i < p.stop.size(); ++i)
    require(!p.stop[i].empty(), fmt::format("stop[{}]", i), "empty", "a text of at least one character");
  for (size_t i = 0; i < p.stop_token_ids.size(); ++i)
    require(p.stop_token_ids[i] >= 0, fmt::format("stop_token_ids[{}]", i), p.stop_token_ids[i], "0 or more");
}

}  // namespace lane
