#include "lane/model/model.h"

#include <cmath>

#include "lane/base/trace.h"

namespace lane {

// The activations of one forward pass, for up to as many tokens as any batch had.
struct Model::Workspace {
  DType dtype = DType::kF32;
  Device device;
  Buffer inv_freq;
  int64_t max_tokens = 0, max_logits = 0;
  Buffer hidden, normed, qkv, attended, partial, gate_up, activated, cos_sin;  // [tokens, ...]
  Buffer last, logits;                                                         // [logit rows, ...]
};

// One of them, by its columns.
struct Model::Activation {
  Buffer Workspace::*buffer;
  int64_t cols;
};

namespace {

// Everything a layer works on; the views cover this batch's tokens.
struct Pass {
  const ModelConfig& config;
  const AttentionBackend& attention;
  const AttentionShape& heads;
  const AttentionBatch& batch;
  AttentionState* attention_state;
  Communicator& group;
  bool fuses_norm;    // the group adds and norms in one kernel
  bool treats_heads;  // attention norms and rotates the new tokens' heads itself
  Stream& stream;
  TensorView hidden;                 // [tokens, hidden_size] the residual stream
  TensorView normed, qkv, attended;  // inputs of the next product
  TensorView partial;                // [tokens, hidden_size] this rank's part of what is added to `hidden` next
  TensorView gate_up, activated, cos_sin;
};

// hidden += the sum of `partial` over the ranks; normed = norm(hidden).
void add_and_norm(Pass& p, const Buffer& gain) {
  const float eps = static_cast<float>(p.config.rms_norm_eps);
  if (p.fuses_norm) return p.group.all_reduce_add_rms_norm(p.partial, p.hidden, gain.view(), eps, p.normed, p.stream);
  p.group.all_reduce(p.partial, p.partial, ReduceOp::kSum, p.stream);
  kernels::add_rms_norm(p.partial, p.hidden, gain.view(), eps, p.normed, p.stream);
}

// x += W_o · attention(rope(W_qkv · norm(x)));  x += W_down · (silu(gate) * up),  gate, up = W_gate_up · norm(x)
// The columns of W_qkv and W_gate_up and the rows of W_o and W_down are split over the ranks, so each of the two lines
// ends in partial sums that the ranks add up: the two all-reduces of a layer. `normed` holds norm(x) before and after,
// the latter by the gain of what comes next.
void decoder_layer(const LayerWeights& w, int layer, KvView cache, const Buffer& next_gain, Pass& p) {
  const float eps = static_cast<float>(p.config.rms_norm_eps);
  const int64_t head_dim = p.heads.head_dim, num_heads = p.heads.num_heads, num_kv_heads = p.heads.num_kv_heads;
  const int64_t first_key = num_heads * head_dim;

  kernels::matmul(p.normed, w.qkv, w.qkv_bias.view(), p.qkv, p.stream);
  const int window = p.config.windows[static_cast<size_t>(layer)];
  if (p.treats_heads) {
    const TraceSpan span("attention", TraceKind::kAttention);
    const HeadTreatment heads{w.q_norm.view(), w.k_norm.view(), p.cos_sin, eps};
    p.attention.run_treating(heads, p.heads, p.batch, p.qkv, window, cache, p.attended, p.attention_state, p.stream);
  } else {
    if (p.config.qk_norm) {
      kernels::head_rms_norm(p.qkv, 0, num_heads, w.q_norm.view(), eps, p.stream);
      kernels::head_rms_norm(p.qkv, first_key, num_kv_heads, w.k_norm.view(), eps, p.stream);
    }
    kernels::rope(p.qkv, 0, num_heads + num_kv_heads, head_dim, p.cos_sin, p.stream);
    const TraceSpan span("attention", TraceKind::kAttention);
    p.attention.run(p.heads, p.batch, p.qkv, window, cache, p.attended, p.attention_state, p.stream);
  }
  kernels::matmul(p.attended, w.out, w.out_bias.view(), p.partial, p.stream);
  add_and_norm(p, w.mlp_norm);

  kernels::matmul_silu_mul(p.normed, w.gate_up, w.gate_up_bias.view(), p.gate_up, p.activated, p.stream);
  kernels::matmul(p.activated, w.down, w.down_bias.view(), p.partial, p.stream);
  add_and_norm(p, next_gain);
}

}  // namespace

Model::Model(ModelConfig config, Weights weights, plan::ParallelPlan plan, const AttentionBackend& attention,
             Communicator& tensor_group)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      slices_(plan::slices_of(plan, config_.shape, tensor_group.rank())),
      attention_(&attention),
      attention_shape_{.num_heads = static_cast<int>(slices_.heads.size()),
                       .num_kv_heads = static_cast<int>(slices_.kv_heads.size()),
                       .head_dim = config_.shape.head_dim,
                       .scale = 1 / std::sqrt(static_cast<float>(config_.shape.head_dim)),
                       .dtype = activation_type()},
      group_(&tensor_group),
      workspace_(std::make_unique<Workspace>()) {
  ensure(plan.num_ranks() == tensor_group.size(), "the group has as many ranks as the plan");
  tensor_group.keep_one_order();  // a row's result depends on that row alone
  Workspace& w = *workspace_;
  w.device = weights_.embedding.device();
  w.dtype = kernels::activation_type(weights_.embedding.dtype(), w.device);
  const auto& inv_freq = config_.rope.inv_freq;
  w.inv_freq = Buffer(DType::kF32, {1, 1, 1, static_cast<int64_t>(inv_freq.size())}, w.device);
  Stream stream(w.device);
  copy_to_device(inv_freq.data(), w.inv_freq.view(), stream);
  stream.synchronize();
}
Model::~Model() = default;
Model::Model(Model&&) noexcept = default;

TensorView Model::forward(const ModelBatch& batch, std::span<const KvView> caches, Stream& stream) {
  const int64_t tokens = batch.token_ids.count(), num_logits = batch.logit_rows.count();
  ensure(batch.attention.num_tokens == tokens && batch.positions.count() == tokens,
         "ids, positions and sequences of a batch agree on its tokens");
  ensure(caches.size() == weights_.layers.size(), "there is a cache for each layer");
  reserve(tokens, num_logits);
  Workspace& w = *workspace_;
  const auto view = [&](const Buffer& buffer) { return buffer.view().row_range(0, tokens); };
  attention_shape_.block_tokens = static_cast<int>(caches[0].keys.shape[2]);
  Pass p{.config = config_,
         .attention = *attention_,
         .heads = attention_shape_,
         .batch = batch.attention,
         .attention_state = batch.attention_state,
         .group = *group_,
         .fuses_norm = group_->fuses_norm(view(w.partial)),
         .treats_heads = attention_->treats_heads(attention_shape_, batch.attention),
         .stream = stream,
         .hidden = view(w.hidden),
         .normed = view(w.normed),
         .qkv = view(w.qkv),
         .attended = view(w.attended),
         .partial = view(w.partial),
         .gate_up = view(w.gate_up),
         .activated = view(w.activated),
         .cos_sin = view(w.cos_sin)};

  kernels::embedding(weights_.embedding, batch.token_ids, slices_.vocab.begin, p.hidden, stream);
  group_->all_reduce(p.hidden, p.hidden, ReduceOp::kSum, stream);  // each row is whole on one rank, zero on the others
  kernels::rope_table(batch.positions, w.inv_freq.view(), config_.rope.attention_factor, p.cos_sin, stream);
  const std::vector<LayerWeights>& layers = weights_.layers;
  kernels::rms_norm(p.hidden, layers.front().attention_norm.view(), static_cast<float>(config_.rms_norm_eps), p.normed,
                    stream);
  for (size_t i = 0; i < layers.size(); ++i)
    decoder_layer(layers[i], static_cast<int>(i), caches[i],
                  i + 1 < layers.size() ? layers[i + 1].attention_norm : weights_.final_norm, p);

  if (num_logits == 0) return {};
  // Only the wanted rows go through the vocabulary: a prompt's other positions need no logits.
  const TensorView last = w.last.view().row_range(0, num_logits), logits = w.logits.view().row_range(0, num_logits);
  kernels::gather_rows(p.normed, batch.logit_rows, last, stream);
  const kernels::PackedMatrix& head = config_.tie_word_embeddings ? weights_.embedding : weights_.lm_head;
  kernels::matmul(last, head, {}, logits, stream);
  return logits;
}

// [tokens, cols] each.
std::vector<Model::Activation> Model::activations_of(const ModelConfig& config, const plan::RankSlices& slices) {
  const int64_t hidden = config.shape.hidden_size, head_dim = config.shape.head_dim, f = slices.intermediate.size();
  return {{&Workspace::hidden, hidden},
          {&Workspace::normed, hidden},
          {&Workspace::partial, hidden},
          {&Workspace::qkv, (slices.heads.size() + 2 * slices.kv_heads.size()) * head_dim},
          {&Workspace::attended, slices.heads.size() * head_dim},
          {&Workspace::gate_up, 2 * f},
          {&Workspace::activated, f}};
}

int64_t Model::work_bytes(const ModelConfig& config, const plan::RankSlices& slices, DType activations, int64_t tokens,
                          int64_t num_logits) {
  int64_t cols = 0;
  for (const Activation& activation : activations_of(config, slices)) cols += activation.cols;
  const auto cos_sin = static_cast<int64_t>(2 * config.rope.inv_freq.size()) * size_of(DType::kF32);
  const int64_t of_logits = config.shape.hidden_size + slices.vocab.size();
  return tokens * (cols * size_of(activations) + cos_sin) + num_logits * of_logits * size_of(activations);
}

void Model::reserve(int64_t tokens, int64_t num_logits) {
  Workspace& w = *workspace_;
  const int64_t hidden_size = config_.shape.hidden_size;
  if (tokens > w.max_tokens) {
    for (const auto& [buffer, cols] : activations_of(config_, slices_))
      w.*buffer = Buffer(w.dtype, {1, 1, tokens, cols}, w.device);
    w.cos_sin = Buffer(DType::kF32, {1, 1, tokens, 2 * w.inv_freq.view().count()}, w.device);
    w.max_tokens = tokens;
  }
  if (num_logits > w.max_logits) {
    w.last = Buffer(w.dtype, {1, 1, num_logits, hidden_size}, w.device);
    w.logits = Buffer(w.dtype, {1, 1, num_logits, slices_.vocab.size()}, w.device);
    w.max_logits = num_logits;
  }
}

int64_t Model::bytes_per_step() const {
  return weights_.bytes() - (config_.tie_word_embeddings ? 0 : weights_.embedding.bytes());
}

}  // namespace lane
