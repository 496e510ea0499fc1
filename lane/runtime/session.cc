#include "lane/runtime/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "lane/base/file.h"
#include "lane/base/log.h"
#include "lane/base/settings.h"
#include "lane/base/units.h"
#include "lane/device/device_info.h"
#include "lane/kernels/kernels.h"

namespace lane {
namespace {

DType choose_dtype(const std::string& name, DType of_checkpoint) {
  if (name == "auto") return of_checkpoint;
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float16" || name == "half") return DType::kF16;
  if (name == "float32" || name == "float") return DType::kF32;
  throw Error(ErrorCode::kInvalidArgument, "--dtype " + name + ": expected auto, bfloat16, float16 or float32");
}

// The least of the numbers that the ranks give.
int64_t least_over_ranks(int64_t mine, Communicator& group) {
  int64_t least = mine;
  for (const std::string& text : group.gather_text(std::to_string(mine), 0))
    least = std::min<int64_t>(least, std::atoll(text.c_str()));
  return std::atoll(group.broadcast_text(std::to_string(least), 0).c_str());
}

// Waits for all ranks, however long they take.
void meet(Communicator& group) { least_over_ranks(0, group); }

}  // namespace

Session::Session(const SessionOptions& options, Communicator* group)
    : options_(options), group_(group), machine_(topology::discover()) {
  const ModelConfig config = load_model_config(options_.model);
  const plan::ParallelPlan plan{.tensor = group_->size()};
  check(plan, config.shape);
  defaults_ = load_generation_defaults(options_.model);
  if (file_exists(options_.model + "/tokenizer.json")) tokenizer_ = Tokenizer::load(options_.model);

  const bool on_gpu = options_.device.kind == DeviceKind::kCuda;
  if (options_.max_num_seqs == 0) options_.max_num_seqs = on_gpu ? 256 : 64;
  if (options_.max_num_batched_tokens == 0) options_.max_num_batched_tokens = on_gpu ? 8192 : 512;
  if (options_.num_threads == 0) options_.num_threads = std::max(1, machine_.num_threads() / options_.local_ranks);
  stream_ = std::make_unique<Stream>(options_.device, options_.num_threads);
  dtype_ = choose_dtype(options_.dtype, config.dtype);
  const plan::RankSlices slices = plan::slices_of(plan, config.shape, group_->rank());
  kv_layout_ = {.num_layers = config.shape.num_layers,
                .num_kv_heads = static_cast<int>(slices.kv_heads.size()),
                .head_dim = config.shape.head_dim,
                .block_tokens = options_.block_tokens,
                .dtype = dtype_};
  const AttentionShape attention_shape{.num_heads = static_cast<int>(slices.heads.size()),
                                       .num_kv_heads = kv_layout_.num_kv_heads,
                                       .head_dim = kv_layout_.head_dim,
                                       .block_tokens = options_.block_tokens,
                                       .dtype = kernels::activation_type(dtype_, options_.device)};
  const AttentionChoice attention =
      choose_attention(attention_shape, dtype_, options_.device,
                       options_.attention_backend == "auto" ? setting("LANE_ATTENTION") : options_.attention_backend);
  attention_name_ = attention.backend->name();
  if (!attention.passed_over.empty()) log(LogLevel::kInfo, "attention: " + attention.passed_over);
  if (options_.device.kind == DeviceKind::kCuda) {
    meet(*group_);                         // GPUs take their time to start, and a collective waits for LANE_TIMEOUT_MS
    group_->open_device(options_.device);  // takes memory, too, and says early where GPUs cannot reach each other
    check_gpu_memory(config, plan);
    meet(*group_);  // nobody loads unless all can
  }
  Weights weights = load_weights(options_.model, config, plan, group_->rank(),
                                 {.dtype = dtype_,
                                  .dummy = options_.dummy_weights,
                                  .dummy_seed = options_.seed,
                                  .progress = options_.load_progress},
                                 *stream_, &load_report_);

  model_ = std::make_unique<Model>(config, std::move(weights), plan, *attention.backend, *group_);
  if (options_.device.kind == DeviceKind::kCuda)
    model_->reserve(options_.max_num_batched_tokens, std::min(options_.max_num_seqs, options_.max_num_batched_tokens));
  meet(*group_);  // all weights are in memory: what is free now is free for the cache
  const int64_t num_blocks = choose_num_blocks(config);
  kv_cache_tokens_ = num_blocks * options_.block_tokens;

  std::vector<int32_t> eos = config.eos_token_ids;
  eos.insert(eos.end(), defaults_.eos_token_ids.begin(), defaults_.eos_token_ids.end());
  engine_ = std::make_unique<Engine>(model_.get(), group_, tokenizer(),
                                     EngineOptions{.limits = {.max_num_seqs = options_.max_num_seqs,
                                                              .max_num_batched_tokens = options_.max_num_batched_tokens,
                                                              .max_model_len = max_model_len_},
                                                   .block_tokens = options_.block_tokens,
                                                   .num_blocks = num_blocks,
                                                   .kv_dtype = dtype_,
                                                   .eos_token_ids = std::move(eos),
                                                   .use_graphs = !options_.enforce_eager},
                                     stream_.get());
}

GpuMemory Session::gpu_memory() const {
  const DeviceInfo info = device_info(options_.device);
  return {.gpu = fmt::format("GPU {} ({})", options_.device.index, info.name),
          .total_bytes = info.memory_bytes,
          .free_bytes = info.free_memory_bytes,
          .utilization = options_.gpu_memory_utilization};
}

// Before anything is loaded: a rank whose GPU is too small says so, and no other begins.
void Session::check_gpu_memory(const ModelConfig& config, const plan::ParallelPlan& plan) const {
  const int64_t block_tokens = options_.block_tokens, fixed = options_.kv_cache_memory_bytes;
  // Without a length that was asked for, sequences are cut to what there is room for.
  const int64_t blocks = std::max<int64_t>(1, (options_.max_model_len + block_tokens - 1) / block_tokens);
  const int64_t cache = fixed > 0 ? fixed : blocks * kv_layout_.block_bytes();
  check_fits({.weights_bytes = weight_bytes(config, plan, group_->rank(), dtype_, options_.device),
              .work_bytes =
                  Model::work_bytes(config, plan::slices_of(plan, config.shape, group_->rank()),
                                    kernels::activation_type(dtype_, options_.device), options_.max_num_batched_tokens,
                                    std::min(options_.max_num_seqs, options_.max_num_batched_tokens)),
              .cache_bytes = cache,
              .cache_tokens = cache / kv_layout_.block_bytes() * block_tokens,
              .group_size = group_->size(),
              .is_cache_fixed = fixed > 0},
             gpu_memory());
}

// Bytes of this rank that the cache may take.
int64_t Session::cache_budget() const {
  // Half of what is free: pages are taken as they are filled, and other programs live here too.
  if (options_.device.kind == DeviceKind::kCpu)
    return topology::discover().free_memory_bytes / 2 / options_.local_ranks;
  const GpuMemory gpu = gpu_memory();
  const int64_t budget = gpu.budget_bytes();
  if (budget == 0)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: nothing is left for the KV cache of what --gpu-memory-utilization {} allows, now that "
                            "weights ({} of this rank) and work space are there: {} of {} are free. Raise it, or use "
                            "more ranks (--tp)",
                            gpu.gpu, gpu.utilization, format_bytes(static_cast<double>(model_->weight_bytes())),
                            format_bytes(static_cast<double>(gpu.free_bytes)),
                            format_bytes(static_cast<double>(gpu.total_bytes))));
  return budget;
}

