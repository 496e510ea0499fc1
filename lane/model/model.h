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
#include "lane/model/weights.h"
#include "lane/plan/parallel.h"

namespace lane {

// What one forward pass computes on.
struct ModelBatch {
  TensorView token_ids;  // [tokens] packed over sequences; all lists are int32 where the model is
  TensorView positions;  // [tokens]
  AttentionBatch attention;
  TensorView logit_rows;                      // packed tokens whose logits are wanted, ascending
  AttentionState* attention_state = nullptr;  // of attention().make_state(), planned for this batch
};

// A decoder on one rank. forward() is const but for its work space: one call at a time.
class Model {
 public:
  Model(ModelConfig config, Weights weights, plan::ParallelPlan plan, const AttentionBackend& attention,
        Communicator& tensor_group);
  ~Model();
  Model(Model&&) noexcept;

  // Runs the batch, appending its keys and values to `caches` (one KvView a layer), and returns the logits of this
  // rank's vocabulary slice, [logit_rows, vocab slice] float32, valid until the next call; an empty view for no logit
  // rows.
  TensorView forward(const ModelBatch& batch, std::span<const KvView> caches, Stream& stream);

  const ModelConfig& config() const { return config_; }
  const plan::RankSlices& slices() const { return slices_; }
  const AttentionBackend& attention() const { return *attention_; }
  const AttentionShape& attention_shape() const { return attention_shape_; }
  Device device() const { return weights_.embedding.device(); }
  DType activation_type() const { return kernels::activation_type(weights_.embedding.dtype(), device()); }
  // Makes room for batches up to this size; forward() does so too, but a graph keeps the addresses it was captured
  // with.
  void reserve(int64_t tokens, int64_t num_logits);
  // What that takes.
  static int64_t work_bytes(const ModelConfig& config, const plan::RankSlices& slices, DType activations,
                            int64_t tokens, int64_t num_logits);
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
  struct Workspace;
  struct Activation;
  static std::vector<Activation> activations_of(const ModelConfig& config, const plan::RankSlices& slices);
  std::unique_ptr<Workspace> workspace_;  // grown to the largest batch seen
};

}  // namespace lane
