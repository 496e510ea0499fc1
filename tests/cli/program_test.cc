// The program as its users run it, on the demo model and one rank.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "lane/base/file.h"
#include "lane/base/json.h"
#include "tests/support/subprocess.h"

namespace lane {
namespace {

using test::Outcome;

const std::string kLane = LANE_BINARY;
const std::string kDemo = std::string(LANE_SOURCE_DIR) + "/models/demo";

Outcome lane(std::vector<std::string> arguments, test::RunOptions options = {}) {
  arguments.insert(arguments.begin(), kLane);
  return test::run(arguments, options);
}

class Program : public testing::Test {
 protected:
  std::string folder_ = testing::TempDir() + "lane_program_" + std::to_string(::getpid());
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  std::string put(const std::string& name, const std::string& content) const {
    std::ofstream(path(name)) << content;
    return path(name);
  }
  static std::vector<Json> lines_of(const std::string& file) {
    std::vector<Json> lines;
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);) lines.push_back(parse_json(line, file));
    return lines;
  }
};

TEST_F(Program, GenerateAnswersOnTheTerminalAndAsJson) {
  const Outcome plain = lane({"generate", "--prompt", "What is 17 + 25?"});
  ASSERT_EQ(plain.status, 0) << plain.err;
  EXPECT_NE(plain.out.find("> What is 17 + 25?"), std::string::npos) << plain.out;
  EXPECT_NE(plain.out.find("42"), std::string::npos) << plain.out;
  for (const char* line : {"KV cache size: ", "Maximum concurrency for ", "ranks: 1 on ", "tokens/s"})
    EXPECT_NE(plain.err.find(line), std::string::npos) << plain.err;
  EXPECT_EQ(plain.err.find('\x1b'), std::string::npos) << "no colour and no bar without a terminal";

  const Outcome json = lane({"generate", "--prompt", "What is 17 + 25?", "--json", "--breakdown", "--logprobs", "2"});
  ASSERT_EQ(json.status, 0) << json.err;
  const Json all = parse_json(json.out, "standard output");
  const Json& result = all["results"][0];
  EXPECT_EQ(result["finish_reason"], "stop");
  EXPECT_EQ(result["completion_tokens"], result["token_ids"].size());
  EXPECT_EQ(result["logprobs"].size(), result["token_ids"].size());
  EXPECT_EQ(result["logprobs"][0]["top"].size(), 2u);
  EXPECT_GT(all["breakdown"]["decode"]["kinds"]["matmul"]["mean_s"], 0.0);
  EXPECT_GT(all["metrics"]["ttft_p50_s"], 0.0);
}

TEST_F(Program, PromptFilesGiveResultsInInputOrder) {
  const std::string prompts = put("prompts.jsonl",
                                  "{\"prompt\": \"Spell the word lantern.\", \"id\": \"long\"}\n"
                                  "{\"prompt\": \"What is 3 + 4?\", \"id\": \"short\", \"max_tokens\": 1}\n"
                                  "{\"prompt\": \"What is 9 + 9?\", \"id\": \"stopped\", \"stop\": \"=\"}\n");
  const Outcome outcome = lane({"generate", "--prompts", prompts, "--output", path("out.jsonl")});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  const auto results = lines_of(path("out.jsonl"));
  ASSERT_EQ(results.size(), 3u);
  EXPECT_EQ(results[0]["id"], "long");
  EXPECT_EQ(results[1]["id"], "short");
  EXPECT_EQ(results[1]["finish_reason"], "length");
  EXPECT_EQ(results[1]["completion_tokens"], 1);
  EXPECT_EQ(results[2]["text"].get<std::string>().find('='), std::string::npos);
  const Outcome piped = lane({"generate", "--prompts", "-", "--json"}, {.input = "What is 3 + 4?\nWhat is 9 + 9?\n"});
  ASSERT_EQ(piped.status, 0) << piped.err;
  EXPECT_EQ(parse_json(piped.out, "out")["results"].size(), 2u);
}

TEST_F(Program, TheSameSeedGivesTheSameTextInAnyBatch) {
  const auto text_of = [](std::vector<std::string> more) {
    more.insert(more.begin(), {"generate", "--json", "--temperature", "4", "--seed", "7", "--prompt", "Who are you?"});
    const Outcome outcome = lane(more);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return parse_json(outcome.out, "out")["results"][0]["token_ids"];
  };
  const Json alone = text_of({});
  EXPECT_EQ(alone, text_of({}));
  EXPECT_EQ(alone,
            text_of({"--prompt", "What is 9 + 9?", "--prompt", "Who are you?", "--max-num-batched-tokens", "7"}));
  EXPECT_NE(alone, text_of({"--seed", "8"}));
}

