// Attention of one layer: time, share of the cache read per second, floating-point operations per second.
//
//   bench_attention [threads]
//
// Bytes are those of keys and values that queries may see, once per kv head; operations are two multiply-adds per
// dimension for each visible pair of a query and a key. Results are the fastest of several runs.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "lane/attention/attention.h"
#include "lane/base/random.h"
#include "lane/base/trace.h"
#include "lane/base/units.h"
#include "lane/kernels/kernels.h"

namespace {

using namespace lane;

struct Case {
  const char* name;
  int num_heads, num_kv_heads, head_dim;
  int num_seqs, num_new, length;  // per sequence; length includes the new tokens
  DType dtype;
};

void fill(TensorView tensor, uint64_t key) {
  for (int64_t i = 0; i < tensor.count(); ++i) {
    const float value = static_cast<float>(random_uniform(key, static_cast<uint64_t>(i)) * 2 - 1);
    if (tensor.dtype == DType::kF32)
      tensor.as<float>()[i] = value;
    else
      tensor.as<uint16_t>()[i] = tensor.dtype == DType::kBF16 ? bf16_from_float(value) : f16_from_float(value);
  }
}

void measure(const Case& c, Stream& stream) {
  const AttentionShape shape{
      .num_heads = c.num_heads, .num_kv_heads = c.num_kv_heads, .head_dim = c.head_dim, .scale = 0.125f};
  const int64_t blocks_each = (c.length + shape.block_tokens - 1) / shape.block_tokens;
  Buffer keys(c.dtype, {blocks_each * c.num_seqs, c.num_kv_heads, shape.block_tokens, c.head_dim});
  Buffer values(c.dtype, keys.view().shape);
  Buffer qkv(DType::kF32, {1, 1, int64_t{c.num_seqs} * c.num_new, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim});
  Buffer out(DType::kF32, {1, 1, int64_t{c.num_seqs} * c.num_new, c.num_heads * c.head_dim});
  fill(keys.view(), 1), fill(values.view(), 2), fill(qkv.view(), 3);

  std::vector<int32_t> query_start{0}, kv_length, tables;
  for (int i = 0; i < c.num_seqs; ++i) {
    query_start.push_back(query_start.back() + c.num_new);
    kv_length.push_back(c.length);
    for (int64_t b = 0; b < blocks_each; ++b) tables.push_back(static_cast<int32_t>(b * c.num_seqs + i));
  }
  const AttentionBatch batch = host_batch({query_start, kv_length}, tables, blocks_each);

  const AttentionBackend& backend = *attention_backends().front();
  double best_s = 1e9, spent_s = 0;
  for (int i = 0; i < 5 || (spent_s < 0.5 && i < 1000); ++i) {
    const int64_t start = now_ns();
    backend.run(shape, batch, qkv.view(), 0, {keys.view(), values.view()}, out.view(), nullptr, stream);
    const double seconds = static_cast<double>(now_ns() - start) * 1e-9;
    best_s = std::min(best_s, seconds), spent_s += seconds;
  }
  double pairs = 0;
  for (int i = 0; i < c.num_new; ++i) pairs += c.length - i;
  pairs *= c.num_seqs * c.num_heads;
  const double bytes =
      2.0 * c.num_seqs * c.length * c.num_kv_heads * c.head_dim * static_cast<double>(size_of(c.dtype));
  fmt::print("{:<28} {:>9} {:>12} {:>8.1f} GFLOP/s\n", c.name, format_duration(best_s), format_rate(bytes / best_s),
             4 * pairs * c.head_dim / best_s * 1e-9);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int num_threads = argc > 1 ? std::atoi(argv[1]) : 1;
  Stream stream({}, num_threads);
  fmt::print("{} threads, {}\n", num_threads, kernels::cpu_isa());
  for (const Case& c :
       std::initializer_list<Case>{{"prefill 512, 16/16 x 64 bf16", 16, 16, 64, 1, 512, 512, DType::kBF16},
                                   {"prefill 512, 16/16 x 64 f32", 16, 16, 64, 1, 512, 512, DType::kF32},
                                   {"prefill 512, 32/8 x 128 bf16", 32, 8, 128, 1, 512, 512, DType::kBF16},
                                   {"prefill 512 at 4096, 16/16 x 64", 16, 16, 64, 1, 512, 4096, DType::kBF16},
                                   {"decode 1 at 32768, 16/16 x 64 bf16", 16, 16, 64, 1, 1, 32768, DType::kBF16},
                                   {"decode 1 at 32768, 16/16 x 64 f32", 16, 16, 64, 1, 1, 32768, DType::kF32},
                                   {"decode 1 at 32768, 16/16 x 64 f16", 16, 16, 64, 1, 1, 32768, DType::kF16},
                                   {"decode 1 at 32768, 32/8 x 128 bf16", 32, 8, 128, 1, 1, 32768, DType::kBF16},
                                   {"decode 1 at 512, 16/16 x 64 bf16", 16, 16, 64, 1, 1, 512, DType::kBF16},
                                   {"decode 32 at 1024, 32/8 x 128 bf16", 32, 8, 128, 32, 1, 1024, DType::kBF16}})
    measure(c, stream);
}
