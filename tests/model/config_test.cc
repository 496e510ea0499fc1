#include "lane/model/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/base/random.h"
#include "tests/model/checkpoint_writer.h"

namespace lane {
namespace {

const char* const kLlama = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 128256,
  "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
  "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072, "rms_norm_eps": 1e-05,
  "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "bos_token_id": 128000,
  "eos_token_id": [128001, 128008, 128009], "attention_bias": false, "mlp_bias": false,
  "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                   "original_max_position_embeddings": 8192, "rope_type": "llama3"}})";

// kLlama with some fields replaced; a null removes a field.
std::string config_with(const Json& changes, const char* base = kLlama) {
  Json config = Json::parse(base);
  for (const auto& [key, value] : changes.items()) {
    if (value.is_null())
      config.erase(key);
    else
      config[key] = value;
  }
  return config.dump();
}

Json family(const char* name) {
  return {{"model_type", name},      {"vocab_size", 100},      {"hidden_size", 64},
          {"intermediate_size", 96}, {"num_hidden_layers", 4}, {"num_attention_heads", 4}};
}

ModelConfig parse(const Json& json) { return parse_model_config(json.dump(), "config.json"); }

void expect_error(const std::string& text, ErrorCode code, const std::string& part) {
  try {
    parse_model_config(text, "config.json");
    ADD_FAILURE() << "accepted: " << text << "\nexpected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\nexpected: " << part;
    EXPECT_TRUE(std::string(error.what()).starts_with("config.json")) << error.what();
  }
}

TEST(ModelConfig, Llama32) {
  const ModelConfig config = parse_model_config(kLlama, "config.json");
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.shape.vocab_size, 128256);
  EXPECT_EQ(config.shape.hidden_size, 2048);
  EXPECT_EQ(config.shape.intermediate_size, 8192);
  EXPECT_EQ(config.shape.num_layers, 16);
  EXPECT_EQ(config.shape.num_heads, 32);
  EXPECT_EQ(config.shape.num_kv_heads, 8);
  EXPECT_EQ(config.shape.head_dim, 64);
  EXPECT_EQ(config.max_position_embeddings, 131072);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_FALSE(config.qkv_bias || config.out_bias || config.mlp_bias || config.qk_norm || config.fused_qkv);
  EXPECT_EQ(config.windows, std::vector<int>(16, 0));
  EXPECT_EQ(config.dtype, DType::kBF16);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{128001, 128008, 128009}));
  EXPECT_EQ(config.bos_token_id, 128000);
  EXPECT_EQ(config.num_parameters(), 1235814400);  // as Hugging Face counts this model
}

