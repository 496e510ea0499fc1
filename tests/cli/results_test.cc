#include "cli/results.h"

#include <gtest/gtest.h>

namespace lane::cli {
namespace {

TEST(Percentile, InterpolatesBetweenSamples) {
  EXPECT_EQ(percentile({}, 0.5), 0);
  EXPECT_EQ(percentile({3}, 0.99), 3);
  EXPECT_EQ(percentile({4, 1, 3, 2}, 0.5), 2.5);
  EXPECT_EQ(percentile({1, 2, 3, 4, 5}, 1), 5);
  EXPECT_EQ(percentile({1, 2, 3, 4, 5}, 0), 1);
}

Completion example() {
  Completion completion;
  completion.tokens = {3, 4};
  completion.text = "hi";
  completion.reason = FinishReason::kStop;
  completion.prompt_tokens = 5;
  completion.first_token_s = 0.5;
  completion.token_gaps_s = {0.25};
  completion.logprobs = {{.chosen = {3, -0.5f}, .top = {{3, -0.5f}, {9, -1.5f}}}, {.chosen = {4, -0.1f}, .top = {}}};
  return completion;
}

TEST(Results, AResultHasTheFieldsItsReadersExpect) {
  const Json json = result_to_json({.id = "a7", .text = "hello", .token_ids = {1}, .sampling = {}}, example(), nullptr);
  EXPECT_EQ(json["id"], "a7");
  EXPECT_EQ(json["prompt"], "hello");
  EXPECT_EQ(json["text"], "hi");
  EXPECT_EQ(json["token_ids"], Json::array({3, 4}));
  EXPECT_EQ(json["finish_reason"], "stop");
  EXPECT_EQ(json["prompt_tokens"], 5);
  EXPECT_EQ(json["completion_tokens"], 2);
  EXPECT_EQ(json["logprobs"][0]["top"][1]["token_id"], 9);
  EXPECT_EQ(json["logprobs"][1]["token_id"], 4);
}

TEST(Results, MetricsAddUp) {
  RunMetrics metrics;
  metrics.add(example());
  metrics.add(example());
  metrics.wall_s = 2;
  const Json json = metrics.to_json();
  EXPECT_EQ(json["num_requests"], 2);
  EXPECT_EQ(json["prompt_tokens"], 10);
  EXPECT_EQ(json["completion_tokens"], 4);
  EXPECT_EQ(json["output_tokens_per_s"], 2.0);
  EXPECT_EQ(json["ttft_p50_s"], 0.5);
  EXPECT_EQ(json["tbt_p99_s"], 0.25);
  EXPECT_NE(metrics.to_text().find("2 requests, 10 prompt tokens"), std::string::npos) << metrics.to_text();
}

}  // namespace
}  // namespace lane::cli
