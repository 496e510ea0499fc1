#pragma once
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "lane/attention/attention.h"
#include "lane/base/json.h"
#include "lane/model/model.h"
#include "lane/runtime/engine.h"
#include "tests/support/rank_group.h"

namespace lane {

// A model of 256 tokens with seeded random weights, in float32.
inline const ModelConfig& tiny_config() {
  static const ModelConfig config = parse_model_config(R"({
      "model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
      "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
      "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "float32", "bos_token_id": 1,
      "eos_token_id": 2})",
                                                       "config.json");
  return config;
}

inline Model tiny_model(Communicator& group, Stream& stream) {
  const ModelConfig& config = tiny_config();
  const plan::ParallelPlan plan{.tensor = group.size()};
  Weights weights =
      load_weights("", config, plan, group.rank(), {.dtype = DType::kF32, .dummy = true}, stream, nullptr);
  // Random weights alone find all tokens about as likely; this makes a model with opinions.
  for (int64_t i = 0; i < config.shape.hidden_size; ++i) weights.final_norm.view().as<float>()[i] *= 25;
  const plan::RankSlices slices = plan::slices_of(plan, config.shape, group.rank());
  const AttentionShape shape{.num_heads = static_cast<int>(slices.heads.size()),
                             .num_kv_heads = static_cast<int>(slices.kv_heads.size()),
                             .head_dim = config.shape.head_dim};
  return Model(config, std::move(weights), plan, *choose_attention(shape, DType::kF32, {}, "auto").backend, group);
}

// Token i is written as two letters, so that a stop string can begin and end inside a token: 0 "aa", 1 "ab", 16 "ba".
inline std::string letters(int32_t token) {
  return {static_cast<char>('a' + token / 16), static_cast<char>('a' + token % 16)};
}
inline const Tokenizer& letter_tokenizer() {
  static const Tokenizer tokenizer = [] {
    Json vocab = Json::object();
    for (int32_t i = 0; i < 256; ++i) vocab[letters(i)] = i;
    const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
    const Json file = {{"version", "1.0"},
                       {"added_tokens", Json::array()},
                       {"normalizer", nullptr},
                       {"pre_tokenizer", byte_level},
                       {"post_processor", nullptr},
                       {"decoder", byte_level},
                       {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
    return Tokenizer::parse(file.dump(), "tokenizer.json");
  }();
  return tokenizer;
}

inline EngineOptions tiny_options() {
  return {.limits = {.max_num_seqs = 64, .max_num_batched_tokens = 512, .max_model_len = 256},
          .block_tokens = 16,
          .num_blocks = 200,
          .kv_dtype = DType::kF32,
          .eos_token_ids = {}};
}

struct Outcome {
  std::map<int64_t, Completion> completions;
  std::vector<int64_t> order;  // in which they finished
  Engine::Stats stats;
};

// Steps until there is nothing left to do.
inline void run_to_end(Engine& engine, Outcome& outcome) {
  while (!engine.idle())
    for (Completion& completion : engine.step()) {
      outcome.order.push_back(completion.id);
      outcome.completions[completion.id] = std::move(completion);
    }
}

// Gives every rank an engine; rank 0 does `lead`.
inline Outcome run_engine(int num_ranks, const EngineOptions& options,
                          const std::function<void(Engine&, Outcome&)>& lead) {
  Outcome outcome;
  run_ranks(num_ranks, [&](Communicator& group) {
    Stream stream;
    Model model = tiny_model(group, stream);
    Engine engine(&model, &group, &letter_tokenizer(), options, &stream);
    if (group.rank() == 0) {
      lead(engine, outcome);
      engine.finish();
      outcome.stats = engine.stats();
    } else {
      engine.follow();
    }
  });
  return outcome;
}

inline Outcome generate(int num_ranks, const EngineOptions& options, const std::vector<Request>& requests) {
  return run_engine(num_ranks, options, [&](Engine& engine, Outcome& outcome) {
    for (const Request& request : requests) engine.add(request);
    run_to_end(engine, outcome);
  });
}

// Text of several tokens, in letters.
inline std::string text_of(const std::vector<int32_t>& tokens) {
  std::string text;
  for (const int32_t token : tokens) text += letters(token);
  return text;
}

inline void expect_same_tokens(const Outcome& a, const Outcome& b, const std::string& where) {
  ASSERT_EQ(a.completions.size(), b.completions.size()) << where;
  for (const auto& [id, completion] : a.completions) {
    ASSERT_TRUE(b.completions.contains(id)) << where;
    EXPECT_EQ(completion.tokens, b.completions.at(id).tokens) << where << ", request " << id;
    EXPECT_EQ(completion.text, b.completions.at(id).text) << where << ", request " << id;
    EXPECT_EQ(completion.reason, b.completions.at(id).reason) << where << ", request " << id;
  }
}

// Tokens, and log-probabilities to the last bit.
inline void expect_same_bits(const Completion& a, const Completion& b, const std::string& where) {
  EXPECT_EQ(a.tokens, b.tokens) << where;
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size()) << where;
  const auto same = [](const TokenLogprob& x, const TokenLogprob& y) {
    return x.token == y.token && std::memcmp(&x.logprob, &y.logprob, sizeof(float)) == 0;
  };
  for (size_t i = 0; i < a.logprobs.size(); ++i) {
    EXPECT_TRUE(same(a.logprobs[i].chosen, b.logprobs[i].chosen)) << where << ", token " << i;
    ASSERT_EQ(a.logprobs[i].top.size(), b.logprobs[i].top.size()) << where;
    for (size_t j = 0; j < a.logprobs[i].top.size(); ++j)
      EXPECT_TRUE(same(a.logprobs[i].top[j], b.logprobs[i].top[j])) << where << ", token " << i << ", place " << j;
  }
}

}  // namespace lane
