// The demo model end to end: held-out questions, answered through one, two and four ranks.
// tests/fixtures/demo_eval.jsonl comes from tools/demo_model/evaluate.py: prompts with the chat format written out, a
// regular expression for the right answer, and for some of them the tokens that transformers generates in float32.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <regex>

#include "lane/base/json.h"
#include "lane/runtime/session.h"
#include "tests/support/rank_group.h"

namespace lane {
namespace {

const std::string kDemo = std::string(LANE_SOURCE_DIR) + "/models/demo";

std::vector<Json> questions() {
  const std::string path = std::string(LANE_SOURCE_DIR) + "/tests/fixtures/demo_eval.jsonl";
  std::vector<Json> all;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) all.push_back(parse_json(line, path));
  return all;
}

// One completion a question, in order.
std::vector<Completion> answers(const std::string& dtype, int num_ranks) {
  std::vector<Completion> all;
  run_ranks(num_ranks, [&](Communicator& group) {
    Session session({.model = kDemo, .dtype = dtype, .max_num_seqs = 32, .num_threads = 1}, &group);
    Engine& engine = session.engine();
    if (group.rank() != 0) return engine.follow();
    int64_t id = 0;
    for (const Json& question : questions())
      engine.add({.id = id++,
                  .prompt = session.tokenizer()->encode(question["prompt"].get<std::string>(), false),
                  .sampling = {.max_tokens = 400, .temperature = 0}});
    all.resize(static_cast<size_t>(id));
    while (!engine.idle())
      for (Completion& completion : engine.step()) all[static_cast<size_t>(completion.id)] = std::move(completion);
    engine.finish();
  });
  return all;
}

TEST(DemoModel, GivesTheTokensOfTransformersInFloat32) {
  const std::vector<Completion> got = answers("float32", 1);
  const std::vector<Json> asked = questions();
  int num_compared = 0;
  for (size_t i = 0; i < asked.size(); ++i) {
    if (!asked[i].contains("token_ids")) continue;
    ++num_compared;
    EXPECT_EQ(got[i].tokens, asked[i]["token_ids"].get<std::vector<int32_t>>()) << asked[i]["prompt"];
    EXPECT_EQ(got[i].text, asked[i]["text"]);
  }
  EXPECT_GE(num_compared, 40);
}

TEST(DemoModel, AnswersHeldOutQuestionsAndAnyNumberOfRanksGivesTheSameTokens) {
  const std::vector<Json> asked = questions();
  const std::vector<Completion> one = answers("auto", 1);
  ASSERT_GE(one.size(), 200u);
  int num_right = 0;
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].reason, FinishReason::kStop);
    num_right += std::regex_search(one[i].text, std::regex(asked[i]["check"].get<std::string>()));
  }
  EXPECT_GE(num_right, static_cast<int>(0.95 * static_cast<double>(one.size())));
  for (const int num_ranks : {2, 4}) {
    const std::vector<Completion> more = answers("auto", num_ranks);
    for (size_t i = 0; i < one.size(); ++i)
      EXPECT_EQ(more[i].tokens, one[i].tokens) << num_ranks << " ranks: " << asked[i]["prompt"];
  }
}

}  // namespace
}  // namespace lane
