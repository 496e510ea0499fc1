#include "lane/attention/cuda/flashinfer/flashinfer.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <array>

#include "lane/attention/cuda/device.h"
#include "lane/attention/cuda/flashinfer/phase.h"
#include "lane/attention/cuda/flashinfer/space.h"
#include "lane/attention/cuda/kernels.h"
#include "lane/attention/cuda/pages.h"
#include "lane/attention/cuda/work.h"
#include "lane/device/cuda/native.cuh"

namespace lane {
namespace cuda::attention {
namespace {

int num_multiprocessors(Device device) {
  int count = 0;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device.index), "asking for multiprocessors");
  return count;
}

// Pinned memory of the host that copies to the device may still be reading: used in turn, one more than the plans that
// a caller may be ahead of the device.
class PinnedTurns {
 public:
  explicit PinnedTurns(int64_t bytes) {
    for (void*& memory : turns_)
      check(cudaHostAlloc(&memory, static_cast<size_t>(bytes), cudaHostAllocDefault), "allocating pinned memory");
  }
  ~PinnedTurns() {
    for (void* memory : turns_) cudaFreeHost(memory);  // waits for the device
  }
  PinnedTurns(const PinnedTurns&) = delete;
  PinnedTurns& operator=(const PinnedTurns&) = delete;

  void* next() { return turns_[at_ = (at_ + 1) % turns_.size()]; }

 private:
  std::array<void*, AttentionState::kMaxPlansAhead + 1> turns_{};
  size_t at_ = 0;
};

// FlashInfer's decode kernel works without tensor cores, each head of a group by itself; its prefill kernel, which has
// them, also takes single tokens, and is "faster for large group size" (its documentation of use_tensor_cores). Where
// that begins has not been measured here.
bool decodes_plainly(const AttentionShape& shape, const AttentionBatch& batch) {
  const int group = shape.num_heads / shape.num_kv_heads;
  return group < 4 && batch.max_query == 1 && batch.num_tokens == batch.num_seqs;
}

const FlashinferPhase& phase_of(const AttentionShape& shape, const AttentionBatch& batch) {
  const bool is_bf16 = shape.dtype == DType::kBF16;
  if (decodes_plainly(shape, batch)) return is_bf16 ? kFlashinferDecodeBF16 : kFlashinferDecodeF16;
  return is_bf16 ? kFlashinferPrefillBF16 : kFlashinferPrefillF16;
}

class FlashinferState final : public AttentionState {
 public:
  FlashinferState(const AttentionShape& shape, const AttentionLimits& limits, DType kv_dtype, Device device)
      : limits_(limits),
        bytes_(flashinfer_bytes(shape, limits, num_multiprocessors(device))),
        floats_(device, bytes_.floats),
        lists_(device, bytes_.lists),
        page_start_(DType::kI32, {1, 1, 1, limits.max_seqs + 1}, device),
        last_page_tokens_(DType::kI32, {1, 1, 1, limits.max_seqs}, device),
        pages_(DType::kI32, {1, 1, limits.max_seqs, (limits.max_kv + shape.block_tokens - 1) / shape.block_tokens},
               device),
        pinned_(bytes_.lists),
        is_chained_(has_dependent_launch(device)),
        windowed_(cuda_flash_attention().make_state(shape, limits, kv_dtype, device)) {}

  void plan(const AttentionShape& shape, const AttentionBatch& batch, const HostBatch& host, Stream& stream) {
    ensure(batch.num_seqs <= limits_.max_seqs && batch.num_tokens <= limits_.max_tokens,
           "a batch is within the limits of its attention state");
    list_pages({.kv_length = batch.kv_length.as<const int32_t>(),
                .block_tables = batch.block_tables.as<const int32_t>(),
                .num_seqs = static_cast<int>(batch.num_seqs),
                .max_blocks = static_cast<int>(batch.max_blocks),
                .block_tokens = shape.block_tokens,
                .starts = page_start_.view().as<int32_t>(),
                .pages = pages_.view().as<int32_t>(),
                .last_tokens = last_page_tokens_.view().as<int32_t>()},
               stream.native());
    query_start_.assign(host.query_start.begin(), host.query_start.end());
    starts_.assign(1, 0);
    for (const int32_t length : host.kv_length) {
      ensure(length <= limits_.max_kv, "a batch is within the limits of its attention state");
      starts_.push_back(starts_.back() + (length + shape.block_tokens - 1) / shape.block_tokens);
    }
    const FlashinferBatch planned{.query_start = query_start_.data(),
                                  .page_start = starts_.data(),
                                  .num_seqs = static_cast<int>(batch.num_seqs),
                                  .num_tokens = static_cast<int>(batch.num_tokens),
                                  .max_query = static_cast<int>(batch.max_query),
                                  .num_heads = shape.num_heads,
                                  .num_kv_heads = shape.num_kv_heads,
                                  .head_dim = shape.head_dim,
                                  .block_tokens = shape.block_tokens,
                                  .is_captured = limits_.is_captured};
    FlashinferPlan plan = phase_of(shape, batch).plan(planned, space(), pinned_.next(), stream.native());
    ensure(!limits_.is_captured || plan_.empty() || plan == plan_, "the plans of a captured batch have one form");
    plan_ = std::move(plan);
  }

