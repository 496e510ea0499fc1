#pragma once
#include "lane/attention/cuda/args.h"
#include "tests/attention/attention_rig.h"

// QK norm and rotation of the heads of a step, on either device: ahead of attention, by the kernels of kernels.h, or by
// direct.cuh.
namespace lane::testing {

using DirectRunner = std::function<void(const Call&, cuda::attention::DirectArgs)>;

// What a step's heads are treated with: pairs that are rotated, of any number up to half a head; gains, or none.
class Heads {
 public:
  Heads(const Call& c, int pairs, bool has_norm) : pairs_(pairs), has_norm_(has_norm) {
    const int64_t tokens = c.qkv.rows();
    const Device device = c.stream.device();
    std::vector<int32_t> positions;
    for (const int32_t length : c.host.kv_length) positions.push_back(length - 1);
    std::vector<float> frequencies;
    for (int j = 0; j < pairs; ++j) frequencies.push_back(std::pow(100.f, -static_cast<float>(j) / 64.f));
    const Buffer on_device = list_on(positions, c.stream);
    if (pairs > 0) {
      const Buffer inverse(DType::kF32, {1, 1, 1, pairs}, device);
      upload(frequencies, inverse.view(), c.stream);
      cos_sin_ = Buffer(DType::kF32, {1, 1, tokens, 2 * pairs}, device);
      kernels::rope_table(on_device.view(), inverse.view(), 1, cos_sin_.view(), c.stream);
      c.stream.synchronize();
    }
    for (uint64_t which = 0; which < 2; ++which) {
      std::vector<float> gains;
      for (int64_t i = 0; i < c.shape.head_dim; ++i) gains.push_back(input(77 + which, 0, i));
      gains_[which] = Buffer(c.shape.dtype, {1, 1, 1, c.shape.head_dim}, device);
      upload(gains, gains_[which].view(), c.stream);
    }
    c.stream.synchronize();
  }

  cuda::attention::DirectArgs args() const {
    cuda::attention::DirectArgs d{};
    d.cos_sin = pairs_ > 0 ? cos_sin_.view().as<const float>() : nullptr;
    d.pairs = pairs_;
    if (has_norm_) d.query_gain = gains_[0].data(), d.key_gain = gains_[1].data();
    d.eps = kEps;
    return d;
  }

  // With the kernels. Those of the CPU take float32: what they give is rounded.
  void treat(const Call& c) const {
    if (c.stream.device().kind == DeviceKind::kCuda)
      return treat(c, c.qkv, gains_[0].view(), gains_[1].view(), true, true);
    Buffer wide(DType::kF32, {1, 1, c.qkv.rows(), c.qkv.cols()}), gains[2];
    for (int which = 0; which < 2; ++which) {
      gains[which] = Buffer(DType::kF32, {1, 1, 1, c.shape.head_dim});
      upload(download(gains_[which].view(), c.stream), gains[which].view(), c.stream);
    }
    for (const bool rotates : {false, true}) {
      upload(download(c.qkv, c.stream), wide.view(), c.stream);
      treat(c, wide.view(), gains[0].view(), gains[1].view(), !rotates, rotates);
      upload(download(wide.view(), c.stream), c.qkv, c.stream);
    }
  }

 private:
  void treat(const Call& c, TensorView x, TensorView query_gain, TensorView key_gain, bool norms, bool rotates) const {
    const AttentionShape& s = c.shape;
    const int64_t queries = int64_t{s.num_heads} * s.head_dim;
    if (norms && has_norm_) {
      kernels::head_rms_norm(x, 0, s.num_heads, query_gain, kEps, c.stream);
      kernels::head_rms_norm(x, queries, s.num_kv_heads, key_gain, kEps, c.stream);
    }
    if (rotates && pairs_ > 0) kernels::rope(x, 0, s.num_heads + s.num_kv_heads, s.head_dim, cos_sin_.view(), c.stream);
  }

  static constexpr float kEps = 0x1p-10f;
  int pairs_;
  bool has_norm_;
  Buffer cos_sin_, gains_[2];
};

// Queries, keys and values in eighths: sums of squares are then exact in float32, in any order.
inline Runner with_heads(const DirectRunner& run, int pairs, bool has_norm, bool ahead) {
  return [=](const Call& c) {
    std::vector<float> rows = download(c.qkv, c.stream);
    for (float& value : rows) value = std::round(value * 8) / 8;
    upload(rows, c.qkv, c.stream);
    const Heads heads(c, pairs, has_norm);
    if (ahead) heads.treat(c);
    run(c, ahead ? cuda::attention::DirectArgs{} : heads.args());
  };
}

// The same bits either way, also from what an earlier step left in the cache.
inline void expect_same_heads(const Model& model, const std::vector<int64_t>& lengths, const DirectRunner& run,
                              Device device = {}) {
  Stream stream(device);
  const int half = model.shape.head_dim / 2;
  for (const auto& [pairs, has_norm] :
       {std::pair{half, false}, {half, true}, {half / 2, true}, {5, false}, {0, true}}) {
    const auto results_of = [&, pairs = pairs, has_norm = has_norm](bool ahead) {
      Rig rig(model, lengths, 0, device);
      rig.run_all(with_heads(run, pairs, has_norm, ahead), 1, stream);
      return rig.results();
    };
    EXPECT_EQ(results_of(false), results_of(true)) << pairs << " pairs, norm " << has_norm;
  }
}

}  // namespace lane::testing
