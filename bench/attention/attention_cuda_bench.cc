// Attention of one layer on a GPU: time of a launch, share of the cache read per second, operations per second.
//
//   bench_attention_cuda [backend] [file for JSON]
//
// Bytes are those of keys and values that queries see, once per kv head; operations are two multiply-adds per dimension
// for each visible pair of a query and a key. As many layers as make the caches 512 MiB follow one another in a graph,
// so that the 50 MiB of L2 cannot hold them, as in a model; the time is a layer's share of the median of 20 launches.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <tuple>
#include <vector>

#include "bench/graph_time.h"
#include "lane/attention/attention.h"
#include "lane/base/file.h"
#include "lane/base/random.h"
#include "lane/base/units.h"

namespace {

using namespace lane;

constexpr Device kGpu{DeviceKind::kCuda, 0};

struct Case {
  const char* phase;
  int num_heads, num_kv_heads, head_dim;
  int num_seqs, num_new, length;  // per sequence; length includes the new tokens
};

struct Result {
  double seconds, bytes_per_s, flop_per_s;
};

void fill(TensorView tensor, uint64_t key, Stream& stream) {
  constexpr size_t kPattern = 1 << 16;
  std::vector<uint16_t> halves(static_cast<size_t>(tensor.count()));
  for (size_t i = 0; i < halves.size(); ++i)
    halves[i] =
        i < kPattern ? bf16_from_float(static_cast<float>(random_uniform(key, i) * 2 - 1)) : halves[i % kPattern];
  copy_to_device(halves.data(), tensor, stream);
  stream.synchronize();
}

Buffer on_gpu(const std::vector<int32_t>& list, Stream& stream) {
  Buffer buffer(DType::kI32, {1, 1, 1, static_cast<int64_t>(list.size())}, kGpu);
  copy_to_device(list.data(), buffer.view(), stream);
  stream.synchronize();
  return buffer;
}

Result measure(const AttentionBackend& backend, const Case& c, Stream& stream) {
  AttentionShape shape{
      .num_heads = c.num_heads, .num_kv_heads = c.num_kv_heads, .head_dim = c.head_dim, .scale = 0.09f};
  shape.dtype = DType::kBF16;
  const int64_t blocks_each = (c.length + shape.block_tokens - 1) / shape.block_tokens;
  const double bytes = 4.0 * c.num_seqs * c.length * c.num_kv_heads * c.head_dim;
  const int num_layers = std::clamp(static_cast<int>(double{512 << 20} / bytes) + 1, 2, 64);
  std::vector<Buffer> keys, values;
  for (int layer = 0; layer < num_layers; ++layer)
    for (auto* list : {&keys, &values}) {
      list->emplace_back(
          shape.dtype, std::array<int64_t, 4>{blocks_each * c.num_seqs, c.num_kv_heads, shape.block_tokens, c.head_dim},
          kGpu);
      fill(list->back().view(), list->size(), stream);
    }
  const int64_t tokens = int64_t{c.num_seqs} * c.num_new;
  Buffer qkv(shape.dtype, {1, 1, tokens, int64_t{c.num_heads + 2 * c.num_kv_heads} * c.head_dim}, kGpu);
  Buffer out(shape.dtype, {1, 1, tokens, int64_t{c.num_heads} * c.head_dim}, kGpu);
  fill(qkv.view(), 99, stream);

  std::vector<int32_t> query_start{0}, kv_length, tables;
  for (int i = 0; i < c.num_seqs; ++i) {
    query_start.push_back(query_start.back() + c.num_new);
    kv_length.push_back(c.length);
    for (int64_t b = 0; b < blocks_each; ++b) tables.push_back(static_cast<int32_t>(b * c.num_seqs + i));
  }
  const HostBatch host{query_start, kv_length};
  AttentionBatch batch = host_batch(host, tables, blocks_each);
  const Buffer lists[] = {on_gpu(query_start, stream), on_gpu(kv_length, stream), on_gpu(tables, stream)};
  batch.query_start = lists[0].view(), batch.kv_length = lists[1].view(), batch.block_tables = lists[2].view();
  batch.is_settled = true;
  const auto state =
      backend.make_state(shape, {batch.num_seqs, batch.num_tokens, batch.max_query, batch.max_kv, /*is_captured=*/true},
                         shape.dtype, kGpu);
  backend.plan(shape, batch, host, state.get(), stream);
  stream.synchronize();

  Result result{};
  result.seconds = bench::time_in_graph(num_layers, stream, [&](int layer) {
    const auto at = static_cast<size_t>(layer);
    backend.run(shape, batch, qkv.view(), 0, {keys[at].view(), values[at].view()}, out.view(), state.get(), stream);
  });
  double pairs = 0;
  for (int i = 0; i < c.num_new; ++i) pairs += c.length - i;
  pairs *= static_cast<double>(c.num_heads) * c.num_seqs;
  result.bytes_per_s = bytes / result.seconds;
  result.flop_per_s = 4 * pairs * c.head_dim / result.seconds;
  return result;
}

std::vector<Case> cases() {
  std::vector<Case> cases;
  // A rank of the 8B shape alone, and of the 70B shape on four GPUs.
  for (const auto& [heads, kv_heads] : {std::pair{32, 8}, {16, 2}}) {
    for (const int num_seqs : {1, 16, 64})
      for (const int length : {512, 2048, 8192, 32768})
        if (int64_t{num_seqs} * length <= 64 * 8192)
          cases.push_back({"decode", heads, kv_heads, 128, num_seqs, 1, length});
    for (const auto& [num_seqs, num_new, length] :
         {std::tuple{1, 512, 512}, {1, 2048, 2048}, {8, 2048, 2048}, {1, 8192, 8192}, {1, 2048, 16384}})
      cases.push_back({"prefill", heads, kv_heads, 128, num_seqs, num_new, length});
  }
  cases.push_back({"decode", 32, 32, 64, 16, 1, 2048});
  cases.push_back({"decode", 16, 8, 256, 16, 1, 2048});
  return cases;
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string_view wanted = argc > 1 ? argv[1] : "auto";
  std::string json;
  Stream stream(kGpu);
  fmt::print("{:<11} {:<8} {:>12} {:>4} {:>6} {:>7} {:>10} {:>12} {:>9}\n", "backend", "phase", "heads", "seqs", "new",
             "length", "time", "cache read", "TFLOP/s");
  for (const Case& c : cases())
    for (const AttentionBackend* backend : attention_backends(kGpu)) {
      AttentionShape shape{.num_heads = c.num_heads, .num_kv_heads = c.num_kv_heads, .head_dim = c.head_dim};
      shape.dtype = DType::kBF16;
      if (wanted != "auto" && wanted != backend->name()) continue;
      if (!backend->why_not(shape, DType::kBF16, kGpu).empty()) continue;
      if (wanted == "auto" && backend->name() == "reference") continue;  // it is not made for speed
      const Result r = measure(*backend, c, stream);
      fmt::print("{:<11} {:<8} {:>12} {:>4} {:>6} {:>7} {:>10} {:>12} {:>9.1f}\n", backend->name(), c.phase,
                 fmt::format("{}/{} x {}", c.num_heads, c.num_kv_heads, c.head_dim), c.num_seqs, c.num_new, c.length,
                 format_duration(r.seconds), format_rate(r.bytes_per_s), r.flop_per_s * 1e-12);
      std::fflush(stdout);
      json += fmt::format(
          "{}\n    {{\"backend\": \"{}\", \"phase\": \"{}\", \"num_heads\": {}, \"num_kv_heads\": {}, \"head_dim\": "
          "{}, "
          "\"num_seqs\": {}, \"num_new\": {}, \"length\": {}, \"seconds\": {:.9f}, \"bytes_per_s\": {:.6g}, "
          "\"flop_per_s\": {:.6g}}}",
          json.empty() ? "" : ",", backend->name(), c.phase, c.num_heads, c.num_kv_heads, c.head_dim, c.num_seqs,
          c.num_new, c.length, r.seconds, r.bytes_per_s, r.flop_per_s);
    }
  if (argc > 2)
    write_file(argv[2], fmt::format("{{\"schema\": 1, \"dtype\": \"bfloat16\", \"results\": [{}\n]}}\n", json));
} catch (const Error& error) {
  fmt::print(stderr, "bench_attention_cuda: {}\n", error.what());
  return 1;
}
