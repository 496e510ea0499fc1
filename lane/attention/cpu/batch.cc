#include "lane/attention/cpu/batch.h"

#include <fmt/format.h>

#include <cstring>

#include "lane/attention/check.h"

namespace lane {
namespace {

constexpr int64_t kWriteGrain = 64;  // rows; a decode step is written by its caller, before it wakes anybody

}  // namespace

SequenceView sequence_of(const AttentionBatch& batch, int64_t index) {
  SequenceView view;
  const auto* query_start = batch.query_start.as<const int32_t>() + index;
  view.first_token = query_start[0];
  view.num_tokens = query_start[1] - view.first_token;
  view.first_position = batch.kv_length.as<const int32_t>()[index] - view.num_tokens;
  view.blocks = batch.block_tables.as<const int32_t>() + index * batch.max_blocks;
  return view;
}

HeadPages pages_of(TensorView tensor, int kv_head) {
  const auto& [num_blocks, num_heads, block_tokens, head_dim] = tensor.shape;
  HeadPages pages;
  pages.row_bytes = head_dim * size_of(tensor.dtype);
  pages.block_bytes = num_heads * block_tokens * pages.row_bytes;
  pages.base = static_cast<const char*>(tensor.data) + kv_head * block_tokens * pages.row_bytes;
  pages.block_tokens = block_tokens;
  pages.num_blocks = num_blocks;
  return pages;
}

void check_arguments(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, KvView cache,
                     TensorView out) {
  check_shapes(shape, batch, qkv, cache, out);
  ensure(shape.dtype == DType::kF32, "activations are float32");
  ensure(batch.query_start.as<const int32_t>()[0] == 0, "query_start begins with 0");
  for (int64_t i = 0; i < batch.num_seqs; ++i) {
    const SequenceView sequence = sequence_of(batch, i);
    ensure(sequence.num_tokens >= 0 && sequence.first_position >= 0, "new tokens are the last of kv_length");
    ensure(sequence.first_position + sequence.num_tokens <= batch.max_blocks * shape.block_tokens,
           "a block table covers kv_length");
  }
}

void narrow_plainly(const float* from, int64_t count, DType dtype, void* to) {
  if (dtype == DType::kF32) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  auto* halves = static_cast<uint16_t*>(to);
  if (dtype == DType::kBF16)
    for (int64_t i = 0; i < count; ++i) halves[i] = bf16_from_float(from[i]);
  else
    for (int64_t i = 0; i < count; ++i) halves[i] = f16_from_float(from[i]);
}

void write_kv(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, KvView cache, NarrowRow narrow,
              ThreadPool& threads) {
  const int64_t dim = shape.head_dim;
  for (int64_t i = 0; i < batch.num_seqs; ++i) {
    const SequenceView sequence = sequence_of(batch, i);
    threads.parallel_for(sequence.num_tokens, kWriteGrain, [&](int64_t begin, int64_t end) {
      for (int head = 0; head < shape.num_kv_heads; ++head) {
        const HeadPages keys = pages_of(cache.keys, head), values = pages_of(cache.values, head);
        for (int64_t token = begin; token < end; ++token) {
          const float* row = qkv.as<const float>() + (sequence.first_token + token) * qkv.cols();
          const float* key = row + (shape.num_heads + head) * dim;
          const float* value = key + shape.num_kv_heads * dim;
          const int64_t position = sequence.first_position + token;
          narrow(key, dim, cache.keys.dtype, const_cast<char*>(keys.row(sequence.blocks, position)));
          narrow(value, dim, cache.values.dtype, const_cast<char*>(values.row(sequence.blocks, position)));
        }
      }
    });
  }
}

std::string why_not_on_cpu(const AttentionShape& shape, DType kv_dtype, Device device) {
  if (device.kind != DeviceKind::kCpu) return "it runs on the CPU";
  if (kv_dtype != DType::kF32 && kv_dtype != DType::kBF16 && kv_dtype != DType::kF16)
    return fmt::format("a cache of {} is none of float32, bfloat16, float16", name_of(kv_dtype));
  if (shape.num_heads < 1 || shape.num_kv_heads < 1 || shape.num_heads % shape.num_kv_heads != 0)
    return fmt::format("{} heads cannot share {} kv heads evenly", shape.num_heads, shape.num_kv_heads);
  if (shape.head_dim < 1 || shape.block_tokens < 1)
    return fmt::format("head_dim {} and block_tokens {} must be positive", shape.head_dim, shape.block_tokens);
  return {};
}

}  // namespace lane