  void run(const AttentionShape& shape, const AttentionBatch& batch, const AttentionArgs& args, Stream& stream) const {
    ensure(!plan_.empty(), "a batch is planned before it is run");
    phase_of(shape, batch)
        .run({.args = args,
              .page_start = page_start_.view().as<int32_t>(),
              .pages = pages_.view().as<int32_t>(),
              .last_page_tokens = last_page_tokens_.view().as<int32_t>(),
              .is_chained = is_chained_,
              .stream = stream.native()},
             plan_, space());
  }

  bool is_chained() const { return is_chained_; }
  AttentionState* windowed() const { return windowed_.get(); }

 private:
  FlashinferSpace space() const { return {floats_.data(), bytes_.floats, lists_.data(), bytes_.lists}; }

  AttentionLimits limits_;
  FlashinferBytes bytes_;
  Buffer floats_, lists_, page_start_, last_page_tokens_, pages_;
  PinnedTurns pinned_;
  bool is_chained_;
  std::unique_ptr<AttentionState> windowed_;
  std::vector<int32_t> query_start_, starts_;
  FlashinferPlan plan_;
};

class Flashinfer final : public AttentionBackend {
 public:
  std::string_view name() const override { return "flashinfer"; }

  // Layers with a window go to this project's own kernels, since a plan of FlashInfer's is for one window: what those
  // cannot do, this cannot.
  std::string why_not(const AttentionShape& shape, DType kv_dtype, Device device) const override {
    if (std::string reason = cuda_flash_attention().why_not(shape, kv_dtype, device); !reason.empty()) return reason;
    if (shape.head_dim == 96) return "head_dim 96 is none of 64, 128, 256";
    if (shape.soft_cap > 0) return fmt::format("it is compiled without caps of scores, here {}", shape.soft_cap);
    return {};
  }

  std::unique_ptr<AttentionState> make_state(const AttentionShape& shape, const AttentionLimits& limits, DType kv_dtype,
                                             Device device) const override {
    check(cudaSetDevice(device.index), "choosing the device of attention");
    return std::make_unique<FlashinferState>(shape, limits, kv_dtype, device);
  }

  void plan(const AttentionShape& shape, const AttentionBatch& batch, const HostBatch& host, AttentionState* state,
            Stream& stream) const override {
    if (batch.num_tokens > 0) own(state).plan(shape, batch, host, stream);
  }

  void run(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, int window, KvView cache,
           TensorView out, AttentionState* state, Stream& stream) const override {
    const FlashinferState& mine = own(state);
    if (window > 0 && window < batch.max_kv)
      return cuda_flash_attention().run(shape, batch, qkv, window, cache, out, mine.windowed(), stream);
    if (batch.num_tokens == 0) return;
    const AttentionArgs args = args_of(shape, batch, qkv, 0, cache, out);
    write_kv(args, shape.dtype, cache.keys.dtype, {.is_chained = mine.is_chained(), .stream = stream.native()});
    mine.run(shape, batch, args, stream);
  }

  int64_t most_treated_kv(const AttentionShape& shape, int64_t num_seqs) const override {
    return cuda_flash_attention().most_treated_kv(shape, num_seqs);
  }
  void run_treating(const HeadTreatment& heads, const AttentionShape& shape, const AttentionBatch& batch,
                    TensorView qkv, int window, KvView cache, TensorView out, AttentionState* state,
                    Stream& stream) const override {
    cuda_flash_attention().run_treating(heads, shape, batch, qkv, window, cache, out, own(state).windowed(), stream);
  }

 private:
  static FlashinferState& own(AttentionState* state) {
    auto* mine = dynamic_cast<FlashinferState*>(state);
    ensure(mine != nullptr, "FlashInfer runs with a state of its own");
    return *mine;
  }
};

}  // namespace
}  // namespace cuda::attention

const AttentionBackend& flashinfer_attention() {
  static const cuda::attention::Flashinfer backend;
  return backend;
}

}  // namespace lane
