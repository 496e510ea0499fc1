#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lane/attention/attention.h"
#include "lane/comm/communicator.h"
#include "lane/device/tensor.h"
#include "lane/kernels/kernels.h"
#include "lane/model/config.h"
#include "lane/plan/parallel.h"

namespace lane {

// One layer's weights on this rank.
struct LayerWeights {
  Buffer attention_norm, mlp_norm;  // [hidden] float32
  kernels::PackedMatrix qkv;        // [(heads + 2 kv_heads) * head_dim, hidden]
  Buffer qkv_bias;                  // empty if the model has none
  Buffer q_norm, k_norm;            // [head_dim], empty if the model has none
  kernels::PackedMatrix out;        // [hidden, heads * head_dim]
  Buffer out_bias;                  // whole on rank 0, empty elsewhere: it is added once
  kernels::PackedMatrix gate_up;    // [2 * intermediate, hidden]: gate, then up
  Buffer gate_up_bias;
  kernels::PackedMatrix down;  // [hidden, intermediate]
  Buffer down_bias;            // whole on rank 0, empty elsewhere
};

struct Weights {
  kernels::PackedMatrix embedding;  // [vocab slice, hidden]
  std::vector<LayerWeights> layers;
  Buffer final_norm;              // [hidden]
  kernels::PackedMatrix lm_head;  // [vocab slice, hidden]; empty if tied to the embedding
  int64_t bytes() const;          // held by this rank
};

struct LoadOptions {
  DType dtype = DType::kBF16;  // of the weights in memory
  bool dummy = false;          // seeded random weights; only config.json is needed
  uint64_t dummy_seed = 0;
  // Called now and then from one thread with bytes done and bytes in all.
  std::function<void(int64_t done, int64_t total)> progress;
};
struct LoadReport {
  int64_t bytes_read = 0;   // from the checkpoint, by this rank
  int64_t bytes_share = 0;  // this rank's slices plus what is replicated, in the checkpoint's dtype
  double seconds = 0;
};

// Reads the slices that `plan` gives to `rank`. Error{kCorruptData} names the file and tensor that does not fit.
Weights load_weights(const std::string& folder, const ModelConfig& config, const plan::ParallelPlan& plan, int rank,
                     const LoadOptions& options, Stream& stream, LoadReport* report);

// What one forward pass computes on.
struct ModelBatch {
  std::span<const int32_t> token_ids;  // [tokens] packed over sequences
  std::span<const int32_t> positions;  // [tokens]
  AttentionBatch attention;
  std::span<const int32_t> logit_rows;  // packed tokens whose logits are wanted, ascending
};

// A decoder on one rank. forward() is const but for its work space: one call at a time.
class Model {
 public:
  Model(ModelConfig config, Weights weights, plan::ParallelPlan plan, const AttentionBackend& attention,
        Communicator& tensor_group);

  // Runs the batch, appending its keys and values to `caches` (one KvView a layer), and returns the logits of this
  // rank's vocabulary slice, [logit_rows, vocab slice] float32, valid until the next call.
  TensorView forward(const ModelBatch& batch, std::span<const KvView> caches, Stream& stream);

  const ModelConfig& config() const { return config_; }
  const plan::RankSlices& slices() const { return slices_; }
  int64_t weight_bytes() const { return weights_.bytes(); }
  // Bytes of weights that one decode step reads: everything but the embedding table's unused rows.
  int64_t bytes_per_step() const;

 private:
  ModelConfig config_;
  Weights weights_;
  plan::RankSlices slices_;
  const AttentionBackend* attention_;
  AttentionShape attention_shape_;
  Communicator* group_;
  Buffer workspace_, logits_;
};

}  // namespace lane