TEST(ModelConfig, Llama3RopeAgreesWithFloat32Reference) {
  // theta 500000, 64 elements, factor 32, low 1, high 4, context 8192, computed with numpy in float32.
  const std::vector<float> expected = {1.f,
                                       0.663601279f,
                                       0.440366626f,
                                       0.292227834f,
                                       0.193922758f,
                                       0.128687382f,
                                       0.0853971019f,
                                       0.0566696189f,
                                       0.0376060307f,
                                       0.0249554086f,
                                       0.0165604409f,
                                       0.0109895291f,
                                       0.00729266508f,
                                       0.00483942125f,
                                       0.00321144611f,
                                       0.00129054801f,
                                       0.000429556705f,
                                       9.70828623e-05f,
                                       1.94616387e-05f,
                                       1.29147675e-05f,
                                       8.57025589e-06f,
                                       5.68723226e-06f,
                                       3.77405445e-06f,
                                       2.50446715e-06f,
                                       1.66196742e-06f,
                                       1.10288363e-06f,
                                       7.31874934e-07f,
                                       4.85673127e-07f,
                                       3.22293289e-07f,
                                       2.1387423e-07f,
                                       1.41927202e-07f,
                                       9.41830649e-08f};
  const RopeConfig rope = parse_model_config(kLlama, "config.json").rope;
  EXPECT_EQ(rope.theta, 500000);
  EXPECT_EQ(rope.rotary_dim, 64);
  EXPECT_EQ(rope.attention_factor, 1);
  ASSERT_EQ(rope.inv_freq.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(rope.inv_freq[i], expected[i], 4e-7 * expected[i]) << i;
}

TEST(ModelConfig, BothDialectsSayTheSame) {
  const ModelConfig older = parse_model_config(kLlama, "config.json");
  const ModelConfig newer = parse_model_config(config_with({{"rope_theta", nullptr},
                                                            {"rope_scaling", nullptr},
                                                            {"torch_dtype", nullptr},
                                                            {"dtype", "bfloat16"},
                                                            {"rope_parameters",
                                                             {{"rope_theta", 500000.0},
                                                              {"factor", 32.0},
                                                              {"high_freq_factor", 4.0},
                                                              {"low_freq_factor", 1.0},
                                                              {"original_max_position_embeddings", 8192},
                                                              {"rope_type", "llama3"}}}}),
                                               "config.json");
  EXPECT_EQ(older.rope.inv_freq, newer.rope.inv_freq);
  EXPECT_EQ(older.rope.theta, newer.rope.theta);
  EXPECT_EQ(older.dtype, newer.dtype);
  EXPECT_EQ(older.num_parameters(), newer.num_parameters());
}

TEST(ModelConfig, DefaultAndLinearRope) {
  Json json = family("llama");
  const std::vector<float> plain = parse(json).rope.inv_freq;
  ASSERT_EQ(plain.size(), 8u);
  for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(plain[i], std::pow(10000.0, -static_cast<double>(i) / 8), 1e-7 * plain[i]);
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  const std::vector<float> linear = parse(json).rope.inv_freq;
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(linear[i], plain[i] / 4);
  json["rope_scaling"] = {{"rope_type", "default"}};
  EXPECT_EQ(parse(json).rope.inv_freq, plain);
}

TEST(ModelConfig, FamiliesHaveTheirDefaults) {
  const ModelConfig llama = parse(family("llama"));
  EXPECT_EQ(llama.shape.num_kv_heads, 4);
  EXPECT_EQ(llama.shape.head_dim, 16);
  EXPECT_EQ(llama.bos_token_id, 1);
  EXPECT_EQ(llama.eos_token_ids, std::vector<int32_t>{2});
  EXPECT_EQ(llama.dtype, DType::kF32);

  Json json = family("mistral");
  json["num_key_value_heads"] = 2;
  EXPECT_EQ(parse(json).windows, std::vector<int>(4, 4096));  // where config.json is silent, as in transformers
  json["sliding_window"] = nullptr;
  EXPECT_EQ(parse(json).windows, std::vector<int>(4, 0));
  json["sliding_window"] = 64;
  json["head_dim"] = 32;
  EXPECT_EQ(parse(json).windows, std::vector<int>(4, 64));
  EXPECT_EQ(parse(json).shape.head_dim, 32);

  json = family("qwen3");
  json["num_key_value_heads"] = 2;
  const ModelConfig qwen3 = parse(json);
  EXPECT_EQ(qwen3.shape.head_dim, 128);
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias || qwen3.out_bias);
  EXPECT_TRUE(qwen3.eos_token_ids.empty());
  EXPECT_EQ(qwen3.bos_token_id, -1);

  const ModelConfig phi3 = parse(family("phi3"));
  EXPECT_TRUE(phi3.fused_qkv);
  EXPECT_EQ(phi3.rms_norm_eps, 1e-5);
  EXPECT_EQ(phi3.windows, std::vector<int>(4, 0));
}

TEST(ModelConfig, BiasesFollowTheFamily) {
  Json json = family("llama");
  json["attention_bias"] = true, json["mlp_bias"] = true;
  const ModelConfig llama = parse(json);
  EXPECT_TRUE(llama.qkv_bias && llama.out_bias && llama.mlp_bias);
  json = family("qwen2");
  json["num_key_value_heads"] = 2, json["attention_bias"] = false;
  const ModelConfig qwen2 = parse(json);
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.out_bias || qwen2.mlp_bias);
}

