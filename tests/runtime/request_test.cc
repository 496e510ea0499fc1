#include "lane/runtime/request.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "lane/base/error.h"

namespace lane {
namespace {

// The message with which check() refuses the parameters; empty if it takes them.
std::string refusal(const std::function<void(SamplingParams&)>& change) {
  SamplingParams params;
  change(params);
  try {
    check(params);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST(Request, LegalParametersPass) {
  EXPECT_EQ(refusal([](SamplingParams&) {}), "");
  EXPECT_EQ(refusal([](SamplingParams& p) { p.temperature = 0, p.top_k = -1, p.top_p = 1e-9, p.min_p = 1; }), "");
  EXPECT_EQ(refusal([](SamplingParams& p) { p.max_tokens = p.min_tokens = 1; }), "");
  EXPECT_EQ(refusal([](SamplingParams& p) { p.presence_penalty = -2, p.frequency_penalty = 2; }), "");
  EXPECT_EQ(refusal([](SamplingParams& p) { p.logprobs = 0, p.stop = {"x"}, p.stop_token_ids = {0}; }), "");
}

TEST(Request, RefusalsNameFieldValueAndRange) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(refusal([](SamplingParams& p) { p.max_tokens = 0; }), "max_tokens is 0; it must be at least 1");
  EXPECT_EQ(refusal([](SamplingParams& p) { p.min_tokens = 17; }),
            "min_tokens is 17; it must be between 0 and max_tokens (16)");
  EXPECT_EQ(refusal([](SamplingParams& p) { p.temperature = -0.5; }),
            "temperature is -0.5; it must be 0 or more, and finite");
  EXPECT_EQ(refusal([&](SamplingParams& p) { p.temperature = nan; }),
            "temperature is nan; it must be 0 or more, and finite");
  EXPECT_EQ(refusal([](SamplingParams& p) { p.top_k = -2; }),
            "top_k is -2; it must be at least 1, or 0 or -1 for all tokens");
  EXPECT_EQ(refusal([](SamplingParams& p) { p.top_p = 0; }), "top_p is 0; it must be above 0 and at most 1");
  EXPECT_EQ(refusal([](SamplingParams& p) { p.top_p = 1.5; }), "top_p is 1.5; it must be above 0 and at most 1");
  EXPECT_EQ(refusal([](SamplingParams& p) { p.min_p = 1.1; }), "min_p is 1.1; it must be between 0 and 1");
  EXPECT_EQ(refusal([&](SamplingParams& p) { p.repetition_penalty = inf; }),
            "repetition_penalty is inf; it must be above 0, and finite");
  EXPECT_EQ(refusal([](SamplingParams& p) { p.presence_penalty = 3; }),
            "presence_penalty is 3; it must be between -2 and 2");
  EXPECT_EQ(refusal([](SamplingParams& p) { p.frequency_penalty = -2.5; }),
            "frequency_penalty is -2.5; it must be between -2 and 2");
  EXPECT_EQ(refusal([](SamplingParams& p) { p.logprobs = -2; }),
            "logprobs is -2; it must be between 0 and 1000, or -1 for none");
  EXPECT_EQ(refusal([](SamplingParams& p) {
              p.stop = {"a", ""};
            }),
            "stop[1] is empty; it must be a text of at least one character");
  EXPECT_EQ(refusal([](SamplingParams& p) {
              p.stop_token_ids = {3, -1};
            }),
            "stop_token_ids[1] is -1; it must be 0 or more");
}

}  // namespace
}  // namespace lane
