// Attention of one layer on a GPU: time of a launch, share of the cache read per second, operations per second.
//
//   bench_attention_cuda [backend] [file for JSON]
//
// "direct" is lane/attention/cuda/direct.cuh, which the backends "flash" and "flashinfer" run for short pasts, without
// norm and rotation of heads.
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
#include "lane/attention/cuda/kernels.h"
#include "lane/attention/cuda/work.h"
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

// Sequences of one new token each.
class Direct final : public AttentionBackend {
 public:
  std::string_view name() const override { return "direct"; }
  std::string why_not(const AttentionShape& shape, DType, Device) const override {
    return cuda::attention::takes_direct(shape) ? "" : "it takes other shapes";
  }
  std::unique_ptr<AttentionState> make_state(const AttentionShape& shape, const AttentionLimits& limits, DType,
                                             Device device) const override {
    auto state = std::make_unique<State>();
    state->space = cuda::attention::direct_space(shape, limits.max_seqs, limits.max_kv, 0);
    state->partials = Buffer(DType::kF32, {1, 1, 1, state->space.partial_floats}, device);
    state->counters = Buffer(DType::kI32, {1, 1, 1, state->space.num_counters}, device);
    Stream stream(device);
    const std::vector<int32_t> zeros(static_cast<size_t>(state->space.num_counters));
    copy_to_device(zeros.data(), state->counters.view(), stream);
    stream.synchronize();
    return state;
  }
  void run(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, int window, KvView cache,
           TensorView out, AttentionState* state, Stream& stream) const override {
    const auto& mine = dynamic_cast<const State&>(*state);
    cuda::attention::DirectArgs d{};
    d.a = cuda::attention::args_of(shape, batch, qkv, window, cache, out);
    d.a.partials = mine.partials.view().as<float>();
    d.a.counters = mine.counters.view().as<uint32_t>();
    d.a.grid_chunks = mine.space.grid_chunks, d.a.partial_rows = mine.space.partial_rows;
    cuda::attention::direct_attention(d, shape.dtype, {.stream = stream.native()});
  }

 private:
  struct State final : AttentionState {
    cuda::attention::DecodeSpace space{};
    Buffer partials, counters;
  };
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
      for (const int length : {128, 512, 2048, 8192, 32768})
        if (int64_t{num_seqs} * length <= 64 * 8192)
          cases.push_back({"decode", heads, kv_heads, 128, num_seqs, 1, length});
    for (const auto& [num_seqs, num_new, length] :
         {std::tuple{1, 512, 512}, {1, 2048, 2048}, {8, 2048, 2048}, {1, 8192, 8192}, {1, 2048, 16384}})
      cases.push_back({"prefill", heads, kv_heads, 128, num_seqs, num_new, length});
  }
  cases.push_back({"decode", 32, 32, 64, 16, 1, 2048});
  cases.push_back({"decode", 32, 4, 128, 16, 1, 3500});  // of a mixture of experts
  cases.push_back({"decode", 16, 8, 256, 16, 1, 2048});
  return cases;
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string_view wanted = argc > 1 ? argv[1] : "auto";
  std::string json;
  Stream stream(kGpu);
  const Direct direct;
  std::vector<const AttentionBackend*> backends = attention_backends(kGpu);
  backends.push_back(&direct);
  fmt::print("{:<11} {:<8} {:>12} {:>4} {:>6} {:>7} {:>10} {:>12} {:>9}\n", "backend", "phase", "heads", "seqs", "new",
             "length", "time", "cache read", "TFLOP/s");
  for (const Case& c : cases())
    for (const AttentionBackend* backend : backends) {
      AttentionShape shape{.num_heads = c.num_heads, .num_kv_heads = c.num_kv_heads, .head_dim = c.head_dim};
      shape.dtype = DType::kBF16;
      if (wanted != "auto" && wanted != backend->name()) continue;
      if (!backend->why_not(shape, DType::kBF16, kGpu).empty()) continue;
      if (wanted == "auto" && backend->name() == "reference") continue;  // it is not made for speed
      if (backend == &direct && c.num_new > 1) continue;
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
