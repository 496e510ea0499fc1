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
  int block_tokens = 16;      // tokens per KV block
  float scale = 1;            // of the scores before the softmax, usually 1 / sqrt(head_dim)
  float soft_cap = 0;         // scores become cap * tanh(score / cap); 0: none
  DType dtype = DType::kF32;  // of queries, new keys and values, and the result; on the CPU float32
};

// The KV cache of one layer on this rank, as attention reads it. Keys and values
// [num_blocks, num_kv_heads, block_tokens, head_dim] in float32, bfloat16 or float16.
struct KvView {
  TensorView keys, values;
};

// The new tokens of several sequences, packed one after the other, and where their past lies. The lists are int32 and
// lie on the stream's device; what the host knows of them stands beside. A captured graph reads the lists when it is
// replayed: they may then hold anything that the numbers beside them bound.
struct AttentionBatch {
  TensorView query_start;   // [num_seqs + 1] first packed token of each sequence
  TensorView kv_length;     // [num_seqs] tokens in the cache, the new ones included
  TensorView block_tables;  // [num_seqs, max_blocks] block of the cache for each 16 (block_tokens) tokens
  int64_t num_seqs = 0, num_tokens = 0;
  int64_t max_query = 0;  // no sequence has more new tokens
  int64_t max_kv = 0;     // no kv_length is greater
  int64_t max_blocks = 0;
  // The lists, and keys and values of earlier steps, were complete before the kernel right ahead of run() began, which
  // itself waited for those ahead of it: a GPU may read them while that kernel still ends.
  bool is_settled = false;
};

// The same lists on the host.
struct HostBatch {
  std::span<const int32_t> query_start, kv_length;
};

// A batch on the host, of lists of the host; they outlive it.
AttentionBatch host_batch(HostBatch lists, std::span<const int32_t> block_tables, int64_t max_blocks);

// The largest batches that a state is for.
struct AttentionLimits {
  int64_t max_seqs = 0, max_tokens = 0;
  int64_t max_query = 0;  // new tokens of one sequence
  int64_t max_kv = 0;
  bool is_captured = false;  // for a graph, of just max_seqs sequences and max_tokens tokens
};

// What a backend keeps between calls: work space and plans. It serves one stream, and one call after the other.
class AttentionState {
 public:
  static constexpr int kMaxPlansAhead = 3;

  virtual ~AttentionState() = default;
};

// What the new tokens' queries and keys go through before attention: a norm over each head (kernels::head_rms_norm()),
// if there are gains [head_dim], then rotation by cos_sin [tokens, 2 f] (kernels::rope()).
struct HeadTreatment {
  TensorView query_gain, key_gain, cos_sin;
  float eps = 0;
};

// Query token i of a sequence sits at position kv_length - num_new + i and sees keys at positions [0, itself], of
// those only the last `window` if window > 0 (sliding-window attention; the token itself counts).
class AttentionBackend {
 public:
  virtual ~AttentionBackend() = default;
  virtual std::string_view name() const = 0;
  virtual std::string why_not(const AttentionShape& shape, DType kv_dtype,
                              Device device) const = 0;  // empty: it can run

  // The state that plan() and run() want, null for a backend that keeps none. A graph needs one of its own.
  virtual std::unique_ptr<AttentionState> make_state(const AttentionShape&, const AttentionLimits&, DType /*kv_dtype*/,
                                                     Device) const {
    return nullptr;
  }

  // Once a step, before the layers and after the lists hold what they will hold: work is divided with what the host
  // knows. Waits for nothing and is not captured; only rewrites memory of the state, in the stream's order, so a graph
  // is planned for before it is captured and right before each launch. The caller is at most kMaxPlansAhead plans of a
  // state ahead of the device: it saw the results of earlier steps, or waited for the stream.
  virtual void plan(const AttentionShape&, const AttentionBatch&, const HostBatch&, AttentionState*, Stream&) const {}

  // qkv [tokens, (num_heads + 2 num_kv_heads) * head_dim]: queries, keys, values of the new tokens, keys and queries
  // already rotated. Writes keys and values to the cache, then out [tokens, num_heads * head_dim]. Nothing in the cache
  // is read but the positions that queries see.
  // On the CPU the result of a token does not depend on the other sequences, on how its prompt was cut, or on threads.
  // On a GPU: see the backend. There, a sequence of kv_length 0 is an empty place in a graph's batch: its tokens are
  // not looked at, and their results are zeros.
  virtual void run(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, int window, KvView cache,
                   TensorView out, AttentionState* state, Stream& stream) const = 0;

  // Of steps with one new token a sequence: run_treating() takes them as long as no kv_length is greater than this, and
  // is expected to be faster than the kernels that it stands for.
  virtual int64_t most_treated_kv(const AttentionShape&, int64_t /*num_seqs*/) const { return 0; }
  bool treats_heads(const AttentionShape& shape, const AttentionBatch& batch) const {
    return batch.max_query == 1 && batch.num_tokens == batch.num_seqs &&
           batch.max_kv <= most_treated_kv(shape, batch.num_seqs);
  }
  // run() of queries and keys as they come out of the product, with what is done to them first. Results are those of
  // run() after it, but for the order of sums.
  virtual void run_treating(const HeadTreatment&, const AttentionShape&, const AttentionBatch&, TensorView /*qkv*/,
                            int /*window*/, KvView, TensorView /*out*/, AttentionState*, Stream&) const {}
};

struct AttentionChoice {
  const AttentionBackend* backend = nullptr;
  std::string passed_over;  // "flash: head_dim 80 is not a multiple of 8; ..." -- for the log and for reports
};

// The backends of this build for a device, fastest first, the plain reference last; it takes everything.
std::vector<const AttentionBackend*> attention_backends(Device device = {});

// First fit wins. `forced` ("auto" or empty: none) leaves only the backend of that name; if it does not exist or cannot
// run, Error{kUnsupported} says why and names the others.
AttentionChoice choose_attention(const AttentionShape& shape, DType kv_dtype, Device device, std::string_view forced);

}  // namespace lane
