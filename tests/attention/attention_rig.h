#pragma once
#include <gtest/gtest.h>

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

// Arguments of AttentionBackend::run(), and the lists as the host has them.
struct Call {
  const AttentionShape& shape;
  const AttentionBatch& batch;
  HostBatch host;
  TensorView qkv;
  int window;
  KvView cache;
  TensorView out;
  Stream& stream;
};
using Runner = std::function<void(const Call&)>;
struct NamedRunner {
  std::string name;
  Runner run;
};

inline Runner runner_of(const AttentionBackend& backend) {
  return
      [&backend](const Call& c) { backend.run(c.shape, c.batch, c.qkv, c.window, c.cache, c.out, nullptr, c.stream); };
}
inline Runner flash_runner(const flash::Loops& loops) {
  return [&loops](const Call& c) { flash::run(loops, c.shape, c.batch, c.qkv, c.window, c.cache, c.out, c.stream); };
}
// On lists of the host.
inline void run_on_host(const Runner& run, const AttentionShape& shape, HostBatch lists,
                        std::span<const int32_t> tables, int64_t max_blocks, TensorView qkv, KvView cache,
                        TensorView out, Stream& stream) {
  run({shape, host_batch(lists, tables, max_blocks), lists, qkv, 0, cache, out, stream});
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

// Column i as the kernels get it.
inline float given(const Model& model, uint64_t sequence, int64_t position, int64_t i) {
  return rounded(input(sequence, position, i), model.shape.dtype);
}

// How much a backend rounds, relative to a value: a sum or an elementary function; a weight of the softmax before it
// multiplies a value; the result. And weights so small, relative to the highest, that they may be taken for zero.
struct Precision {
  double sum = 0x1p-24, weight = 0, result = 0, lost_weight = 0;
};
// Of matrix instructions on `dtype`. Their sums are cut off, not rounded, hence 2^-23.
inline Precision matrix_precision(DType dtype) {
  if (dtype == DType::kBF16) return {0x1p-23, 0x1p-8, 0x1p-8, 0};
  return {0x1p-23, 0x1p-11, 0x1p-11, 0x1p-25};  // half of the least positive float16
}
// Of arithmetic in float32 whose result is rounded to `dtype`.
inline Precision plain_precision(DType dtype) {
  return {0x1p-24, 0, dtype == DType::kF32 ? 0 : dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11, 0};
}

struct Expected {
  std::vector<double> value, tolerance;  // [num_heads * head_dim]
};

// softmax(scale q K^T) V of one token. The tolerance is a bound on what the precision allows; with eps = precision.sum,
//   score error   ds <= (head_dim + 4) eps scale sum |q_i k_i|   (+ 8 eps cap, for tanh)
//   weight error  2 ds + 8 eps relative, since weights are e^(score - highest)
//   output error  (weight error + precision.weight + (keys + 16) eps) * sum_j w_j |v_j|, a sum over keys in any order,
//                 + precision.lost_weight * keys * max |v_j|, + precision.result * |output|.
inline Expected expected(const Model& model, uint64_t sequence, int64_t position, const Precision& precision = {}) {
  const AttentionShape& s = model.shape;
  const double eps = precision.sum;
  const int64_t first = model.window > 0 ? std::max<int64_t>(0, position - model.window + 1) : 0;
  const auto cached = [&](int64_t at, int64_t column) {
    return rounded(given(model, sequence, at, column), model.dtype);
  };
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
        const double product = static_cast<double>(given(model, sequence, position, int64_t{head} * s.head_dim + i)) *
                               cached(at, key_column + i);
        score += product, magnitude += std::abs(product);
      }
      score *= s.scale;
      worst_ds = std::max(worst_ds, (s.head_dim + 4) * eps * s.scale * magnitude + 8 * eps * s.soft_cap);
      if (s.soft_cap > 0) score = s.soft_cap * std::tanh(score / s.soft_cap);
      weights.push_back(score);
      highest = std::max(highest, score);
    }
    for (double& weight : weights) sum += weight = std::exp(weight - highest);
    const auto num_keys = static_cast<double>(weights.size());
    const double relative = 2 * worst_ds + (24 + num_keys) * eps + precision.weight;
    for (int i = 0; i < s.head_dim; ++i) {
      double mean = 0, magnitude = 0, greatest = 0;
      for (int64_t at = first; at <= position; ++at) {
        const double value = cached(at, value_column + i);
        mean += weights[static_cast<size_t>(at - first)] / sum * value;
        magnitude += weights[static_cast<size_t>(at - first)] / sum * std::abs(value);
        greatest = std::max(greatest, std::abs(value));
      }
      result.value.push_back(mean);
      result.tolerance.push_back(relative * magnitude + precision.lost_weight * num_keys * greatest +
                                 precision.result * (std::abs(mean) + relative * magnitude));
    }
  }
  return result;
}

