// Every backend of the GPU against the definition in double.
#include "tests/attention/cuda/gpu_rig.h"

namespace lane::testing {
namespace {

class GpuAttention : public GpuTest {};

TEST_F(GpuAttention, TheReferenceTakesEverything) {
  for (const int head_dim : {8, 20, 64, 80, 128, 256})
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const Model model = gpu_model(dtype, 4, 2, head_dim, 0, 0, head_dim == 20 ? 7 : 16);
      const auto backends = backends_for(model);
      ASSERT_FALSE(backends.empty());
      EXPECT_EQ(backends.back()->name(), "reference");
      sweep(model, {1, 17, 75}, 40);
    }
  Model mixed = gpu_model(DType::kF32, 4, 2, 64);
  mixed.dtype = DType::kBF16;
  sweep(mixed, {33}, 20);
}

TEST_F(GpuAttention, OwnKernelsTakeTheirHeadDims) {
  for (const int head_dim : {64, 96, 128, 256})
    for (const DType dtype : {DType::kBF16, DType::kF16})
      EXPECT_EQ(cuda_flash_attention().why_not(gpu_model(dtype, 8, 2, head_dim).shape, dtype, kGpu), "");
}

TEST_F(GpuAttention, DecodeAndPrefillOfAllHeadDims) {
  for (const int head_dim : {64, 96, 128, 256})
    for (const DType dtype : {DType::kBF16, DType::kF16})
      for (const int64_t chunk : {1, 33, 1000}) sweep(gpu_model(dtype, 4, 1, head_dim), {1, 16, 17, 63, 65}, chunk);
}

TEST_F(GpuAttention, GroupsOfHeads) {
  for (const int num_kv_heads : {16, 8, 4, 2, 1})
    for (const int64_t chunk : {1, 70}) sweep(gpu_model(DType::kBF16, 16, num_kv_heads, 64), {20, 71}, chunk);
  for (const auto& [heads, kv_heads] : {std::pair{5, 1}, {7, 1}, {20, 1}, {40, 1}})
    for (const int64_t chunk : {1, 40}) sweep(gpu_model(DType::kBF16, heads, kv_heads, 64), {45}, chunk);
}

TEST_F(GpuAttention, WindowsAndCaps) {
  for (const int window : {1, 7, 16, 64, 100})
    for (const int64_t chunk : {1, 37, 1000}) sweep(gpu_model(DType::kBF16, 4, 2, 64, window), {1, 100, 260}, chunk);
  for (const float cap : {0.5f, 20.f, 1000.f})
    for (const int64_t chunk : {1, 50}) sweep(gpu_model(DType::kF16, 4, 2, 64, 0, cap), {3, 90}, chunk);
  sweep(gpu_model(DType::kBF16, 2, 2, 128, 600, 30.f), {1300}, 1300);
}

TEST_F(GpuAttention, BlocksOf32) { sweep(gpu_model(DType::kBF16, 8, 2, 128, 0, 0, 32), {31, 32, 33, 200}, 64); }

// A long past, read in many chunks: only the last tokens are decoded.
TEST_F(GpuAttention, LongPasts) {
  for (const int64_t length : {127, 128, 129, 2047, 2049, 4097, 5000})
    for (const int num_kv_heads : {1, 8}) {
      const Model model = gpu_model(DType::kBF16, 8, num_kv_heads, 128);
      for (const AttentionBackend* backend : backends_for(model)) {
        Rig rig(model, {length}, 0, kGpu);
        const Runner run = gpu_runner(*backend);
        rig.step(run, {{0, 0, length - 2}}, *stream);
        for (int64_t at = length - 2; at < length; ++at) rig.step(run, {{0, at, 1}}, *stream);
        for (int64_t at = length - 3; at < length; ++at) {
          const Expected want = expected(model, 0, at, precision_of(*backend, model));
          for (size_t i = 0; i < want.value.size(); ++i)
            ASSERT_LE(std::abs(rig.results()[0][static_cast<size_t>(at)][i] - want.value[i]), want.tolerance[i])
                << describe(*backend, model) << ", position " << at << ", element " << i;
        }
      }
    }
}

// So long that a warp of the decode kernel has more tiles than lanes.
TEST_F(GpuAttention, AVeryLongPast) {
  const Model model = gpu_model(DType::kBF16, 8, 8, 64);
  for (const AttentionBackend* backend : backends_for(model)) {
    Rig rig(model, {40000}, 0, kGpu);
    rig.step(gpu_runner(cuda_flash_attention()), {{0, 0, 39999}}, *stream);
    rig.step(gpu_runner(*backend), {{0, 39999, 1}}, *stream);
    const Expected want = expected(model, 0, 39999, precision_of(*backend, model));
    for (size_t i = 0; i < want.value.size(); ++i)
      ASSERT_LE(std::abs(rig.results()[0][39999][i] - want.value[i]), want.tolerance[i])
          << describe(*backend, model) << ", element " << i;
  }
}

TEST_F(GpuAttention, RandomBatches) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    auto pick = [&, at = uint64_t{0}](uint64_t below) mutable { return random_bits(seed, at++) % below; };
    constexpr int kDims[] = {64, 96, 128, 256}, kGroups[] = {1, 2, 4, 8, 16};
    const int group = kGroups[pick(5)], kv_heads = 1 + static_cast<int>(pick(2));
    const Model model =
        gpu_model(pick(2) == 0 ? DType::kBF16 : DType::kF16, group * kv_heads, kv_heads, kDims[pick(4)],
                  pick(3) == 0 ? 1 + static_cast<int>(pick(300)) : 0, pick(4) == 0 ? 15.f : 0, pick(4) == 0 ? 32 : 16);
    std::vector<int64_t> lengths;
    for (uint64_t i = 0; i < 6; ++i) lengths.push_back(2 + static_cast<int64_t>(pick(i < 4 ? 80 : 500)));
    for (const AttentionBackend* backend : backends_for(model)) {
      Rig rig(model, lengths, seed, kGpu);
      const Runner run = gpu_runner(*backend);
      std::vector<int64_t> done(lengths.size());
      for (uint64_t step = 0; done != lengths; ++step) {  // a ragged part of some of them, single tokens among it
        std::vector<Part> parts;
        for (size_t i = 0; i < lengths.size(); ++i) {
          const uint64_t bits = random_bits(seed + 1000, step * lengths.size() + i);
          const int64_t count = std::min<int64_t>(lengths[i] - done[i], bits % 3 == 0 ? 1 : 1 + bits / 3 % 150);
          if (count == 0 || bits % 7 == 0) continue;
          parts.push_back({i, done[i], count});
          done[i] += count;
        }
        if (!parts.empty()) rig.step(run, parts, *stream);
      }
      expect_close(model, rig, describe(*backend, model), precision_of(*backend, model));
    }
  }
}