// As many blocks as the memory budget holds, but no more than max_num_seqs sequences of full length could use.
int64_t Session::choose_num_blocks(const ModelConfig& config) {
  const int64_t block_bytes = kv_layout_.block_bytes(), block_tokens = options_.block_tokens;
  const int64_t budget = options_.kv_cache_memory_bytes > 0 ? options_.kv_cache_memory_bytes : cache_budget();
  const int64_t affordable = least_over_ranks(budget / block_bytes, *group_);

  max_model_len_ = options_.max_model_len > 0 ? options_.max_model_len : config.max_position_embeddings;
  if (max_model_len_ > config.max_position_embeddings)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--max-model-len {}: the model was made for at most {} positions", max_model_len_,
                            config.max_position_embeddings));
  const int64_t needed = (max_model_len_ + block_tokens - 1) / block_tokens;
  if (affordable < needed && options_.max_model_len == 0 && affordable > 0) {
    max_model_len_ = affordable * block_tokens;
    log(LogLevel::kWarn,
        fmt::format("sequences are limited to {} of the model's {} tokens by the KV cache of {} per rank",
                    format_count(max_model_len_), format_count(config.max_position_embeddings),
                    format_bytes(static_cast<double>(budget))));
    return affordable;
  }
  if (affordable < needed)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("one sequence of {} tokens needs {} of KV cache on each rank, and {} is there; lower "
                            "--max-model-len to {} or raise --kv-cache-memory-bytes",
                            max_model_len_, format_bytes(static_cast<double>(needed * block_bytes)),
                            format_bytes(static_cast<double>(affordable * block_bytes)), affordable * block_tokens));
  return options_.kv_cache_memory_bytes > 0 ? affordable : std::min(affordable, needed * options_.max_num_seqs);
}