TEST_F(Program, TracesOpenAsJson) {
  const Outcome outcome = lane({"generate", "--prompt", "What is 3 + 4?", "--trace", path("trace.json")});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json trace = parse_json(read_file(path("trace.json")), "trace.json");
  std::set<std::string> kinds;
  for (const Json& event : trace["traceEvents"])
    if (event["ph"] == "X") kinds.insert(event["cat"].get<std::string>());
  for (const char* kind : {"matmul", "attention", "other", "step"}) EXPECT_TRUE(kinds.contains(kind)) << kind;
}

TEST_F(Program, RunBatchSpeaksTheOpenAiFormatAndResumes) {
  std::string requests;
  for (int i = 0; i < 6; ++i)
    requests +=
        "{\"custom_id\": \"r" + std::to_string(i) +
        "\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {\"messages\": [{\"role\": \"user\", "
        "\"content\": \"What is " +
        std::to_string(i) + " + 1?\"}], \"temperature\": 0}}\n";
  requests +=
      "{\"custom_id\": \"text\", \"url\": \"/v1/completions\", \"body\": {\"prompt\": \"Hello\", \"max_tokens\": 3}}\n";
  const std::string input =
      put("requests.jsonl", requests + "{\"custom_id\": \"bad\", \"url\": \"/v1/nothing\", \"body\": {}}\nnot json\n");
  const std::string output = path("results.jsonl");
  const Outcome first = lane({"run-batch", "-i", input, "-o", output});
  ASSERT_EQ(first.status, 0) << first.err;
  std::map<std::string, Json> by_id;
  int num_errors = 0;
  for (const Json& line : lines_of(output)) {
    if (!line["error"].is_null()) ++num_errors;
    if (line["custom_id"].is_string()) by_id[line["custom_id"].get<std::string>()] = line;
  }
  EXPECT_EQ(num_errors, 2);
  EXPECT_EQ(by_id.size(), 8u);
  const Json& body = by_id["r3"]["response"]["body"];
  EXPECT_EQ(by_id["r3"]["response"]["status_code"], 200);
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_NE(body["choices"][0]["message"]["content"].get<std::string>().find('4'), std::string::npos) << body.dump();
  EXPECT_EQ(body["usage"]["total_tokens"],
            body["usage"]["prompt_tokens"].get<int>() + body["usage"]["completion_tokens"].get<int>());
  EXPECT_EQ(by_id["text"]["response"]["body"]["usage"]["completion_tokens"], 3);

  EXPECT_EQ(lane({"run-batch", "-i", input, "-o", output}).status, 1) << "an existing file is not overwritten";
  // An interrupted run: three whole lines and a torn one.
  const auto whole = lines_of(output);
  put("results.jsonl",
      whole[0].dump() + "\n" + whole[1].dump() + "\n" + whole[2].dump() + "\n" + whole[3].dump().substr(0, 40));
  const Outcome resumed = lane({"run-batch", "-i", input, "-o", output, "--resume"});
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  std::set<std::string> answered;
  for (const Json& line : lines_of(output))
    if (line["error"].is_null()) {
      EXPECT_TRUE(answered.insert(line["custom_id"].get<std::string>()).second);
    }
  EXPECT_EQ(answered.size(), 7u);
}

TEST_F(Program, BenchPrintsTheShareOfTheMemoryFloor) {
  const Outcome latency =
      lane({"bench", "latency", "--batch-size", "2", "--input-len", "5", "--output-len", "4", "--num-iters", "2"});
  ASSERT_EQ(latency.status, 0) << latency.err;
  EXPECT_NE(latency.out.find("MBU"), std::string::npos) << latency.out;
  const Outcome json = lane(
      {"bench", "latency", "--batch-size", "1", "--input-len", "5", "--output-len", "4", "--num-iters", "2", "--json"});
  const Json numbers = parse_json(json.out, "out");
  EXPECT_EQ(numbers["latencies"].size(), 2u);
  EXPECT_GT(numbers["mbu"], 0.0);
  for (const char* key : {"ttft_p50_s", "ttft_p99_s", "tbt_p50_s", "tbt_p99_s", "output_tokens_per_s",
                          "prefill_flops_per_s_per_rank", "decode_step_p50_s", "decode_tokens_per_s"})
    EXPECT_GT(numbers[key], 0.0) << key;
  EXPECT_TRUE(numbers["mfu"].is_null());  // of CPUs no peak is known
  EXPECT_GE(numbers["ttft_p99_s"], numbers["ttft_p50_s"]);
  const Outcome throughput =
      lane({"bench", "throughput", "--num-prompts", "5", "--input-len", "9", "--output-len", "3", "--json"});
  ASSERT_EQ(throughput.status, 0) << throughput.err;
  const Json all = parse_json(throughput.out, "out");
  EXPECT_EQ(all["num_requests"], 5);
  EXPECT_GT(all["mbu"], 0.0);
  EXPECT_GT(all["flops"], 0.0);
}