TEST(ModelConfig, QwenWindowsByLayer) {
  Json json = family("qwen2");
  json["num_key_value_heads"] = 2, json["sliding_window"] = 32, json["max_window_layers"] = 1;
  EXPECT_EQ(parse(json).windows, (std::vector<int>{0, 0, 0, 0}));  // use_sliding_window is off
  json["use_sliding_window"] = true;
  EXPECT_EQ(parse(json).windows, (std::vector<int>{0, 32, 32, 32}));
  json["max_window_layers"] = 28;
  EXPECT_EQ(parse(json).windows, (std::vector<int>{0, 0, 0, 0}));
  json["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
  EXPECT_EQ(parse(json).windows, (std::vector<int>{32, 0, 32, 0}));  // the list wins over max_window_layers
  json["sliding_window"] = nullptr;
  expect_error(json.dump(), ErrorCode::kCorruptData, "no sliding window is in force");
}

TEST(ModelConfig, PartialRotation) {
  Json json = family("phi3");
  json["partial_rotary_factor"] = 0.75;
  const RopeConfig rope = parse(json).rope;
  EXPECT_EQ(rope.rotary_dim, 12);
  ASSERT_EQ(rope.inv_freq.size(), 6u);
  EXPECT_NEAR(rope.inv_freq[1], std::pow(10000.0, -2.0 / 12), 1e-7);
}

TEST(ModelConfig, UnsupportedFeaturesAreNamed) {
  struct Case {
    Json change;
    const char* part;
  };
  const std::vector<Case> cases = {
      {{{"model_type", "gpt2"}},
       "model_type \"gpt2\" is not implemented; Lane knows llama, mistral, qwen2, qwen3, phi3"},
      {{{"hidden_act", "gelu"}}, "hidden_act \"gelu\""},
      {{{"quantization_config", {{"quant_method", "gptq"}}}}, "quantized weights (\"gptq\")"},
      {{{"num_experts", 8}}, "num_experts: mixtures of experts"},
      {{{"num_local_experts", 8}}, "num_local_experts"},
      {{{"text_config", Json::object()}}, "text_config"},
      {{{"vision_config", Json::object()}}, "vision_config"},
      {{{"rope_scaling", {{"type", "dynamic"}, {"factor", 2}}}}, "rope type \"dynamic\""},
      {{{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}}}}, "rope type \"yarn\""},
      {{{"rope_scaling", {{"type", "longrope"}}}}, "rope type \"longrope\""},
      {{{"rope_scaling", {{"type", "su"}}}}, "rope type \"su\""},
      {{{"rope_scaling", nullptr}, {"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}},
       "rope_parameters of their own for \"full_attention\" layers"},
      {{{"partial_rotary_factor", 0.5}}, "partial_rotary_factor is not implemented for llama"},
      {{{"torch_dtype", "float64"}}, "dtype \"float64\""},
  };
  for (const Case& c : cases) expect_error(config_with(c.change), ErrorCode::kUnsupported, c.part);
  Json qwen = family("qwen3");
  qwen["num_key_value_heads"] = 4;
  qwen["layer_types"] = {"full_attention", "chunked_attention", "full_attention", "full_attention"};
  expect_error(qwen.dump(), ErrorCode::kUnsupported, "layer type \"chunked_attention\"");
}

TEST(ModelConfig, NonsenseIsNamed) {
  struct Case {
    Json change;
    const char* part;
  };
  const std::vector<Case> cases = {
      {{{"model_type", nullptr}}, "\"model_type\" is missing"},
      {{{"model_type", 5}}, "\"model_type\" is 5; expected a string"},
      {{{"vocab_size", nullptr}}, "\"vocab_size\" is missing"},
      {{{"hidden_size", 0}}, "\"hidden_size\" is 0; expected a whole number from 1 to 131072"},
      {{{"hidden_size", -4}}, "\"hidden_size\" is -4"},
      {{{"hidden_size", 1e18}}, "\"hidden_size\" is"},
      {{{"hidden_size", "big"}}, "\"hidden_size\" is \"big\"; expected a whole number"},
      {{{"hidden_size", 2048.5}}, "expected a whole number"},
      {{{"num_hidden_layers", 100000}}, "from 1 to 4096"},
      {{{"vocab_size", 18446744073709551615u}}, "expected a whole number below 2^63"},
      {{{"num_key_value_heads", 5}}, "5 \"num_key_value_heads\" do not divide 32"},
      {{{"num_key_value_heads", 0}}, "\"num_key_value_heads\" is 0"},
      {{{"head_dim", nullptr}, {"hidden_size", 2047}}, "do not divide \"hidden_size\" 2047"},
      {{{"head_dim", 63}}, "63 of the 63 elements of a head rotate"},
      {{{"rms_norm_eps", -1}}, "\"rms_norm_eps\" is -1"},
      {{{"rope_theta", 0}}, "\"rope_theta\" is 0"},
      {{{"tie_word_embeddings", "yes"}}, "expected true or false"},
      {{{"eos_token_id", "x"}}, "\"eos_token_id\" is not a token id"},
      {{{"eos_token_id", {1, -2}}}, "\"eos_token_id\" is not a token id"},
      {{{"eos_token_id", 4294967296}}, "\"eos_token_id\" is not a token id"},
      {{{"rope_scaling", 7}}, "expected an object"},
      {{{"rope_scaling", {{"type", "linear"}}}}, "\"factor\" is missing"},
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 0}}}}, "\"factor\" is 0"},
      {{{"rope_scaling", {{"type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}}},
       "\"low_freq_factor\" is not below"},
  };
  for (const Case& c : cases) expect_error(config_with(c.change), ErrorCode::kCorruptData, c.part);
  expect_error("[]", ErrorCode::kCorruptData, "expected an object");
  expect_error("{\"model_type\": ", ErrorCode::kCorruptData, "not valid JSON");
  expect_error("", ErrorCode::kCorruptData, "not valid JSON");
  const std::string deep = "{\"hidden_size\": " + std::string(1000000, '[') + std::string(1000000, ']') + "}";
  expect_error(deep, ErrorCode::kCorruptData, "nested deeper than 64 levels");
}

// Bytes changed, removed, doubled or replaced by words of the format: whatever comes out is a config or an Error.
TEST(ModelConfig, MutationsNeverCrash) {
  const std::vector<std::string> words = {"0",
                                          "-1",
                                          "1e308",
                                          "18446744073709551615",
                                          "9223372036854775808",
                                          "null",
                                          "[]",
                                          "{}",
                                          "\"\"",
                                          "true",
                                          "[[",
                                          "1e-320",
                                          "\"llama3\"",
                                          "65536",
                                          "131072"};
  Json with_types = family("qwen3");
  with_types["num_key_value_heads"] = 2, with_types["use_sliding_window"] = true, with_types["sliding_window"] = 8;
  with_types["layer_types"] = {"full_attention", "sliding_attention", "full_attention", "full_attention"};
  int num_accepted = 0;
  for (const std::string& base : {std::string(kLlama), with_types.dump()})
    for (uint64_t round = 0; round < 10000; ++round) {
      std::string text = base;
      const uint64_t num_changes = 1 + random_bits(round, 0) % 3;
      for (uint64_t change = 1; change <= num_changes; ++change) {
        const auto pick = [&](uint64_t what, uint64_t below) { return random_bits(round, change * 8 + what) % below; };
        const size_t at = pick(0, text.size());
        switch (pick(1, 5)) {
          case 0:
            text[at] = static_cast<char>(pick(2, 256));
            break;
          case 1:
            text.erase(at, 1 + pick(2, 20));
            break;
          case 2:
            text.insert(at, text.substr(pick(2, text.size()), pick(3, 40)));
            break;
          default: {  // a value becomes another one
            const size_t colon = text.find(": ", at) != std::string::npos ? text.find(": ", at) : text.find(':', at);
            if (colon == std::string::npos) break;
            const size_t end = text.find_first_of(",}", colon);
            if (end != std::string::npos) text.replace(colon + 1, end - colon - 1, words[pick(2, words.size())]);
          }
        }
      }
      try {
        const ModelConfig config = parse_model_config(text, "config.json");
        ++num_accepted;
        EXPECT_EQ(config.windows.size(), static_cast<size_t>(config.shape.num_layers));
        EXPECT_EQ(config.rope.inv_freq.size(), static_cast<size_t>(config.rope.rotary_dim / 2));
        EXPECT_GT(config.num_parameters(), 0);
        for (const float f : config.rope.inv_freq) EXPECT_TRUE(std::isfinite(f) && f >= 0);
      } catch (const Error& error) {
        EXPECT_TRUE(error.code() == ErrorCode::kCorruptData || error.code() == ErrorCode::kUnsupported)
            << error.what() << "\n"
            << text;
      }
    }
  EXPECT_GT(num_accepted, 500);  // the mutations are mild enough to reach deep
}

TEST(GenerationDefaults, AreReadAndChecked) {
  const test::TempFolder folder;
  EXPECT_EQ(load_generation_defaults(folder.path()).temperature, 1);
  EXPECT_FALSE(load_generation_defaults(folder.path()).do_sample);
  folder.write("generation_config.json",
               R"({"do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1,
                   "min_p": null, "eos_token_id": [7, 8], "bos_token_id": 1, "transformers_version": "4.45.0"})");
  const GenerationDefaults defaults = load_generation_defaults(folder.path());
  EXPECT_TRUE(defaults.do_sample);
  EXPECT_EQ(defaults.temperature, 0.6);
  EXPECT_EQ(defaults.top_p, 0.9);
  EXPECT_EQ(defaults.top_k, 20);
  EXPECT_EQ(defaults.min_p, 0);
  EXPECT_EQ(defaults.repetition_penalty, 1.1);
  EXPECT_EQ(defaults.eos_token_ids, (std::vector<int32_t>{7, 8}));
  for (const char* bad : {R"({"temperature": -1})", R"({"top_p": 2})", R"({"top_k": "x"})", R"([1])", "{"}) {
    folder.write("generation_config.json", bad);
    try {
      load_generation_defaults(folder.path());
      ADD_FAILURE() << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
      EXPECT_NE(std::string(error.what()).find("generation_config.json"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace lane
