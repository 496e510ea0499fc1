// direct.cuh, in a kernel of its own, against the definition in double and against the kernels that treat heads.
#include "lane/attention/cuda/kernels.h"
#include "lane/attention/cuda/work.h"
#include "tests/attention/cuda/gpu_rig.h"
#include "tests/attention/direct_rig.h"

namespace lane::testing {
namespace {

using namespace lane::cuda::attention;

// `max_kv`: of the grid, at least that of the batch.
void run_direct(const Call& c, DirectArgs d, int64_t max_kv = 0) {
  ASSERT_TRUE(takes_direct(c.shape));
  AttentionArgs& a = d.a;
  a = args_of(c.shape, c.batch, c.qkv, c.window, c.cache, c.out);
  const DecodeSpace space = direct_space(c.shape, c.batch.num_seqs, std::max(max_kv, c.batch.max_kv), c.window);
  const Buffer partials(DType::kF32, {1, 1, 1, space.partial_floats}, kGpu);
  const Buffer counters = list_on(std::vector<int32_t>(static_cast<size_t>(space.num_counters)), c.stream);
  poison(partials.view(), c.stream);
  a.partials = partials.view().as<float>();
  a.counters = counters.view().as<uint32_t>();
  a.grid_chunks = space.grid_chunks, a.partial_rows = space.partial_rows;
  direct_attention(d, c.shape.dtype, {.is_chained = false, .stream = c.stream.native()});
  std::vector<int32_t> left(static_cast<size_t>(space.num_counters));
  copy_to_host(counters.view(), left.data(), c.stream);
  for (const int32_t count : left) ASSERT_EQ(count, 0);
}
Runner direct(int64_t max_kv = 0) {
  return [max_kv](const Call& c) { run_direct(c, {}, max_kv); };
}

class GpuDirect : public GpuTest {
 protected:
  // The reference puts the past there; then each sequence gets `steps` single tokens, all together.
  void decode_after(const Model& model, const std::vector<int64_t>& pasts, int64_t steps = 2) {
    std::vector<int64_t> lengths;
    for (const int64_t past : pasts) lengths.push_back(past + steps);
    Rig rig(model, lengths, 0, kGpu);
    for (size_t i = 0; i < pasts.size(); ++i)
      if (pasts[i] > 0) rig.step(gpu_runner(cuda_flash_attention()), {{i, 0, pasts[i]}}, *stream);
    for (int64_t step = 0; step < steps; ++step) {
      std::vector<Part> parts;
      for (size_t i = 0; i < pasts.size(); ++i) parts.push_back({i, pasts[i] + step, 1});
      rig.step(direct(), parts, *stream);
    }
    for (size_t i = 0; i < pasts.size(); ++i)
      for (int64_t at = pasts[i]; at < lengths[i]; ++at) {
        const Expected want = expected(model, i, at, matrix_precision(model.dtype));
        for (size_t j = 0; j < want.value.size(); ++j)
          ASSERT_LE(std::abs(rig.results()[i][static_cast<size_t>(at)][j] - want.value[j]), want.tolerance[j])
              << describe(cuda_flash_attention(), model) << ", sequence " << i << ", position " << at << ", element "
              << j;
      }
  }
};

TEST_F(GpuDirect, GroupsAndLengths) {
  for (const DType dtype : {DType::kBF16, DType::kF16})
    for (const int head_dim : {64, 128})
      for (const int group : {1, 4, 7, 8})
        for (const int num_kv_heads : {1, 2})
          decode_after(gpu_model(dtype, group * num_kv_heads, num_kv_heads, head_dim),
                       {0, 13, 14, 15, 16, 126, 127, 128, 129, 1000});
}

TEST_F(GpuDirect, LongPasts) {
  for (const int head_dim : {64, 128})
    decode_after(gpu_model(DType::kBF16, 8, 1, head_dim), {4094, 5000, 40, 20000}, 3);
}

TEST_F(GpuDirect, BatchesOf1To16) {
  const Model model = gpu_model(DType::kBF16, 16, 4, 128);
  for (const int64_t count : {1, 2, 3, 5, 8, 16}) {
    std::vector<int64_t> pasts;
    for (int64_t i = 0; i < count; ++i) pasts.push_back(37 * i * i % 700);
    decode_after(model, pasts);
  }
}

TEST_F(GpuDirect, WindowsAndCaps) {
  for (const int window : {1, 7, 16, 100, 600})
    decode_after(gpu_model(DType::kBF16, 4, 2, 128, window), {0, 10, 99, 260, 1500});
  for (const float cap : {0.5f, 20.f, 1000.f}) decode_after(gpu_model(DType::kF16, 4, 2, 64, 0, cap), {3, 90, 300});
  decode_after(gpu_model(DType::kF16, 8, 2, 64, 130, 15.f, 32), {31, 32, 500});
}

TEST_F(GpuDirect, TreatsHeadsAsTheKernelsDo) {
  for (const int head_dim : {64, 128})
    for (const int group : {1, 4, 7, 8})
      expect_same_heads(
          gpu_model(DType::kBF16, 2 * group, 2, head_dim), {40, 17},
          [](const Call& c, const DirectArgs& d) { run_direct(c, d); }, kGpu);
}

// A sequence's bits, in any company, in a grid for longer ones, and again and again.
TEST_F(GpuDirect, SameBitsInAnyCompany) {
  const Model model = gpu_model(DType::kBF16, 32, 4, 128);
  const auto results_of = [&](uint64_t seed, size_t company, int64_t max_kv) {
    std::vector<int64_t> lengths{1540};
    for (size_t i = 0; i < company; ++i) lengths.push_back(static_cast<int64_t>(200 * i + 60));
    Rig rig(model, lengths, seed, kGpu);
    for (size_t i = 0; i < lengths.size(); ++i)
      rig.step(gpu_runner(cuda_flash_attention()), {{i, 0, lengths[i] - 40}}, *stream);
    for (int64_t step = 0; step < 40; ++step) {
      std::vector<Part> parts;
      for (size_t i = lengths.size(); i-- > 0;) parts.push_back({i, lengths[i] - 40 + step, 1});
      rig.step(direct(max_kv), parts, *stream);
    }
    return rig.results()[0];
  };
  const auto want = results_of(1, 0, 0);
  EXPECT_EQ(results_of(2, 1, 8192), want);
  EXPECT_EQ(results_of(3, 15, 0), want);
}

TEST_F(GpuDirect, EmptyPlacesAreZeros) {
  const Model model = gpu_model(DType::kBF16, 4, 2, 64);
  const std::vector<int32_t> query_start{0, 1, 2}, kv_length{0, 0}, tables{-1, -1};
  const HostBatch host{query_start, kv_length};
  AttentionBatch batch = host_batch(host, tables, 1);
  batch.max_kv = 1000;
  const Buffer lists[] = {list_on(query_start, *stream), list_on(kv_length, *stream), list_on(tables, *stream)};
  batch.query_start = lists[0].view(), batch.kv_length = lists[1].view(), batch.block_tables = lists[2].view();
  Buffer keys(model.dtype, {1, 2, 16, 64}, kGpu), qkv(model.dtype, {1, 1, 2, 512}, kGpu),
      out(model.dtype, {1, 1, 2, 256}, kGpu);
  poison(keys.view(), *stream), poison(qkv.view(), *stream), poison(out.view(), *stream);
  run_direct({model.shape, batch, host, qkv.view(), 0, {keys.view(), keys.view()}, out.view(), *stream}, {});
  for (const float value : download(out.view(), *stream)) ASSERT_EQ(value, 0);
}

}  // namespace
}  // namespace lane::testing
