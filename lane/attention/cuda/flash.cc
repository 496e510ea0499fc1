#include <fmt/format.h>

#include <algorithm>

#include "lane/attention/cuda/device.h"
#include "lane/attention/cuda/kernels.h"
#include "lane/attention/cuda/split.h"
#include "lane/attention/cuda/work.h"

namespace lane {
namespace cuda::attention {
namespace {

// Partial results of a long past and the counters of who brought one.
class FlashState final : public AttentionState {
 public:
  // For either of two kernels, one after the other.
  FlashState(const DecodeSpace& space, Device device)
      : partials_(DType::kF32, {1, 1, 1, space.partial_floats}, device),
        counters_(DType::kI32, {1, 1, 1, space.num_counters}, device),
        is_chained_(has_dependent_launch(device)) {
    Stream stream(device);
    const std::vector<int32_t> zeros(static_cast<size_t>(space.num_counters));
    copy_to_device(zeros.data(), counters_.view(), stream);
    stream.synchronize();
  }

  void lend(const DecodeSpace& space, AttentionArgs& args) const {
    ensure(space.partial_floats <= partials_.view().count() && space.num_counters <= counters_.view().count(),
           "a batch is within the limits of its attention state");
    args.partials = partials_.view().as<float>();
    args.counters = counters_.view().as<uint32_t>();
    args.grid_chunks = space.grid_chunks;
    args.partial_rows = space.partial_rows;
  }
  bool is_chained() const { return is_chained_; }

 private:
  Buffer partials_, counters_;
  bool is_chained_;
};

class Flash final : public AttentionBackend {
 public:
  std::string_view name() const override { return "flash"; }

  std::string why_not(const AttentionShape& shape, DType kv_dtype, Device device) const override {
    if (std::string reason = why_not_on_gpu(shape, kv_dtype, device); !reason.empty()) return reason;
    if (shape.dtype == DType::kF32 || shape.dtype != kv_dtype)
      return fmt::format("activations of {} over a cache of {}: it takes bfloat16 or float16, the same for both",
                         name_of(shape.dtype), name_of(kv_dtype));
    if (!has_head_dim(shape.head_dim)) return fmt::format("head_dim {} is none of 64, 96, 128, 256", shape.head_dim);
    if (shape.block_tokens % kTileTokens != 0)
      return fmt::format("blocks of {} tokens are not a multiple of {}", shape.block_tokens, kTileTokens);
    if (const int has = max_shared_bytes(device), needs = shared_bytes(shape.head_dim); has < needs)
      return fmt::format("a head_dim of {} takes {} bytes of shared memory and GPU {} has {} for a block",
                         shape.head_dim, needs, device.index, has);
    return {};
  }

  std::unique_ptr<AttentionState> make_state(const AttentionShape& shape, const AttentionLimits& limits, DType,
                                             Device device) const override {
    DecodeSpace space = decode_space(shape, limits.max_seqs, limits.max_query, limits.max_kv, 0);
    if (takes_direct(shape)) {
      const DecodeSpace direct = direct_space(shape, limits.max_seqs, limits.max_kv, 0);
      space.partial_floats = std::max(space.partial_floats, direct.partial_floats);
      space.num_counters = std::max(space.num_counters, direct.num_counters);
    }
    return std::make_unique<FlashState>(space, device);
  }

  void run(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, int window, KvView cache,
           TensorView out, AttentionState* state, Stream& stream) const override {
    const auto* mine = dynamic_cast<const FlashState*>(state);
    ensure(mine != nullptr, "flash attention runs with a state of its own");
    AttentionArgs args = args_of(shape, batch, qkv, window, cache, out);
    mine->lend(decode_space(shape, batch.num_seqs, batch.max_query, batch.max_kv, window), args);
    const Steps steps = steps_of(shape, batch);
    const KernelLaunch launch{.is_chained = mine->is_chained(), .stream = stream.native()};
    if (steps.prefills) write_kv(args, shape.dtype, cache.keys.dtype, launch);
    if (steps.decodes) decode_attention(args, shape.dtype, launch);
    if (steps.prefills) prefill_attention(args, shape.dtype, launch);
  }

  // bench_attention_cuda on H200: one kernel that leaves nothing to others is ahead while a step is short, and reads a
  // long past at 2.5 TB/s where FlashInfer's kernels reach 4: they meet at some 64 MiB of keys and values of a layer
  // (head_dim 128), and where a sequence has more chunks than are added up at once.
  int64_t most_treated_kv(const AttentionShape& shape, int64_t num_seqs) const override {
    constexpr int64_t kMostOfHeads = 1 << 17, kMost = int64_t{kMostDirectChunks} * kDirectChunkTokens;
    const int64_t most = std::min(kMost, kMostOfHeads / (shape.num_kv_heads * num_seqs));
    return takes_direct(shape) && most >= kDirectChunkTokens ? most : 0;  // less is not worth a graph
  }
  void run_treating(const HeadTreatment& heads, const AttentionShape& shape, const AttentionBatch& batch,
                    TensorView qkv, int window, KvView cache, TensorView out, AttentionState* state,
                    Stream& stream) const override {
    const auto* mine = dynamic_cast<const FlashState*>(state);
    ensure(mine != nullptr, "flash attention runs with a state of its own");
    if (batch.num_tokens == 0) return;
    DirectArgs args{.a = args_of(shape, batch, qkv, window, cache, out),
                    .cos_sin = heads.cos_sin.as<const float>(),
                    .pairs = static_cast<int>(heads.cos_sin.cols() / 2),
                    .query_gain = heads.query_gain.data,
                    .key_gain = heads.key_gain.data,
                    .eps = heads.eps};
    mine->lend(direct_space(shape, batch.num_seqs, batch.max_kv, window), args.a);
    direct_attention(args, shape.dtype, {.is_chained = mine->is_chained(), .stream = stream.native()});
  }
};

class Reference final : public AttentionBackend {
 public:
  std::string_view name() const override { return "reference"; }

  std::string why_not(const AttentionShape& shape, DType kv_dtype, Device device) const override {
    if (shape.head_dim > kMostPlainDim)
      return fmt::format("head_dim {} is greater than {}", shape.head_dim, kMostPlainDim);
    return why_not_on_gpu(shape, kv_dtype, device);
  }

  void run(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, int window, KvView cache,
           TensorView out, AttentionState*, Stream& stream) const override {
    const AttentionArgs args = args_of(shape, batch, qkv, window, cache, out);
    const KernelLaunch launch{.is_chained = false, .stream = stream.native()};
    write_kv(args, shape.dtype, cache.keys.dtype, launch);
    plain_attention(args, shape.dtype, cache.keys.dtype, launch);
  }
};

}  // namespace
}  // namespace cuda::attention

const AttentionBackend& cuda_flash_attention() {
  static const cuda::attention::Flash backend;
  return backend;
}
const AttentionBackend& cuda_reference_attention() {
  static const cuda::attention::Reference backend;
  return backend;
}

}  // namespace lane