TEST_F(Program, WithoutGpusAutoMeansTheCpuAndCudaASentence) {
  const Outcome chosen = lane({"generate", "--prompt", "What is 3 + 4?", "--device", "auto"});
  EXPECT_EQ(chosen.status, 0) << chosen.err;
  EXPECT_NE(chosen.err.find("thread"), std::string::npos) << chosen.err;
  const Outcome refused = lane({"generate", "--prompt", "What is 3 + 4?", "--device", "cuda"});
  EXPECT_NE(refused.status, 0);
  EXPECT_NE(refused.err.find("--device cuda: "), std::string::npos) << refused.err;
}

TEST_F(Program, TokenizeGoesBothWays) {
  const Outcome ids = lane({"tokenize", "--model", kDemo, "--json"}, {.input = "\"What is 17 + 25?\"\n\"\"\n"});
  ASSERT_EQ(ids.status, 0) << ids.err;
  const Outcome text = lane({"tokenize", "--decode", "--no-special-tokens", "--json"}, {.input = ids.out});
  EXPECT_EQ(text.out, "\"What is 17 + 25?\"\n\"\"\n") << text.err;
  const Outcome plain = lane({"tokenize"}, {.input = "What is 17 + 25?\n"});
  EXPECT_EQ(lane({"tokenize", "--decode", "--no-special-tokens"}, {.input = plain.out}).out, "What is 17 + 25?\n");
}

TEST_F(Program, EnvShowsSettingsInForce) {
  const Outcome outcome = lane({"env", "--json"}, {.environment = {{"LANE_TIMEOUT_MS", "1234"}}});
  EXPECT_EQ(parse_json(outcome.out, "out")["LANE_TIMEOUT_MS"]["value"], "1234");
  EXPECT_NE(lane({"env"}).out.find("LANE_LOG"), std::string::npos);
  EXPECT_EQ(lane({"--version"}).out.substr(0, 5), "lane ");
}

// What is wrong, and the words that must say so.
TEST_F(Program, MistakesAreExplainedAndLeaveNothingBehind) {
  const struct {
    std::vector<std::string> arguments;
    int status;
    std::vector<std::string> says;
  } cases[] = {
      {{"generate"}, 1, {"no prompts", "--prompt"}},
      {{"generate", "--prompt", "x", "--model", "/no/such/folder"}, 1, {"/no/such/folder"}},
      {{"generate", "--prompt", "x", "--tp", "3"}, 1, {"3", "tensor"}},
      {{"generate", "--prompt", "x", "--dtype", "int7"}, 1, {"--dtype int7"}},
      {{"generate", "--prompt", "x", "--top-p", "3"}, 1, {"top_p", "3"}},
      {{"generate", "--prompt", "x", "--max-model-len", "999999"}, 1, {"--max-model-len 999999"}},
      {{"generate", "--prompt", "x", "--kv-cache-memory-bytes", "lots"}, 1, {"--kv-cache-memory-bytes lots"}},
      {{"generate", "--prompt", "x", "--kv-cache-memory-bytes", "1K"}, 1, {"KV cache"}},
      {{"generate", "--prompt", "x", "--attention-backend", "magic"}, 1, {"magic", "flash"}},
      {{"generate", "--prompts", "/no/such/prompts"}, 1, {"/no/such/prompts"}},
      {{"generate", "--prompt", "x", "--output", "/no/such/folder/out"}, 1, {"/no/such/folder/out"}},
      {{"generate", "--nonsense"}, 2, {"--nonsense"}},
      {{"dance"}, 2, {"dance"}},
  };
  for (const auto& wrong : cases) {
    const Outcome outcome = lane(wrong.arguments);
    EXPECT_EQ(outcome.status, wrong.status) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    for (const std::string& words : wrong.says) EXPECT_NE(outcome.err.find(words), std::string::npos) << outcome.err;
  }
}

TEST_F(Program, HelpTeaches) {
  EXPECT_NE(lane({"--help"}).out.find("lane generate --prompt"), std::string::npos);
  for (const char* command : {"generate", "run-batch", "tokenize", "env", "bench"})
    EXPECT_EQ(lane({command, "--help"}).status, 0) << command;
}

// With and without CUDA in this build; a machine with a GPU has tests of its own.
TEST_F(Program, WithoutAGpuSaysWhatIsMissing) {
  for (const char* ranks : {"1", "2"}) {
    const Outcome outcome = lane({"generate", "--device", "cuda", "--prompt", "Who are you?", "--tp", ranks});
    if (outcome.status == 0) GTEST_SKIP() << "this machine has a GPU";
    EXPECT_EQ(outcome.status, 1) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find("--device cuda: "), std::string::npos) << outcome.err;
    const bool has_remedy = outcome.err.find("-DLANE_CUDA=ON") != std::string::npos ||
                            outcome.err.find("or newer") != std::string::npos ||
                            outcome.err.find("nvidia-smi") != std::string::npos;
    EXPECT_TRUE(has_remedy) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), std::atoi(ranks))
        << "a line for each rank: " << outcome.err;
  }
}

}  // namespace
}  // namespace lane
