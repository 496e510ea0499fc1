// What decode steps rely on: bits that do not depend on the company, graphs that are captured once, launches that
// follow one another closely.
#include "tests/attention/cuda/gpu_rig.h"

namespace lane::testing {
namespace {

class GpuDecode : public GpuTest {};

// Sequence 0 is computed with and without others, and its prompt cut differently; own kernels alone promise it.
TEST_F(GpuDecode, SameBitsInAnyCompany) {
  for (const int num_kv_heads : {1, 4}) {
    const Model model = gpu_model(DType::kBF16, 4 * num_kv_heads, num_kv_heads, 128);
    const Runner run = gpu_runner(cuda_flash_attention());
    const auto results_of = [&](uint64_t seed, bool in_company, int64_t cut) {
      Rig rig(model, {1540, 700, 3, 129}, seed, kGpu);
      rig.step(run, {{0, 0, cut}}, *stream);
      rig.step(run, {{0, cut, 1500 - cut}}, *stream);
      for (int64_t at = 1500; at < 1540; ++at) {
        std::vector<Part> parts{{0, at, 1}};
        if (in_company && at == 1500) parts = {{1, 0, 600}, {0, at, 1}, {3, 0, 100}};
        if (in_company && at > 1500) parts = {{1, 600 + at - 1501, 1}, {0, at, 1}};
        if (in_company && at > 1520) parts.push_back({3, 100 + at - 1521, 1});
        rig.step(run, parts, *stream);
      }
      return rig.results()[0];
    };
    const auto want = results_of(1, false, 1000);
    EXPECT_EQ(results_of(2, true, 1000), want);
    EXPECT_EQ(results_of(3, true, 64), want);
    EXPECT_EQ(results_of(4, false, 1237), want);
  }
}

// Buffers of a decode step of fixed size, whose lists change under a captured graph.
class GraphStep {
 public:
  GraphStep(const AttentionBackend& backend, const Model& model, KvView cache, int num_seqs, int max_kv, Stream& stream)
      : backend_(backend), model_(model), cache_(cache), stream_(stream), max_blocks_(max_kv / 16) {
    const AttentionShape& s = model.shape;
    const int64_t cols = int64_t{s.num_heads + 2 * s.num_kv_heads} * s.head_dim;
    qkv_ = Buffer(s.dtype, {1, 1, num_seqs, cols}, kGpu);
    out_ = Buffer(s.dtype, {1, 1, num_seqs, int64_t{s.num_heads} * s.head_dim}, kGpu);
    for (int i = 0; i <= num_seqs; ++i) query_start_.push_back(i);
    device_query_start_ = list_on(query_start_, stream);
    device_length_ = list_on(std::vector<int32_t>(static_cast<size_t>(num_seqs)), stream);
    device_tables_ = list_on(std::vector<int32_t>(static_cast<size_t>(num_seqs * max_blocks_)), stream);
    batch_ = {device_query_start_.view(),
              device_length_.view(),
              device_tables_.view(),
              num_seqs,
              num_seqs,
              /*max_query=*/1,
              max_kv,
              max_blocks_};
    batch_.is_settled = true;  // only copies are ahead of a launch
    state_ = backend.make_state(s, {num_seqs, num_seqs, 1, max_kv, /*is_captured=*/true}, model.dtype, kGpu);
  }
  ~GraphStep() {
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
  }

  // Results [sequence][column] of one new token each; a length of 0 is an empty place.
  std::vector<float> step(const std::vector<int32_t>& lengths, const std::vector<int32_t>& tables,
                          const std::vector<float>& rows) {
    copy_to_device(lengths.data(), device_length_.view(), stream_);
    copy_to_device(tables.data(), device_tables_.view(), stream_);
    upload(rows, qkv_.view(), stream_);
    poison(out_.view(), stream_);
    backend_.plan(model_.shape, batch_, {query_start_, lengths}, state_.get(), stream_);
    if (graph_ == nullptr) capture();
    EXPECT_EQ(cudaGraphLaunch(graph_, static_cast<cudaStream_t>(stream_.native())), cudaSuccess);
    return download(out_.view(), stream_);
  }
  int max_blocks() const { return max_blocks_; }

