#include "cli/requests.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "lane/base/error.h"

namespace lane::cli {
namespace {

const std::string kDemo = std::string(LANE_SOURCE_DIR) + "/models/demo";

SamplingParams apply(const std::string& fields) {
  SamplingParams params;
  apply_sampling_fields(parse_json(fields, "line 1"), params, "line 1");
  return params;
}

std::string error_of(const std::string& fields) {
  try {
    apply(fields);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(SamplingFields, OverwriteWhatTheyName) {
  const SamplingParams params = apply(R"({"max_tokens": 7, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1,
      "repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3, "seed": 42, "stop": "END",
      "stop_token_ids": [1, 2], "ignore_eos": true, "logprobs": 5, "min_tokens": 2, "model": "ignored"})");
  EXPECT_EQ(params.max_tokens, 7);
  EXPECT_EQ(params.min_tokens, 2);
  EXPECT_EQ(params.temperature, 0.5);
  EXPECT_EQ(params.top_k, 3);
  EXPECT_EQ(params.top_p, 0.9);
  EXPECT_EQ(params.min_p, 0.1);
  EXPECT_EQ(params.repetition_penalty, 1.1);
  EXPECT_EQ(params.presence_penalty, 0.2);
  EXPECT_EQ(params.frequency_penalty, 0.3);
  EXPECT_EQ(params.seed, 42u);
  EXPECT_EQ(params.stop, std::vector<std::string>{"END"});
  EXPECT_EQ(params.stop_token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_TRUE(params.ignore_eos);
  EXPECT_EQ(params.logprobs, 5);
}

TEST(SamplingFields, ChatSpellsLogprobsAndMaxTokensOtherwise) {
  EXPECT_EQ(apply(R"({"logprobs": true, "top_logprobs": 4})").logprobs, 4);
  EXPECT_EQ(apply(R"({"logprobs": true})").logprobs, 0);
  EXPECT_EQ(apply(R"({"logprobs": false})").logprobs, -1);
  EXPECT_EQ(apply(R"({"max_completion_tokens": 9})").max_tokens, 9);
  EXPECT_EQ(apply(R"({"stop": ["a", "b"], "max_tokens": null})").stop.size(), 2u);
}

TEST(SamplingFields, NonsenseNamesLineFieldAndValue) {
  for (const char* bad : {R"({"temperature": "hot"})", R"({"max_tokens": 1.5})", R"({"stop": [1]})", R"({"n": 2})",
                          R"({"stop_token_ids": [-1]})", R"({"top_p": 7})", R"({"ignore_eos": 1})"})
    EXPECT_NE(error_of(bad).find("line 1"), std::string::npos) << bad << ": " << error_of(bad);
  EXPECT_NE(error_of(R"({"temperature": "hot"})").find("temperature"), std::string::npos);
  EXPECT_NE(error_of(R"({"temperature": "hot"})").find("hot"), std::string::npos);
}

TEST(Messages, TextPartsAreJoinedAndOthersRefused) {
  const auto messages = parse_messages(parse_json(R"([{"role": "system", "content": "Be brief."},
                     {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])",
                                                  "x"),
                                       "x");
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[1].content, "ab");
  for (const char* bad :
       {"[]", "{}", R"([{"role": "user"}])", R"([{"role": "robot", "content": "x"}])",
        R"([{"role": "user", "content": [{"type": "image_url"}]}])", R"([{"role": "user", "content": 3}])"})
    EXPECT_THROW(parse_messages(parse_json(bad, "x"), "x"), Error) << bad;
}

class PromptFile : public testing::Test {
 protected:
  std::string path_ = testing::TempDir() + "lane_prompts_" + std::to_string(::getpid());
  Tokenizer tokenizer_ = Tokenizer::load(kDemo);
  void TearDown() override { std::remove(path_.c_str()); }
  std::vector<PromptItem> read(const std::string& content, bool chat = false) {
    std::ofstream(path_) << content;
    return PromptReader(&tokenizer_, chat, {.max_tokens = 5}).from_file(path_);
  }
};

TEST_F(PromptFile, TextIsOnePromptALine) {
  const auto items = read("first\n\nsecond line\r\nthird");
  ASSERT_EQ(items.size(), 3u);
  EXPECT_EQ(items[1].text, "second line");
  EXPECT_EQ(items[1].id, "1");
  EXPECT_EQ(items[1].token_ids, tokenizer_.encode("second line"));
  EXPECT_EQ(items[2].sampling.max_tokens, 5);
}

TEST_F(PromptFile, JsonLinesCarryTheirOwnFields) {
  const auto items = read(
      "{\"prompt\": \"abc\", \"id\": \"x1\", \"max_tokens\": 9}\n"
      "{\"prompt_token_ids\": [5, 6, 7]}\n"
      "{\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}], \"id\": 12}\n");
  ASSERT_EQ(items.size(), 3u);
  EXPECT_EQ(items[0].id, "x1");
  EXPECT_EQ(items[0].sampling.max_tokens, 9);
  EXPECT_EQ(items[1].token_ids, (std::vector<int32_t>{5, 6, 7}));
  EXPECT_EQ(items[1].sampling.max_tokens, 5);
  EXPECT_EQ(items[2].id, "12");
  EXPECT_EQ(items[2].token_ids, PromptReader(&tokenizer_, true, {}).from_text("hello", "").token_ids);
}

TEST_F(PromptFile, ABadLineIsNamed) {
  try {
    read("{\"prompt\": \"abc\"}\n{\"prompt\": }\n");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(path_ + ", line 2"), std::string::npos) << error.what();
  }
  EXPECT_THROW(read("{\"question\": \"abc\"}\n"), Error);
  EXPECT_THROW(PromptReader(&tokenizer_, false, {}).from_file("/no/such/file"), Error);
  EXPECT_THROW(PromptReader(nullptr, false, {}).from_text("abc", "0"), Error);
}

}  // namespace
}  // namespace lane::cli