int64_t Session::bytes_per_decode_step(int64_t batch, int64_t context) const {
  return model_->bytes_per_step() + batch * context * kv_layout_.block_bytes() / kv_layout_.block_tokens;
}

std::string Session::describe() const {
  const ModelConfig& config = model_->config();
  const double params = static_cast<double>(config.num_parameters());
  const int ranks = group_->size();
  std::string text = fmt::format(
      "model: {} ({}, {} parameters, {} layers) in {}\n", options_.model, config.model_type,
      params >= 1e9 ? fmt::format("{:.2f} billion", params * 1e-9) : fmt::format("{:.1f} million", params * 1e-6),
      config.shape.num_layers, name_of(dtype_));
  const int hosts = group_->fabric().layout.num_nodes();
  const std::string where = options_.device.kind == DeviceKind::kCuda
                                ? fmt::format("a GPU each ({})", device_info(options_.device).name)
                                : fmt::format("{} thread{} each, {}", options_.num_threads,
                                              options_.num_threads == 1 ? "" : "s", kernels::cpu_isa());
  text += fmt::format("ranks: {} on {} (tensor parallel), {}, attention {}\n", ranks,
                      hosts == 1 ? machine_.hostname : fmt::format("{} hosts", hosts), where, attention_name_);
  text += fmt::format("weights: {} per rank", format_bytes(static_cast<double>(model_->weight_bytes())));
  if (load_report_.bytes_read > 0)
    text += fmt::format(", {} read in {} ({})", format_bytes(static_cast<double>(load_report_.bytes_read)),
                        format_duration(load_report_.seconds),
                        format_rate(static_cast<double>(load_report_.bytes_read) / load_report_.seconds));
  else
    text += fmt::format(", random, made in {}", format_duration(load_report_.seconds));
  text += fmt::format(
      "\nKV cache size: {} tokens ({} per rank)\n", format_count(kv_cache_tokens_),
      format_bytes(static_cast<double>(kv_cache_tokens_ / kv_layout_.block_tokens * kv_layout_.block_bytes())));
  text += fmt::format("Maximum concurrency for {} tokens per request: {:.2f}x\n", format_count(max_model_len_),
                      static_cast<double>(kv_cache_tokens_) / static_cast<double>(max_model_len_));
  return text;
}

}  // namespace lane