TEST_F(GpuAttention, NoTokens) {
  const Model model = gpu_model(DType::kBF16, 4, 2, 64);
  for (const AttentionBackend* backend : backends_for(model)) {
    const auto state = backend->make_state(model.shape, {1, 1, 1, 1}, model.dtype, kGpu);
    Buffer keys(model.dtype, {1, 2, 16, 64}, kGpu), qkv(model.dtype, {1, 1, 1, 512}, kGpu),
        out(model.dtype, {1, 1, 1, 256}, kGpu);
    const std::vector<int32_t> nobody{0};
    const HostBatch host{nobody, {}};
    AttentionBatch batch = host_batch(host, {}, 0);
    const Buffer query_start = list_on(nobody, *stream);
    batch.query_start = query_start.view();
    backend->plan(model.shape, batch, host, state.get(), *stream);
    backend->run(model.shape, batch, qkv.view(), 0, {keys.view(), keys.view()}, out.view(), state.get(), *stream);
    stream->synchronize();
  }
}

TEST_F(GpuAttention, EmptyPlacesOfABatchAreZeros) {
  const Model model = gpu_model(DType::kBF16, 4, 2, 64);
  for (const AttentionBackend* backend : backends_for(model))
    for (const int new_tokens : {1, 20}) {
      const std::vector<int32_t> query_start{0, new_tokens}, kv_length{0}, tables{-1};
      const HostBatch host{query_start, kv_length};
      AttentionBatch batch = host_batch(host, tables, 1);
      batch.max_kv = 64;
      const Buffer lists[] = {list_on(query_start, *stream), list_on(kv_length, *stream), list_on(tables, *stream)};
      batch.query_start = lists[0].view(), batch.kv_length = lists[1].view(), batch.block_tables = lists[2].view();
      Buffer keys(model.dtype, {1, 2, 16, 64}, kGpu), qkv(model.dtype, {1, 1, new_tokens, 512}, kGpu),
          out(model.dtype, {1, 1, new_tokens, 256}, kGpu);
      poison(keys.view(), *stream), poison(qkv.view(), *stream), poison(out.view(), *stream);
      AttentionLimits limits = limits_of(batch);
      limits.is_captured = true;
      const auto state = backend->make_state(model.shape, limits, model.dtype, kGpu);
      backend->plan(model.shape, batch, host, state.get(), *stream);
      backend->run(model.shape, batch, qkv.view(), 0, {keys.view(), keys.view()}, out.view(), state.get(), *stream);
      for (const float value : download(out.view(), *stream)) ASSERT_EQ(value, 0) << backend->name();
    }
}

TEST_F(GpuAttention, SaysWhyNot) {
  AttentionShape shape = gpu_model(DType::kBF16, 8, 2, 80).shape;
  EXPECT_EQ(cuda_flash_attention().why_not(shape, DType::kBF16, kGpu), "head_dim 80 is none of 64, 96, 128, 256");
  shape.head_dim = 64, shape.block_tokens = 8;
  EXPECT_EQ(cuda_flash_attention().why_not(shape, DType::kBF16, kGpu), "blocks of 8 tokens are not a multiple of 16");
  shape.block_tokens = 16;
  EXPECT_EQ(cuda_flash_attention().why_not(shape, DType::kF32, kGpu),
            "activations of bfloat16 over a cache of float32: it takes bfloat16 or float16, the same for both");
  shape.head_dim = 512;
  EXPECT_EQ(cuda_reference_attention().why_not(shape, DType::kF32, kGpu), "head_dim 512 is greater than 256");
  EXPECT_EQ(cuda_reference_attention().why_not(shape, DType::kF32, {}).empty(), false);
}

}  // namespace
}  // namespace lane::testing
