// Checkpoints of small models whose every value can be told from its place.
#pragma once
#include <numeric>
#include <string>
#include <vector>

#include "lane/base/random.h"
#include "lane/model/config.h"
#include "tests/model/checkpoint_writer.h"

namespace lane::test {

// Sizes that no packing likes: head_dim 6 and 50 inner rows never meet a multiple of 16.
inline ModelConfig small_config(const std::string& type) {
  return parse_model_config(
      R"({"vocab_size": 77, "hidden_size": 40, "intermediate_size": 50, "num_hidden_layers": 2, "head_dim": 6,
          "num_attention_heads": 8, "num_key_value_heads": 2, "attention_bias": )" +
          std::string(type == "llama" ? "true" : "false") + R"(, "mlp_bias": true, "tie_word_embeddings": )" +
          std::string(type == "qwen3" ? "true" : "false") + R"(, "sliding_window": null, "model_type": ")" + type +
          "\"}",
      "config.json");
}

// The value that tensor `name` has at (row, col): a whole number that every dtype holds exactly.
inline float value_at(const std::string& name, int64_t index) {
  return static_cast<float>(static_cast<int64_t>(random_bits(hash_name(name), static_cast<uint64_t>(index)) % 255) -
                            127);
}

inline TestTensor make_tensor(const std::string& name, DType dtype, std::vector<int64_t> shape) {
  const int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  TestTensor tensor{name, dtype == DType::kF32 ? "F32" : dtype == DType::kBF16 ? "BF16" : "F16", std::move(shape), ""};
  for (int64_t i = 0; i < count; ++i) {
    const float value = value_at(name, i);
    const uint16_t half = dtype == DType::kBF16 ? bf16_from_float(value) : f16_from_float(value);
    tensor.bytes.append(
        dtype == DType::kF32 ? reinterpret_cast<const char*>(&value) : reinterpret_cast<const char*>(&half),
        static_cast<size_t>(size_of(dtype)));
  }
  return tensor;
}

// The tensors of a checkpoint of this config as Hugging Face names and shapes them.
inline std::vector<TestTensor> checkpoint_of(const ModelConfig& config, DType dtype,
                                             const std::string& prefix = "model.") {
  const auto& s = config.shape;
  const int64_t q = s.num_heads * s.head_dim, kv = s.num_kv_heads * s.head_dim;
  std::vector<TestTensor> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    tensors.push_back(make_tensor(name, dtype, std::move(shape)));
  };
  const auto linear = [&](const std::string& name, int64_t rows, int64_t cols, bool bias) {
    add(name + ".weight", {rows, cols});
    if (bias) add(name + ".bias", {rows});
  };
  add(prefix + "embed_tokens.weight", {s.vocab_size, s.hidden_size});
  for (int i = 0; i < s.num_layers; ++i) {
    const std::string layer = prefix + "layers." + std::to_string(i) + ".";
    add(layer + "input_layernorm.weight", {s.hidden_size});
    add(layer + "post_attention_layernorm.weight", {s.hidden_size});
    if (config.fused_qkv) {
      linear(layer + "self_attn.qkv_proj", q + 2 * kv, s.hidden_size, false);
      linear(layer + "mlp.gate_up_proj", 2 * s.intermediate_size, s.hidden_size, false);
    } else {
      linear(layer + "self_attn.q_proj", q, s.hidden_size, config.qkv_bias);
      linear(layer + "self_attn.k_proj", kv, s.hidden_size, config.qkv_bias);
      linear(layer + "self_attn.v_proj", kv, s.hidden_size, config.qkv_bias);
      linear(layer + "mlp.gate_proj", s.intermediate_size, s.hidden_size, config.mlp_bias);
      linear(layer + "mlp.up_proj", s.intermediate_size, s.hidden_size, config.mlp_bias);
    }
    if (config.qk_norm) add(layer + "self_attn.q_norm.weight", {s.head_dim});
    if (config.qk_norm) add(layer + "self_attn.k_norm.weight", {s.head_dim});
    linear(layer + "self_attn.o_proj", s.hidden_size, q, config.out_bias);
    linear(layer + "mlp.down_proj", s.hidden_size, s.intermediate_size, config.mlp_bias);
    add(layer + "self_attn.rotary_emb.inv_freq", {s.head_dim / 2});
  }
  add(prefix + "norm.weight", {s.hidden_size});
  if (!config.tie_word_embeddings) add("lm_head.weight", {s.vocab_size, s.hidden_size});
  return tensors;
}

}  // namespace lane::test
