#include "lane/attention/attention.h"

#include <fmt/format.h>

#include <algorithm>

#include "lane/attention/check.h"
#include "lane/attention/cpu/backends.h"
#include "lane/attention/cuda/backends.h"
#include "lane/base/error.h"

namespace lane {

AttentionBatch host_batch(HostBatch lists, std::span<const int32_t> block_tables, int64_t max_blocks) {
  const auto& [query_start, kv_length] = lists;
  AttentionBatch batch{.query_start = view_of(query_start),
                       .kv_length = view_of(kv_length),
                       .block_tables = view_of(block_tables),
                       .num_seqs = static_cast<int64_t>(kv_length.size()),
                       .num_tokens = query_start.empty() ? 0 : query_start.back(),
                       .max_blocks = max_blocks};
  ensure(query_start.size() == kv_length.size() + 1, "query_start has one entry more than there are sequences");
  for (size_t i = 0; i < kv_length.size(); ++i) {
    batch.max_query = std::max<int64_t>(batch.max_query, query_start[i + 1] - query_start[i]);
    batch.max_kv = std::max<int64_t>(batch.max_kv, kv_length[i]);
  }
  return batch;
}

void check_shapes(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, KvView cache,
                  TensorView out) {
  const auto is_list = [](TensorView list, int64_t count) {
    return list.dtype == DType::kI32 && list.count() == count;
  };
  ensure(is_list(batch.query_start, batch.num_seqs + 1) && is_list(batch.kv_length, batch.num_seqs),
         "query_start is [num_seqs + 1] and kv_length [num_seqs]");
  ensure(is_list(batch.block_tables, batch.num_seqs * batch.max_blocks), "block_tables is [num_seqs, max_blocks]");
  ensure(qkv.dtype == shape.dtype && out.dtype == shape.dtype, "activations have the dtype of the shape");
  ensure(qkv.rows() >= batch.num_tokens && out.rows() >= batch.num_tokens, "a row for each token");
  ensure(qkv.cols() == int64_t{shape.num_heads + 2 * shape.num_kv_heads} * shape.head_dim,
         "qkv is [tokens, (num_heads + 2 num_kv_heads) * head_dim]");
  ensure(out.cols() == int64_t{shape.num_heads} * shape.head_dim, "out is [tokens, num_heads * head_dim]");
  ensure(cache.keys.shape == cache.values.shape && cache.keys.dtype == cache.values.dtype, "keys and values are alike");
  ensure(cache.keys.shape[1] == shape.num_kv_heads && cache.keys.shape[2] == shape.block_tokens &&
             cache.keys.shape[3] == shape.head_dim,
         "the cache is [num_blocks, num_kv_heads, block_tokens, head_dim]");
}

std::vector<const AttentionBackend*> attention_backends(Device device) {
  if (device.kind == DeviceKind::kCuda) return cuda_attention_backends();
  return {&flash_attention(), &reference_attention()};
}

AttentionChoice choose_attention(const AttentionShape& shape, DType kv_dtype, Device device, std::string_view forced) {
  if (forced == "auto") forced = {};
  AttentionChoice choice;
  std::string names;
  bool exists = false;
  for (const AttentionBackend* candidate : attention_backends(device)) {
    names += (names.empty() ? "" : ", ") + std::string(candidate->name());
    if (!forced.empty() && candidate->name() != forced) continue;
    exists = true;
    const std::string reason = candidate->why_not(shape, kv_dtype, device);
    if (reason.empty()) {
      choice.backend = candidate;
      return choice;
    }
    choice.passed_over += fmt::format("{}: {}; ", candidate->name(), reason);
  }
  if (!exists)
    throw Error(ErrorCode::kUnsupported, fmt::format("no attention backend is called {}; there are {}", forced, names));
  throw Error(ErrorCode::kUnsupported,
              fmt::format("no attention backend fits: {}{}", choice.passed_over,
                          forced.empty() ? "there are no others"
                                         : fmt::format("unset LANE_ATTENTION to choose among {}", names)));
}

}  // namespace lane
