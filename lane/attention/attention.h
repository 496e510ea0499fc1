#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lane/device/tensor.h"

namespace lane {

struct AttentionShape {
  int num_heads = 0, num_kv_heads = 0;  // on this rank
  int head_dim = 0;
  int block_tokens = 16;  // tokens per KV block
  float scale = 1;        // of the scores before the softmax, usually 1 / sqrt(head_dim)
  float soft_cap = 0;     // scores become cap * tanh(score / cap); 0: none
};

// The KV cache of one layer on this rank, as attention reads it. Keys and values
// [num_blocks, num_kv_heads, block_tokens, head_dim] in float32, bfloat16 or float16.
struct KvView {
  TensorView keys, values;
};

// The new tokens of several sequences, packed one after the other, and where their past lies.
struct AttentionBatch {
  std::span<const int32_t> query_start;   // [num_seqs + 1] first packed token of each sequence
  std::span<const int32_t> kv_length;     // [num_seqs] tokens in the cache, the new ones included
  std::span<const int32_t> block_tables;  // [num_seqs, max_blocks] block of the cache for each 16 (block_tokens) tokens
  int64_t max_blocks = 0;
  int64_t num_seqs() const { return static_cast<int64_t>(kv_length.size()); }
  int64_t num_tokens() const { return query_start.empty() ? 0 : query_start.back(); }
};

// Query token i of a sequence sits at position kv_length - num_new + i and sees keys at positions [0, itself], of
// those only the last `window` if window > 0 (sliding-window attention; the token itself counts).
class AttentionBackend {
 public:
  virtual ~AttentionBackend() = default;
  virtual std::string_view name() const = 0;
  virtual std::string why_not(const AttentionShape& shape, DType kv_dtype,
                              Device device) const = 0;  // empty: it can run

  // qkv [tokens, (num_heads + 2 num_kv_heads) * head_dim]: queries, keys, values of the new tokens, float32, keys and
  // queries already rotated. Writes keys and values to the cache, then out [tokens, num_heads * head_dim].
  // The result of a token does not depend on the other sequences, on how its prompt was cut, or on threads.
  virtual void run(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, int window, KvView cache,
                   TensorView out, Stream& stream) const = 0;
};

struct AttentionChoice {
  const AttentionBackend* backend = nullptr;
  std::string passed_over;  // "flash: head_dim 80 is not a multiple of 8; ..." -- for the log and for reports
};

// All backends of this build, fastest first, the plain reference last; it takes everything.
std::vector<const AttentionBackend*> attention_backends();

// First fit wins. `forced` ("auto" or empty: none) leaves only the backend of that name; if it does not exist or cannot
// run, Error{kUnsupported} says why and names the others.
AttentionChoice choose_attention(const AttentionShape& shape, DType kv_dtype, Device device, std::string_view forced);

}  // namespace lane
