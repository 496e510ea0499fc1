#include <cmath>
#include <vector>

#include "lane/attention/cpu/backends.h"
#include "lane/attention/cpu/batch.h"

namespace lane {
namespace {

double element(const char* row, int64_t i, DType dtype) {
  if (dtype == DType::kF32) return reinterpret_cast<const float*>(row)[i];
  const uint16_t half = reinterpret_cast<const uint16_t*>(row)[i];
  return dtype == DType::kBF16 ? float_from_bf16(half) : float_from_f16(half);
}

// softmax(scale * q K^T) V for one query of one head.
void attend(const AttentionShape& shape, const SequenceView& sequence, int64_t position, int window,
            const HeadPages& keys, const HeadPages& values, DType dtype, const float* query, float* out) {
  const int64_t first = first_visible(position, window), dim = shape.head_dim;
  std::vector<double> weights;
  double highest = -INFINITY, sum = 0;
  for (int64_t at = first; at <= position; ++at) {
    const char* key = keys.row(sequence.blocks, at);
    double score = 0;
    for (int64_t i = 0; i < dim; ++i) score += query[i] * element(key, i, dtype);
    score *= shape.scale;
    if (shape.soft_cap > 0) score = shape.soft_cap * std::tanh(score / shape.soft_cap);
    weights.push_back(score);
    highest = std::fmax(highest, score);
  }
  for (double& weight : weights) sum += weight = std::exp(weight - highest);

  std::vector<double> mean(static_cast<size_t>(dim));
  for (int64_t at = first; at <= position; ++at) {
    const char* value = values.row(sequence.blocks, at);
    const double weight = weights[static_cast<size_t>(at - first)] / sum;
    for (int64_t i = 0; i < dim; ++i) mean[static_cast<size_t>(i)] += weight * element(value, i, dtype);
  }
  for (int64_t i = 0; i < dim; ++i) out[i] = static_cast<float>(mean[static_cast<size_t>(i)]);
}

class Reference final : public AttentionBackend {
 public:
  std::string_view name() const override { return "reference"; }

  std::string why_not(const AttentionShape& shape, DType kv_dtype, Device device) const override {
    return why_not_on_cpu(shape, kv_dtype, device);
  }

  void run(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, int window, KvView cache,
           TensorView out, AttentionState*, Stream& stream) const override {
    check_arguments(shape, batch, qkv, cache, out);
    write_kv(shape, batch, qkv, cache, narrow_plainly, stream.threads());
    for (int64_t i = 0; i < batch.num_seqs; ++i) {
      const SequenceView sequence = sequence_of(batch, i);
      stream.threads().run(sequence.num_tokens * shape.num_heads, [&](int64_t task) {
        const int64_t token = task / shape.num_heads, head = task % shape.num_heads;
        const int kv_head = static_cast<int>(head / (shape.num_heads / shape.num_kv_heads));
        attend(shape, sequence, sequence.first_position + token, window, pages_of(cache.keys, kv_head),
               pages_of(cache.values, kv_head), cache.keys.dtype,
               qkv.as<const float>() + (sequence.first_token + token) * qkv.cols() + head * shape.head_dim,
               out.as<float>() + (sequence.first_token + token) * out.cols() + head * shape.head_dim);
      });
    }
  }
};

}  // namespace

const AttentionBackend& reference_attention() {
  static const Reference backend;
  return backend;
}

}  // namespace lane