inline void poison(TensorView tensor, Stream& stream) {  // NaN in every float type
  const std::vector<char> ones(static_cast<size_t>(tensor.bytes()), '\xff');
  copy_to_device(ones.data(), tensor, stream);
  stream.synchronize();
}

// Floats as elements of another type, and back.
inline void upload(const std::vector<float>& floats, TensorView to, Stream& stream) {
  std::vector<uint16_t> halves;
  const void* from = floats.data();
  if (to.dtype != DType::kF32) {
    for (const float value : floats)
      halves.push_back(to.dtype == DType::kBF16 ? bf16_from_float(value) : f16_from_float(value));
    from = halves.data();
  }
  copy_to_device(from, to, stream);
  stream.synchronize();
}
inline std::vector<float> download(TensorView from, Stream& stream) {
  std::vector<float> floats(static_cast<size_t>(from.count()));
  if (from.dtype == DType::kF32) {
    copy_to_host(from, floats.data(), stream);
    return floats;
  }
  std::vector<uint16_t> halves(floats.size());
  copy_to_host(from, halves.data(), stream);
  for (size_t i = 0; i < floats.size(); ++i)
    floats[i] = from.dtype == DType::kBF16 ? float_from_bf16(halves[i]) : float_from_f16(halves[i]);
  return floats;
}
// A list on the stream's device.
inline Buffer list_on(const std::vector<int32_t>& list, Stream& stream) {
  Buffer buffer(DType::kI32, {1, 1, 1, static_cast<int64_t>(list.size())}, stream.device());
  if (!list.empty()) copy_to_device(list.data(), buffer.view(), stream);
  stream.synchronize();
  return buffer;
}

// Tokens [begin, begin + count) of a sequence.
struct Part {
  size_t sequence;
  int64_t begin, count;
};

// A cache full of NaN on a device, with sequences in shuffled blocks.
class Rig {
 public:
  Rig(const Model& model, std::vector<int64_t> lengths, uint64_t seed = 0, Device device = {})
      : model_(model), lengths_(lengths) {
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
    keys_ = Buffer(model.dtype, shape, device), values_ = Buffer(model.dtype, shape, device);
    Stream stream(device);
    poison(keys_.view(), stream), poison(values_.view(), stream);
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
    std::vector<float> rows;
    for (const Part& part : parts)
      for (int64_t at = part.begin; at < part.begin + part.count; ++at)
        for (int64_t i = 0; i < cols; ++i) rows.push_back(input(part.sequence, at, i));
    Buffer qkv(s.dtype, {1, 1, query_start.back(), cols}, stream.device());
    Buffer out(s.dtype, {1, 1, query_start.back(), out_cols}, stream.device());
    upload(rows, qkv.view(), stream);
    poison(out.view(), stream);
    const HostBatch host{query_start, kv_length};
    AttentionBatch batch = host_batch(host, tables, static_cast<int64_t>(max_blocks));
    const Buffer lists[] = {list_on(query_start, stream), list_on(kv_length, stream), list_on(tables, stream)};
    batch.query_start = lists[0].view(), batch.kv_length = lists[1].view(), batch.block_tables = lists[2].view();
    run({s, batch, host, qkv.view(), model_.window, {keys_.view(), values_.view()}, out.view(), stream});
    const std::vector<float> results = download(out.view(), stream);
    const float* result = results.data();
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

// Results of up to 24 tokens of each sequence, the last among them, against the definition.
inline void expect_close(const Model& model, const Rig& rig, const std::string& where,
                         const Precision& precision = {}) {
  for (size_t sequence = 0; sequence < rig.results().size(); ++sequence) {
    const auto& rows = rig.results()[sequence];
    const size_t stride = 1 + rows.size() / 24;
    for (size_t token = rows.size(); token-- > 0; token = token >= stride ? token - stride + 1 : 0) {
      const Expected want = expected(model, sequence, static_cast<int64_t>(token), precision);
      ASSERT_EQ(rows[token].size(), want.value.size()) << where;
      for (size_t i = 0; i < want.value.size(); ++i)
        ASSERT_LE(std::abs(rows[token][i] - want.value[i]), want.tolerance[i])
            << where << ", sequence " << sequence << ", token " << token << ", element " << i << ": " << rows[token][i]
            << " instead of " << want.value[i];
    }
  }
}

}  // namespace lane::testing
