#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "lane/attention/attention.h"
#include "lane/attention/cpu/flash.h"
#include "lane/base/random.h"
#include "lane/kernels/kernels.h"

// Sequences with random queries, keys and values, run through any backend in any cut, and their definition in double.
namespace lane::testing {

struct Model {
  AttentionShape shape;
  DType dtype = DType::kBF16;
  int window = 0;
};

inline AttentionShape shape_of(int num_heads, int num_kv_heads, int head_dim, int block_tokens = 16,
                               float soft_cap = 0) {
  return {num_heads, num_kv_heads, head_dim, block_tokens, 1 / std::sqrt(static_cast<float>(head_dim)), soft_cap};
}

using Runner = std::function<void(const AttentionShape&, const AttentionBatch&, TensorView qkv, int window, KvView,
                                  TensorView out, Stream&)>;
struct NamedRunner {
  std::string name;
  Runner run;
};

inline Runner runner_of(const AttentionBackend& backend) {
  return [&backend](const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, int window, KvView cache,
                    TensorView out,
                    Stream& stream) { backend.run(shape, batch, qkv, window, cache, out, nullptr, stream); };
}
inline Runner flash_runner(const flash::Loops& loops) {
  return [&loops](auto&&... arguments) { flash::run(loops, arguments...); };
}

// Flash with each instruction set of this machine.
inline std::vector<NamedRunner> flash_runners() {
  std::vector<NamedRunner> runners{{"flash baseline", flash_runner(flash::loops_for("baseline"))}};
  const std::string_view best = kernels::cpu_isa();
  if (best == "avx2" || best.starts_with("avx512"))
    runners.push_back({"flash avx2", flash_runner(flash::loops_for("avx2"))});
  if (best.starts_with("avx512")) runners.push_back({"flash avx512", flash_runner(flash::loops_for("avx512"))});
  return runners;
}

// Column i of the packed row of queries, keys and values at a position of a sequence.
inline float input(uint64_t sequence, int64_t position, int64_t i) {
  const auto counter = static_cast<uint64_t>(position * 100003 + i);
  return static_cast<float>(random_uniform(sequence * 7919 + 1, counter) * 4 - 2);
}

inline float rounded(float value, DType dtype) {
  if (dtype == DType::kBF16) return float_from_bf16(bf16_from_float(value));
  if (dtype == DType::kF16) return float_from_f16(f16_from_float(value));
  return value;
}

struct Expected {
  std::vector<double> value, tolerance;  // [num_heads * head_dim]
};

// softmax(scale q K^T) V of one token. The tolerance is a bound on what float32 may do: with eps = 2^-24,
//   score error   ds <= (head_dim + 4) eps scale sum |q_i k_i|   (+ 8 eps cap, for tanh)
//   weight error  2 ds + 8 eps relative, since weights are e^(score - highest)
//   output error  (weight error + (keys + 16) eps) * sum_j w_j |v_j|, a sum over keys in any order.
inline Expected expected(const Model& model, uint64_t sequence, int64_t position) {
  const AttentionShape& s = model.shape;
  const double eps = 0x1p-24;
  const int64_t first = model.window > 0 ? std::max<int64_t>(0, position - model.window + 1) : 0;
  Expected result;
  for (int head = 0; head < s.num_heads; ++head) {
    const int kv_head = head / (s.num_heads / s.num_kv_heads);
    const int64_t key_column = int64_t{s.num_heads + kv_head} * s.head_dim;
    const int64_t value_column = key_column + int64_t{s.num_kv_heads} * s.head_dim;
    std::vector<double> weights;
    double highest = -1e300, worst_ds = 0, sum = 0;
    for (int64_t at = first; at <= position; ++at) {
      double score = 0, magnitude = 0;
      for (int i = 0; i < s.head_dim; ++i) {
        const double product = static_cast<double>(input(sequence, position, int64_t{head} * s.head_dim + i)) *
                               rounded(input(sequence, at, key_column + i), model.dtype);
        score += product, magnitude += std::abs(product);
      }
      score *= s.scale;
      worst_ds = std::max(worst_ds, (s.head_dim + 4) * eps * s.scale * magnitude + 8 * eps * s.soft_cap);
      if (s.soft_cap > 0) score = s.soft_cap * std::tanh(score / s.soft_cap);
      weights.push_back(score);
      highest = std::max(highest, score);
    }
    for (double& weight : weights) sum += weight = std::exp(weight - highest);
    const double relative = 2 * worst_ds + (24 + static_cast<double>(weights.size())) * eps;
    for (int i = 0; i < s.head_dim; ++i) {
      double mean = 0, magnitude = 0;
      for (int64_t at = first; at <= position; ++at) {
        const double value = rounded(input(sequence, at, value_column + i), model.dtype);
        mean += weights[static_cast<size_t>(at - first)] / sum * value;
        magnitude += weights[static_cast<size_t>(at - first)] / sum * std::abs(value);
      }
      result.value.push_back(mean);
      result.tolerance.push_back(relative * magnitude);
    }
  }
  return result;
}

inline void poison(TensorView tensor) {  // NaN in every float type
  std::memset(tensor.data, 0xff, static_cast<size_t>(tensor.bytes()));
}

// Tokens [begin, begin + count) of a sequence.
struct Part {
  size_t sequence;
  int64_t begin, count;
};

// A cache full of NaN, with sequences in shuffled blocks.
class Rig {
 public:
  Rig(const Model& model, std::vector<int64_t> lengths, uint64_t seed = 0) : model_(model), lengths_(lengths) {
    const int64_t block_tokens = model.shape.block_tokens;
    int64_t num_blocks = 0;
    for (const int64_t length : lengths) {
      tables_.emplace_back();
      for (int64_t at = 0; at < length; at += block_tokens)
        tables_.back().push_back(static_cast<int32_t>(num_blocks++));
      results_.emplace_back(static_cast<size_t>(length));
    }
    std::vector<int32_t> names(static_cast<size_t>(num_blocks) + 3);  // three are nobody's
    for (size_t i = 0; i < names.size(); ++i) names[i] = static_cast<int32_t>(i);
    for (size_t i = names.size(); i > 1; --i) std::swap(names[i - 1], names[random_bits(seed, i) % i]);
    for (auto& table : tables_)
      for (int32_t& block : table) block = names[static_cast<size_t>(block)];
    const std::array<int64_t, 4> shape{num_blocks + 3, model.shape.num_kv_heads, block_tokens, model.shape.head_dim};
    keys_ = Buffer(model.dtype, shape), values_ = Buffer(model.dtype, shape);
    poison(keys_.view()), poison(values_.view());
  }

