#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "lane/comm/communicator.h"
#include "lane/model/config.h"
#include "lane/model/model.h"
#include "lane/model/tokenizer.h"
#include "lane/model/weights.h"
#include "lane/runtime/engine.h"
#include "lane/runtime/gpu_memory.h"
#include "lane/topology/machine.h"

namespace lane {

// What to run and on how much of the machine. Zero or empty means: decide from the model and the machine.
struct SessionOptions {
  std::string model;                   // folder
  std::string dtype = "auto";          // auto, bfloat16, float16, float32
  bool dummy_weights = false;          // seeded random weights; the folder needs a config.json only
  uint64_t seed = 0;                   // of dummy weights
  int64_t max_model_len = 0;           // tokens of prompt and output; at most the model's own limit
  int64_t max_num_seqs = 0;            // 64; on a GPU 256
  int64_t max_num_batched_tokens = 0;  // 512; on a GPU 8192: large products are what it is fast at
  int block_tokens = 16;
  int64_t kv_cache_memory_bytes = 0;  // on each rank
  std::string attention_backend = "auto";
  int num_threads = 0;  // of each rank
  int local_ranks = 1;  // ranks that share this machine
  Device device = {};
  double gpu_memory_utilization = 0.9;  // of the GPU's memory: weights, work space and cache
  bool enforce_eager = false;           // no graphs on a GPU
  std::function<void(int64_t done, int64_t total)> load_progress = {};
};

// One rank's seat in a run: the model's slices, the cache and the engine, put together from a folder. All ranks of
// `group` open a session with the same options.
class Session {
 public:
  Session(const SessionOptions& options, Communicator* group);

  Engine& engine() { return *engine_; }
  const ModelConfig& config() const { return model_->config(); }
  const GenerationDefaults& defaults() const { return defaults_; }
  const Tokenizer* tokenizer() const {
    return tokenizer_ ? &*tokenizer_ : nullptr;
  }  // null if the folder has none: then requests are token ids
  Stream& stream() { return *stream_; }
  const LoadReport& load_report() const { return load_report_; }
  DType dtype() const { return dtype_; }
  int64_t max_model_len() const { return max_model_len_; }
  int64_t max_num_seqs() const { return options_.max_num_seqs; }
  int64_t kv_cache_tokens() const { return kv_cache_tokens_; }
  // Bytes of weights and cache that a decode step of `batch` sequences, each `context` tokens long, must read on this
  // rank.
  int64_t bytes_per_decode_step(int64_t batch, int64_t context) const;

  // The lines printed at start: model, ranks, cache size in tokens, maximum concurrency.
  std::string describe() const;

 private:
  void check_gpu_memory(const ModelConfig& config, const plan::ParallelPlan& plan) const;
  GpuMemory gpu_memory() const;
  int64_t choose_num_blocks(const ModelConfig& config);
  int64_t cache_budget() const;

  SessionOptions options_;
  Communicator* group_;
  topology::Machine machine_;
  GenerationDefaults defaults_;
  std::optional<Tokenizer> tokenizer_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Engine> engine_;
  LoadReport load_report_;
  DType dtype_ = DType::kF32;
  KvLayout kv_layout_;
  std::string_view attention_name_;
  int64_t max_model_len_ = 0, kv_cache_tokens_ = 0;
};

}  // namespace lane