 private:
  void capture() {
    const auto raw = static_cast<cudaStream_t>(stream_.native());
    cudaGraph_t graph = nullptr;
    ASSERT_EQ(cudaStreamBeginCapture(raw, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    backend_.run(model_.shape, batch_, qkv_.view(), model_.window, cache_, out_.view(), state_.get(), stream_);
    ASSERT_EQ(cudaStreamEndCapture(raw, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&graph_, graph, 0), cudaSuccess);
    cudaGraphDestroy(graph);
  }

  const AttentionBackend& backend_;
  Model model_;
  KvView cache_;
  Stream& stream_;
  int max_blocks_;
  Buffer qkv_, out_, device_query_start_, device_length_, device_tables_;
  std::vector<int32_t> query_start_;
  AttentionBatch batch_;
  std::unique_ptr<AttentionState> state_;
  cudaGraphExec_t graph_ = nullptr;
};

TEST_F(GpuDecode, OneGraphServesAllLengths) {
  for (const auto& model : {gpu_model(DType::kBF16, 8, 2, 128), gpu_model(DType::kBF16, 2, 2, 64),
                            gpu_model(DType::kF16, 8, 1, 64, 40), gpu_model(DType::kF16, 32, 1, 64)})
    for (const AttentionBackend* backend : backends_for(model)) {
      const std::vector<int64_t> past{0, 120, 505, 15};
      Rig rig(model, {40, 160, 545, 55}, 7, kGpu);
      for (size_t i = 1; i < past.size(); ++i)
        rig.step(gpu_runner(cuda_reference_attention()), {{i, 0, past[i]}}, *stream);
      GraphStep graph(*backend, model, {rig.keys(), rig.values()}, 4, 2048, *stream);
      const AttentionShape& s = model.shape;
      const int64_t cols = int64_t{s.num_heads + 2 * s.num_kv_heads} * s.head_dim;
      for (int64_t step = 0; step < 40; ++step) {
        const size_t empty = static_cast<size_t>(step / 10);  // another place of the batch, empty for a while
        std::vector<int32_t> lengths, tables;
        std::vector<float> rows;
        for (size_t i = 0; i < 4; ++i) {
          const int64_t at = past[i] + step;
          lengths.push_back(static_cast<int32_t>(at + 1));
          for (size_t block = 0; block < static_cast<size_t>(graph.max_blocks()); ++block)
            tables.push_back(block <= static_cast<size_t>(at) / 16 ? rig.tables()[i][block] : -1);
          for (int64_t column = 0; column < cols; ++column) rows.push_back(input(i, at, column));
        }
        if (step % 2 == 1) {  // the same step with and without the place: its token must be in the cache later
          std::vector<int32_t> without = lengths;
          without[empty] = 0;
          const std::vector<float> out = graph.step(without, tables, rows);
          const size_t width = out.size() / 4;
          for (size_t i = 0; i < width; ++i) ASSERT_EQ(out[empty * width + i], 0) << describe(*backend, model);
        }
        const std::vector<float> out = graph.step(lengths, tables, rows);
        if (step % 5 != 0 && step < 38) continue;
        for (size_t i = 0; i < 4; ++i) {
          const Expected want = expected(model, i, past[i] + step, precision_of(*backend, model));
          for (size_t j = 0; j < want.value.size(); ++j)
            ASSERT_LE(std::abs(out[i * want.value.size() + j] - want.value[j]), want.tolerance[j])
                << describe(*backend, model) << ", step " << step << ", sequence " << i << ", element " << j;
        }
      }
    }
}

// Layers that follow one another share a state: partial results and counters of one must not meet those of the next.
TEST_F(GpuDecode, LaunchesThatFollowCloselyDoNotMix) {
  const Model model = gpu_model(DType::kBF16, 8, 2, 128);
  const AttentionShape& s = model.shape;
  constexpr int kLayers = 24;
  for (const AttentionBackend* backend : backends_for(model)) {
    std::vector<std::unique_ptr<Rig>> layers;
    std::vector<Buffer> qkv, out;
    const std::vector<int64_t> lengths{1500, 300, 16};
    std::vector<int32_t> query_start{0, 1, 2, 3}, kv_length{1500, 300, 16}, tables;
    std::vector<float> rows;
    for (int layer = 0; layer < kLayers; ++layer) {
      layers.push_back(std::make_unique<Rig>(model, lengths, 3, kGpu));
      for (size_t i = 0; i < 3; ++i)
        layers.back()->step(gpu_runner(cuda_reference_attention()), {{i, 0, lengths[i] - 1}}, *stream);
      rows.clear();
      for (size_t i = 0; i < 3; ++i)
        for (int64_t column = 0; column < int64_t{12} * 128; ++column)
          rows.push_back(input(100 + static_cast<uint64_t>(layer), static_cast<int64_t>(i), column));
      qkv.emplace_back(s.dtype, std::array<int64_t, 4>{1, 1, 3, 12 * 128}, kGpu);
      out.emplace_back(s.dtype, std::array<int64_t, 4>{1, 1, 3, 8 * 128}, kGpu);
      upload(rows, qkv.back().view(), *stream);
    }
    for (size_t i = 0; i < 3; ++i)
      for (size_t block = 0; block < 94; ++block)
        tables.push_back(block < layers[0]->tables()[i].size() ? layers[0]->tables()[i][block] : -1);
    const HostBatch host{query_start, kv_length};
    AttentionBatch batch = host_batch(host, tables, 94);
    const Buffer lists[] = {list_on(query_start, *stream), list_on(kv_length, *stream), list_on(tables, *stream)};
    batch.query_start = lists[0].view(), batch.kv_length = lists[1].view(), batch.block_tables = lists[2].view();
    batch.is_settled = true;  // each layer has a cache of its own
    const auto state = backend->make_state(s, limits_of(batch), model.dtype, kGpu);
    backend->plan(s, batch, host, state.get(), *stream);

    std::vector<std::vector<float>> alone, together;
    const auto run = [&](int layer) {
      const auto at = static_cast<size_t>(layer);
      backend->run(s, batch, qkv[at].view(), 0, {layers[at]->keys(), layers[at]->values()}, out[at].view(), state.get(),
                   *stream);
    };
    for (int layer = 0; layer < kLayers; ++layer) {
      run(layer);
      alone.push_back(download(out[static_cast<size_t>(layer)].view(), *stream));
    }
    for (int round = 0; round < 20; ++round)
      for (int layer = 0; layer < kLayers; ++layer) run(layer);
    for (const Buffer& buffer : out) together.push_back(download(buffer.view(), *stream));
    EXPECT_EQ(alone, together) << backend->name();
  }
}

}  // namespace
}  // namespace lane::testing
