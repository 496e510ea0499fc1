#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lane/base/dtype.h"
#include "lane/plan/parallel.h"

namespace lane {

// Rotary position embedding (Su et al., RoFormer, 2021).
struct RopeConfig {
  double theta = 10000;
  int rotary_dim = 0;  // elements of a head that rotate; head_dim unless partial
  // Frequencies after scaling, [rotary_dim / 2]; the `llama3` and `linear` rules of Hugging Face are applied here.
  std::vector<float> inv_freq;
  float attention_factor = 1;  // multiplies cos and sin
};

// A decoder of the Llama class, as config.json describes it. Families differ by these fields alone.
struct ModelConfig {
  std::string model_type;  // llama, mistral, qwen2, qwen3, phi3
  plan::ModelShape shape;
  double rms_norm_eps = 1e-6;
  int64_t max_position_embeddings = 2048;
  bool tie_word_embeddings = false;
  bool qkv_bias = false, out_bias = false, mlp_bias = false;
  bool qk_norm = false;      // RMSNorm on each query and key head (Qwen3)
  bool fused_qkv = false;    // the checkpoint stores qkv_proj and gate_up_proj (Phi-3)
  std::vector<int> windows;  // [num_layers] sliding window of each layer in tokens; 0: all of the past
  RopeConfig rope;
  DType dtype = DType::kF32;  // of the checkpoint
  std::vector<int32_t> eos_token_ids;
  int32_t bos_token_id = -1;  // -1: none

  int64_t num_parameters() const;
};

// Reads config.json, in the older dialect (rope_theta, rope_scaling, torch_dtype) or that of transformers 5
// (rope_parameters, dtype). An unknown model_type or a feature that Lane does not implement is Error{kUnsupported}
// naming it; nonsense is Error{kCorruptData}. `where` is the file's name for messages.
ModelConfig parse_model_config(const std::string& text, const std::string& where);
ModelConfig load_model_config(const std::string& folder);

// generation_config.json: the defaults of sampling. Missing file: all defaults.
struct GenerationDefaults {
  bool do_sample = false;
  double temperature = 1, top_p = 1, repetition_penalty = 1, min_p = 0;
  int top_k = 0;  // 0: all
  std::vector<int32_t> eos_token_ids;
};
GenerationDefaults load_generation_defaults(const std::string& folder);

}  // namespace lane
