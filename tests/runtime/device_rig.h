// A small model on a GPU whose steps a test launches itself.
#pragma once
#include <numeric>
#include <string>
#include <vector>

#include "lane/base/random.h"
#include "lane/model/model.h"
#include "lane/runtime/step_runner.h"

namespace lane {

inline const ModelConfig& step_config() {
  static const ModelConfig config = parse_model_config(R"({
      "model_type": "llama", "vocab_size": 512, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3,
      "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
      "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16"})",
                                                       "config.json");
  return config;
}

// Four sequences, which fill a graph's places, decoded greedily if nothing else is said.
class DeviceRig {
 public:
  static constexpr int64_t kSeqs = 4, kPrompt = 5, kBlocks = 8, kBlockTokens = 16;

  DeviceRig(Communicator& group, Stream& stream, DeviceRunnerOptions options,
            std::vector<SamplingParams> params = std::vector<SamplingParams>(kSeqs, {.temperature = 0}))
      : params_(std::move(params)),
        model_(make_model(group, stream)),
        cache_({.num_layers = step_config().shape.num_layers,
                .num_kv_heads = static_cast<int>(model_.slices().kv_heads.size()),
                .head_dim = step_config().shape.head_dim,
                .block_tokens = kBlockTokens,
                .dtype = DType::kBF16},
               kSeqs * kBlocks, stream.device()) {
    options.max_seqs = kSeqs, options.max_tokens = kSeqs * kPrompt, options.max_model_len = kBlocks * kBlockTokens;
    runner_ = make_device_runner(&model_, &group, &cache_, &stream, options);
  }

  // The prompts, then one token of each sequence with each step. The tokens that were chosen are not made known.
  void launch() {
    StepInput input;
    input.max_blocks = kBlocks;
    const bool decodes = length_ > 0;
    const int64_t count = decodes ? 1 : kPrompt;
    for (int32_t seq = 0; seq < kSeqs; ++seq) {
      input.query_start.push_back(static_cast<int32_t>(input.token_ids.size()));
      for (int64_t i = 0; i < count; ++i) {
        input.token_ids.push_back(decodes ? -1 - seq : static_cast<int32_t>((seq * 101 + i * 17) % 512));
        input.positions.push_back(static_cast<int32_t>(length_ + i));
      }
      input.kv_length.push_back(static_cast<int32_t>(length_ + count));
      for (int32_t block = 0; block < kBlocks; ++block) input.block_tables.push_back(seq * kBlocks + block);
      input.logit_rows.push_back(static_cast<int32_t>(input.token_ids.size()) - 1);
      std::vector<int32_t>& tokens = tokens_[static_cast<size_t>(seq)];
      if (decodes)
        tokens.push_back(-1);
      else
        tokens.assign(input.token_ids.end() - kPrompt, input.token_ids.end());
      input.rows.push_back(
          {.params = &params_[static_cast<size_t>(seq)], .tokens = tokens, .num_prompt = kPrompt, .sequence = seq});
    }
    input.query_start.push_back(static_cast<int32_t>(input.token_ids.size()));
    runner_->launch(input);
    length_ += count;
  }
  std::vector<SampledToken> collect() { return runner_->collect().sampled; }

  std::vector<int32_t> step() {
    launch();
    std::vector<int32_t> tokens;
    for (const SampledToken& sampled : collect()) tokens.push_back(sampled.token);
    return tokens;
  }
  std::vector<std::vector<int32_t>> steps(int count) {
    std::vector<std::vector<int32_t>> all;
    for (int i = 0; i < count; ++i) all.push_back(step());
    return all;
  }

 private:
  static Model make_model(Communicator& group, Stream& stream) {
    const ModelConfig& config = step_config();
    const plan::ParallelPlan plan{.tensor = group.size()};
    const plan::RankSlices slices = plan::slices_of(plan, config.shape, group.rank());
    const AttentionShape shape{.num_heads = static_cast<int>(slices.heads.size()),
                               .num_kv_heads = static_cast<int>(slices.kv_heads.size()),
                               .head_dim = config.shape.head_dim,
                               .dtype = DType::kBF16};
    return Model(config,
                 load_weights("", config, plan, group.rank(), {.dtype = DType::kBF16, .dummy = true}, stream, nullptr),
                 plan, *choose_attention(shape, DType::kBF16, stream.device(), "flash").backend, group);
  }

  std::vector<SamplingParams> params_;
  std::vector<int32_t> tokens_[kSeqs];
  Model model_;
  KvCache cache_;
  int64_t length_ = 0;
  std::unique_ptr<StepRunner> runner_;
};

}  // namespace lane
