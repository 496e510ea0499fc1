// The kernels for GPUs, run thread by thread on the CPU: every address, every fragment of the matrix instructions,
// every wait and meeting of threads is that of the GPU; times and the caches' ways are not.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "lane/attention/cuda/decode.cuh"
#include "lane/attention/cuda/direct.cuh"
#include "lane/attention/cuda/pages.cuh"
#include "lane/attention/cuda/plain.cuh"
#include "lane/attention/cuda/prefill.cuh"
#include "lane/attention/cuda/work.h"
#include "tests/attention/direct_rig.h"

namespace lane::testing {
namespace {

using namespace lane::cuda::attention;

template <class T, int kDim>
struct Kernels {
  static void decode(const AttentionArgs& a, uint64_t seed) {
    using Shape = DecodeShape<T, kDim>;
    const int64_t qkv_bytes = int64_t{2} * a.num_tokens * (a.num_heads + 2 * a.num_kv_heads) * kDim;
    emulate({a.grid_chunks, a.num_kv_heads * a.row_tiles, a.num_seqs, Shape::kWarps * 32, Shape::kSharedBytes, seed,
             a.qkv, qkv_bytes},
            [&] { decode_kernel<T, kDim>(a); });
  }
  static void prefill(const AttentionArgs& a, uint64_t seed) {
    using Shape = PrefillShape<T, kDim>;
    const int64_t rows = int64_t{a.max_query} * (a.num_heads / a.num_kv_heads);
    emulate({(rows + Shape::kRows - 1) / Shape::kRows, a.num_kv_heads, a.num_seqs, Shape::kWarps * 32,
             Shape::kSharedBytes, seed},
            [&] { prefill_kernel<T, kDim>(a); });
  }
};

template <class T, class Cache>
void write_kv(const AttentionArgs& a) {
  emulate({(a.max_query + kPlainWarps - 1) / kPlainWarps, a.num_kv_heads, a.num_seqs, kPlainWarps * 32},
          [&] { write_kv_kernel<T, Cache>(a); });
}

// What the backend "flash" does on a GPU.
template <class T, int kDim>
Runner flash_on(uint64_t seed = 0) {
  return [seed](const Call& c) {
    AttentionArgs a = args_of(c.shape, c.batch, c.qkv, c.window, c.cache, c.out);
    a.is_settled = seed % 2 == 0;
    const DecodeSpace space = decode_space(c.shape, c.batch.num_seqs, c.batch.max_query, c.batch.max_kv, c.window);
    std::vector<float> partials(static_cast<size_t>(space.partial_floats), NAN);
    std::vector<uint32_t> counters(static_cast<size_t>(space.num_counters));
    a.partials = partials.data(), a.counters = counters.data();
    a.grid_chunks = space.grid_chunks, a.partial_rows = space.partial_rows;
    const Steps steps = steps_of(c.shape, c.batch);
    if (steps.prefills) write_kv<T, T>(a);
    if (steps.decodes) Kernels<T, kDim>::decode(a, seed);
    if (steps.prefills) Kernels<T, kDim>::prefill(a, seed);
    for (const uint32_t counter : counters) ASSERT_EQ(counter, 0u);
  };
}

// What a step of a kernel that has direct.cuh in it does, on the heads as they are.
template <class T, int kDim>
void direct_on(const Call& c, DirectArgs d, uint64_t seed) {
  ASSERT_TRUE(takes_direct(c.shape));
  AttentionArgs& a = d.a;
  a = args_of(c.shape, c.batch, c.qkv, c.window, c.cache, c.out);
  const DecodeSpace space = direct_space(c.shape, c.batch.num_seqs, c.batch.max_kv, c.window);
  std::vector<float> partials(static_cast<size_t>(space.partial_floats), NAN);
  std::vector<uint32_t> counters(static_cast<size_t>(space.num_counters));
  a.partials = partials.data(), a.counters = counters.data();
  a.grid_chunks = space.grid_chunks, a.partial_rows = space.partial_rows;
  using Shape = DirectShape<T, kDim>;
  const int64_t blocks = 1 + static_cast<int64_t>(seed) % (a.num_seqs * a.num_kv_heads * a.grid_chunks);  // some with several items
  emulate({blocks, 1, 1, Shape::kWarps * 32, Shape::kSharedBytes, seed}, [&] { direct_kernel<T, kDim>(d); });
  for (const uint32_t counter : counters) ASSERT_EQ(counter, 0u);
}
template <class T, int kDim>
Runner direct(uint64_t seed = 0) {
  return [seed](const Call& c) { direct_on<T, kDim>(c, {}, seed); };
}

template <class T, class Cache>
Runner plain() {
  return [](const Call& c) {
    const AttentionArgs a = args_of(c.shape, c.batch, c.qkv, c.window, c.cache, c.out);
    write_kv<T, Cache>(a);
    emulate({(a.max_query + kPlainWarps - 1) / kPlainWarps, a.num_heads, a.num_seqs, kPlainWarps * 32},
            [&] { plain_kernel<T, Cache>(a); });
  };
}

Model model_of(DType dtype, int num_heads, int num_kv_heads, int head_dim, int window = 0, float soft_cap = 0,
               int block_tokens = 16) {
  AttentionShape shape = shape_of(num_heads, num_kv_heads, head_dim, block_tokens, soft_cap);
  shape.dtype = dtype;
  return {shape, dtype, window};
}

template <class T, int kDim>
void sweep(const Model& model, const std::vector<int64_t>& lengths, int64_t chunk) {
  Rig rig(model, lengths);
  Stream stream;
  rig.run_all(flash_on<T, kDim>(), chunk, stream);
  expect_close(
      model, rig,
      fmt::format("heads {}/{} x {}, {}, window {}, cap {}, chunk {}", model.shape.num_heads, model.shape.num_kv_heads,
                  kDim, name_of(model.dtype), model.window, model.shape.soft_cap, chunk),
      matrix_precision(model.dtype));
}

// Keys and values alone.
template <class T>
void put_past(const Call& c) {
  write_kv<T, T>(args_of(c.shape, c.batch, c.qkv, c.window, c.cache, c.out));
}

// Most of the past is just there; then single tokens follow.
template <class T, int kDim>
void decode_after(const Model& model, int64_t past, int64_t steps, const Runner& run = flash_on<T, kDim>()) {
  Rig rig(model, {past + steps});
  Stream stream;
  rig.step(put_past<T>, {{0, 0, past}}, stream);
  for (int64_t at = past; at < past + steps; ++at) rig.step(run, {{0, at, 1}}, stream);
  for (int64_t at = past; at < past + steps; ++at) {
    const Expected want = expected(model, 0, at, matrix_precision(model.dtype));
    for (size_t i = 0; i < want.value.size(); ++i)
      ASSERT_LE(std::abs(rig.results()[0][static_cast<size_t>(at)][i] - want.value[i]), want.tolerance[i])
          << "head_dim " << kDim << ", position " << at << ", element " << i;
  }
}

TEST(EmulatedKernels, DecodeOfAllHeadDims) {
  decode_after<BF16, 64>(model_of(DType::kBF16, 4, 1, 64), 30, 4);
  decode_after<F16, 96>(model_of(DType::kF16, 4, 2, 96), 15, 3);
  decode_after<BF16, 128>(model_of(DType::kBF16, 8, 1, 128), 63, 3);
  decode_after<F16, 256>(model_of(DType::kF16, 2, 1, 256), 47, 3);
}

TEST(EmulatedKernels, DecodeFromTheFirstToken) { sweep<BF16, 64>(model_of(DType::kBF16, 3, 1, 64), {35, 1, 17}, 1); }

TEST(EmulatedKernels, DecodeOverSeveralChunks) {
  decode_after<BF16, 64>(model_of(DType::kBF16, 2, 1, 64), 126, 4);
  decode_after<BF16, 64>(model_of(DType::kBF16, 4, 2, 64), 510, 4);
  decode_after<BF16, 64>(model_of(DType::kBF16, 1, 1, 64), 2047, 2);  // 16 short chunks, then 9 long ones
}

TEST(EmulatedKernels, DecodeOfManyHeadsPerKvHead) {
  decode_after<BF16, 64>(model_of(DType::kBF16, 16, 1, 64), 20, 1);
  decode_after<BF16, 64>(model_of(DType::kBF16, 20, 1, 64), 140, 2);  // two tiles of rows
}

TEST(EmulatedKernels, DecodeWithWindowsAndCaps) {
  decode_after<BF16, 64>(model_of(DType::kBF16, 2, 1, 64, 5), 40, 3);
  decode_after<BF16, 64>(model_of(DType::kBF16, 2, 1, 64, 150), 300, 3);
  decode_after<F16, 64>(model_of(DType::kF16, 2, 1, 64, 0, 4.f), 40, 2);
  decode_after<BF16, 64>(model_of(DType::kBF16, 2, 1, 64, 33, 4.f, 32), 60, 2);
}

template <class T, int kDim>
void direct_after(const Model& model, int64_t past, int64_t steps, uint64_t seed = 0) {
  decode_after<T, kDim>(model, past, steps, direct<T, kDim>(seed));
}

TEST(EmulatedKernels, DirectFromTheFirstToken) {
  for (const int group : {1, 4, 7, 8}) {
    const Model model = model_of(DType::kBF16, group, 1, 64);
    Rig rig(model, {18, 1, 17});
    Stream stream;
    rig.run_all(direct<BF16, 64>(static_cast<uint64_t>(group)), 1, stream);
    expect_close(model, rig, fmt::format("direct, {} heads", group), matrix_precision(model.dtype));
  }
}

TEST(EmulatedKernels, DirectOverStepsAndChunks) {
  direct_after<F16, 64>(model_of(DType::kF16, 4, 2, 64), 126, 4, 1);
  direct_after<BF16, 128>(model_of(DType::kBF16, 8, 1, 128), 127, 3, 2);
  direct_after<BF16, 128>(model_of(DType::kBF16, 2, 1, 128), 300, 1, 5);
  direct_after<BF16, 64>(model_of(DType::kBF16, 1, 1, 64), 4095, 2, 7);  // chunks of one step, then of two
}

TEST(EmulatedKernels, DirectOverMoreTilesThanLanes) {
  direct_after<F16, 64>(model_of(DType::kF16, 1, 1, 64), 128 * 32 * 4 + 130, 1);
}

TEST(EmulatedKernels, DirectWithWindowsAndCaps) {
  direct_after<BF16, 64>(model_of(DType::kBF16, 2, 1, 64, 5), 40, 3);
  direct_after<BF16, 128>(model_of(DType::kBF16, 2, 1, 128, 150), 300, 3, 1);
  direct_after<F16, 64>(model_of(DType::kF16, 2, 1, 64, 0, 4.f), 40, 2);
  direct_after<BF16, 64>(model_of(DType::kBF16, 2, 1, 64, 33, 4.f, 32), 60, 2);
}

TEST(EmulatedKernels, DirectTreatsHeadsAsTheKernelsDo) {
  for (const int group : {1, 7, 8})
    expect_same_heads(model_of(DType::kBF16, group, 1, 64), {3, 1},
                      [](const Call& c, const DirectArgs& d) { direct_on<BF16, 64>(c, d, 1); });
  expect_same_heads(model_of(DType::kF16, 4, 2, 128), {3},
                    [](const Call& c, const DirectArgs& d) { direct_on<F16, 128>(c, d, 0); });
}

TEST(EmulatedKernels, PrefillOfAllHeadDims) {
  sweep<BF16, 64>(model_of(DType::kBF16, 2, 1, 64), {70, 9, 130}, 1000);
  sweep<F16, 96>(model_of(DType::kF16, 3, 1, 96), {40}, 1000);
  sweep<BF16, 128>(model_of(DType::kBF16, 1, 1, 128), {81}, 1000);
  sweep<BF16, 256>(model_of(DType::kBF16, 2, 1, 256), {41}, 1000);
}

TEST(EmulatedKernels, PrefillWithWindowsAndCaps) {
  sweep<BF16, 64>(model_of(DType::kBF16, 2, 1, 64, 20), {150}, 100);
  sweep<BF16, 64>(model_of(DType::kBF16, 1, 1, 64, 1), {40}, 40);
  sweep<F16, 64>(model_of(DType::kF16, 2, 2, 64, 70, 3.f, 32), {140}, 90);
}

TEST(EmulatedKernels, SeveralNewTokensInTheDecodeKernel) {
  for (const int64_t chunk : {2, 3, 4}) sweep<BF16, 64>(model_of(DType::kBF16, 4, 1, 64), {26, 5}, chunk);
  sweep<BF16, 64>(model_of(DType::kBF16, 20, 1, 64), {3}, 1);
}

TEST(EmulatedKernels, PlainTakesEveryShape) {
  for (const auto& [head_dim, block_tokens] : {std::pair{8, 7}, {80, 16}, {256, 16}}) {
    const Model model = model_of(DType::kF32, 4, 2, head_dim, 20, 3.f, block_tokens);
    Rig rig(model, {30, 1});
    Stream stream;
    rig.run_all(plain<float, float>(), 13, stream);
    expect_close(model, rig, "plain float32", plain_precision(DType::kF32));
  }
  Model mixed = model_of(DType::kF16, 2, 1, 24);
  mixed.dtype = DType::kBF16;
  Rig rig(mixed, {20});
  Stream stream;
  rig.run_all(plain<F16, BF16>(), 9, stream);
  expect_close(mixed, rig, "plain, float16 over bfloat16", plain_precision(DType::kF16));
}

TEST(EmulatedKernels, PrefillAndDecodeInOneStep) {
  const Model model = model_of(DType::kBF16, 4, 2, 64);
  Rig rig(model, {40, 41, 20});
  Stream stream;
  const Runner run = flash_on<BF16, 64>();
  rig.step(run, {{0, 0, 39}, {2, 0, 3}}, stream);
  rig.step(run, {{0, 39, 1}, {1, 0, 40}, {2, 3, 16}}, stream);
  rig.step(run, {{1, 40, 1}, {2, 19, 1}}, stream);
  expect_close(model, rig, "mixed", matrix_precision(model.dtype));
}

TEST(EmulatedKernels, SameBitsOfDirect) {
  const Model model = model_of(DType::kBF16, 4, 2, 64);
  Stream stream;
  const auto results_of = [&](uint64_t seed, bool in_company) {
    Rig rig(model, {302, 150}, seed);
    rig.step(put_past<BF16>, {{0, 0, 300}}, stream);
    rig.step(put_past<BF16>, {{1, 0, 148}}, stream);
    for (int64_t at = 0; at < 2; ++at) {
      std::vector<Part> parts{{0, 300 + at, 1}};
      if (in_company) parts.insert(parts.begin(), {1, 148 + at, 1});
      rig.step(direct<BF16, 64>(seed), parts, stream);
    }
    return std::vector(rig.results()[0].end() - 2, rig.results()[0].end());
  };
  const auto want = results_of(0, false);
  for (const uint64_t seed : {1, 5, 11}) EXPECT_EQ(results_of(seed, true), want);
}

// Bits depend on the sequence alone: not on its company, nor on the order in which blocks come to the merge, nor, for
// prompts whose chunks go to the prefill kernel, on the cut.
TEST(EmulatedKernels, SameBits) {
  const Model model = model_of(DType::kBF16, 4, 1, 64);
  Stream stream;
  const auto results_of = [&](uint64_t seed, bool in_company, int64_t cut) {
    Rig rig(model, {302, 150}, seed);
    const Runner run = flash_on<BF16, 64>(seed);
    rig.step(run, {{0, 0, cut}}, stream);
    rig.step(run, {{0, cut, 300 - cut}}, stream);
    for (int64_t at = 300; at < 302; ++at) {
      std::vector<Part> parts{{0, at, 1}};
      if (in_company) parts.insert(parts.begin(), at == 300 ? Part{1, 0, 149} : Part{1, 149, 1});
      rig.step(run, parts, stream);
    }
    return rig.results()[0];
  };
  const auto want = results_of(1, false, 100);
  EXPECT_EQ(results_of(2, true, 100), want);
  EXPECT_EQ(results_of(3, true, 64), want);
  EXPECT_EQ(results_of(4, false, 237), want);
}

TEST(EmulatedKernels, EmptyPlacesOfABatchAreZeros) {
  const Model model = model_of(DType::kBF16, 4, 2, 64);
  const AttentionShape& s = model.shape;
  Stream stream;
  for (const int new_tokens : {1, 20}) {
    const std::vector<int32_t> query_start{0, new_tokens}, kv_length{0}, tables{-1};
    Buffer keys(s.dtype, {1, 2, 16, 64}), qkv(s.dtype, {1, 1, new_tokens, 512}), out(s.dtype, {1, 1, new_tokens, 256});
    poison(keys.view(), stream), poison(qkv.view(), stream);
    std::vector<Runner> runs{flash_on<BF16, 64>(), plain<BF16, BF16>()};
    if (new_tokens == 1) runs.push_back(direct<BF16, 64>());
    for (const Runner& run : runs) {
      poison(out.view(), stream);
      run_on_host(run, s, {query_start, kv_length}, tables, 1, qkv.view(), {keys.view(), keys.view()}, out.view(),
                  stream);
      for (const float value : download(out.view(), stream)) ASSERT_EQ(value, 0);
    }
  }
}

TEST(EmulatedKernels, PagesAreListedWithoutGaps) {
  std::vector<int32_t> lengths, tables, starts(71, -1), last(70, -1), want_pages, want_starts{0};
  for (int32_t i = 0; i < 70; ++i) {
    lengths.push_back(static_cast<int32_t>(random_bits(1, static_cast<uint64_t>(i)) % 65));
    for (int32_t block = 0; block < 5; ++block) tables.push_back(100 * i + block);
    for (int32_t at = 0; at < lengths.back(); at += 16) want_pages.push_back(100 * i + at / 16);
    want_starts.push_back(static_cast<int32_t>(want_pages.size()));
  }
  std::vector<int32_t> pages(want_pages.size(), -1);
  const PageLists lists{lengths.data(), tables.data(), 70, 5, 16, starts.data(), pages.data(), last.data()};
  emulate({70, 1, 1, 32}, [&] { list_pages_kernel(lists); });
  EXPECT_EQ(pages, want_pages);
  EXPECT_EQ(starts, want_starts);
  for (size_t i = 0; i < 70; ++i) {
    if (lengths[i] == 0) continue;  // no page, no last one
    EXPECT_EQ(last[i], (lengths[i] - 1) % 16 + 1);
  }
}

}  // namespace
}  // namespace lane::testing