  // One call of the backend.
  void step(const Runner& run, const std::vector<Part>& parts, Stream& stream) {
    const AttentionShape& s = model_.shape;
    std::vector<int32_t> query_start{0}, kv_length, tables;
    size_t max_blocks = 1;
    for (const Part& part : parts) max_blocks = std::max(max_blocks, tables_[part.sequence].size());
    for (const Part& part : parts) {
      query_start.push_back(query_start.back() + static_cast<int32_t>(part.count));
      kv_length.push_back(static_cast<int32_t>(part.begin + part.count));
      const size_t used = static_cast<size_t>((part.begin + part.count + s.block_tokens - 1) / s.block_tokens);
      for (size_t i = 0; i < max_blocks; ++i) tables.push_back(i < used ? tables_[part.sequence][i] : -1);
    }
    const int64_t cols = int64_t{s.num_heads + 2 * s.num_kv_heads} * s.head_dim;
    const int64_t out_cols = int64_t{s.num_heads} * s.head_dim;
    Buffer qkv(DType::kF32, {1, 1, query_start.back(), cols}), out(DType::kF32, {1, 1, query_start.back(), out_cols});
    poison(out.view());
    auto* row = qkv.view().as<float>();
    for (const Part& part : parts)
      for (int64_t at = part.begin; at < part.begin + part.count; ++at)
        for (int64_t i = 0; i < cols; ++i) *row++ = input(part.sequence, at, i);
    run(s, host_batch({query_start, kv_length}, tables, static_cast<int64_t>(max_blocks)), qkv.view(), model_.window,
        {keys_.view(), values_.view()}, out.view(), stream);
    const auto* result = out.view().as<const float>();
    for (const Part& part : parts)
      for (int64_t at = part.begin; at < part.begin + part.count; ++at, result += out_cols)
        results_[part.sequence][static_cast<size_t>(at)].assign(result, result + out_cols);
  }

  // Every sequence from beginning to end, together, `chunk` tokens a step.
  void run_all(const Runner& run, int64_t chunk, Stream& stream) {
    const int64_t longest = *std::max_element(lengths_.begin(), lengths_.end());
    for (int64_t begin = 0; begin < longest; begin += chunk) {
      std::vector<Part> parts;
      for (size_t i = 0; i < lengths_.size(); ++i)
        if (begin < lengths_[i]) parts.push_back({i, begin, std::min(chunk, lengths_[i] - begin)});
      step(run, parts, stream);
    }
  }

  const std::vector<std::vector<std::vector<float>>>& results() const { return results_; }  // [sequence][token]
  const std::vector<std::vector<int32_t>>& tables() const { return tables_; }
  TensorView keys() const { return keys_.view(); }
  TensorView values() const { return values_.view(); }

 private:
  Model model_;
  std::vector<int64_t> lengths_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<std::vector<std::vector<float>>> results_;
  Buffer keys_, values_;
};

}  // namespace lane::testing
