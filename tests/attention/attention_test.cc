#include "lane/attention/attention.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "lane/attention/cpu/backends.h"
#include "tests/attention/attention_rig.h"

namespace lane::testing {
namespace {

std::vector<NamedRunner> all_runners() {
  std::vector<NamedRunner> runners = flash_runners();
  for (const AttentionBackend* backend : attention_backends())
    runners.push_back({std::string(backend->name()), runner_of(*backend)});
  return runners;
}

void sweep(const Model& model, const std::vector<int64_t>& lengths, int64_t chunk) {
  Stream stream({}, 2);
  for (const NamedRunner& runner : all_runners()) {
    if (model.shape.head_dim % 8 != 0 && runner.name != "reference") continue;
    Rig rig(model, lengths);
    rig.run_all(runner.run, chunk, stream);
    const AttentionShape& s = model.shape;
    expect_close(
        model, rig,
        fmt::format("{}: heads {}/{} x {}, block {}, window {}, cap {}, {}", runner.name, s.num_heads, s.num_kv_heads,
                    s.head_dim, s.block_tokens, model.window, s.soft_cap, name_of(model.dtype)));
  }
}

TEST(Attention, HeadDims) {
  for (const int head_dim : {8, 16, 24, 64, 72, 80, 96, 128, 256})
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
      sweep({shape_of(2, 1, head_dim), dtype}, {1, 17, 75}, 40);
}

TEST(Attention, OddHeadDimsOnTheReference) {
  for (const int head_dim : {1, 7, 20}) sweep({shape_of(2, 2, head_dim), DType::kF16}, {33}, 9);
}

TEST(Attention, SharedHeads) {
  for (const auto& [num_heads, num_kv_heads] : {std::pair{8, 8}, {8, 2}, {6, 2}, {1, 1}, {5, 1}, {7, 1}, {70, 1}})
    for (const int64_t chunk : {1, 1000}) sweep({shape_of(num_heads, num_kv_heads, 16), DType::kBF16}, {9, 66}, chunk);
}

TEST(Attention, BlockSizesAndLengths) {
  for (const int block_tokens : {1, 7, 16, 32, 128})
    sweep({shape_of(2, 2, 16, block_tokens), DType::kF32}, {1, 2, 15, 16, 17, 63, 64, 65, 127, 129, 300}, 1000);
}

TEST(Attention, LongPast) { sweep({shape_of(4, 2, 32), DType::kBF16}, {511, 513, 1100}, 400); }

TEST(Attention, Windows) {
  for (const int window : {1, 7, 16, 64, 100})
    for (const int64_t chunk : {1, 37, 1000}) sweep({shape_of(4, 2, 16), DType::kF32, window}, {1, 100, 260}, chunk);
  sweep({shape_of(2, 2, 16), DType::kF32, 600}, {1300}, 1300);
}

TEST(Attention, SoftCaps) {
  for (const float cap : {0.05f, 1.f, 20.f, 1000.f})
    for (const int window : {0, 9}) sweep({shape_of(4, 2, 32, 16, cap), DType::kBF16, window}, {3, 90}, 50);
}

TEST(Attention, PrefillAndDecodeInOneStep) {
  const Model model{shape_of(4, 2, 24), DType::kF16, 0};
  Stream stream({}, 3);
  for (const NamedRunner& runner : all_runners()) {
    Rig rig(model, {80, 41, 20, 200});
    rig.step(runner.run, {{0, 0, 79}, {3, 0, 50}}, stream);
    rig.step(runner.run, {{0, 79, 1}, {1, 0, 40}, {3, 50, 149}}, stream);
    rig.step(runner.run, {{3, 199, 1}, {1, 40, 1}, {2, 0, 20}}, stream);
    expect_close(model, rig, runner.name);
  }
}

TEST(Attention, NoTokens) {
  Stream stream;
  for (const NamedRunner& runner : all_runners()) {
    const std::vector<int32_t> query_start{0, 0}, kv_length{0}, tables{-1};
    const Model model{shape_of(2, 2, 8), DType::kF32};
    const Rig rig(model, {16});
    Buffer qkv(DType::kF32, {1, 1, 1, 48}), out(DType::kF32, {1, 1, 1, 16});
    run_on_host(runner.run, model.shape, {query_start, kv_length}, tables, 1, qkv.view(), {rig.keys(), rig.values()},
                out.view(), stream);
    const std::vector<int32_t> nobody{0};
    run_on_host(runner.run, model.shape, {nobody, {}}, {}, 0, qkv.view(), {rig.keys(), rig.values()}, out.view(),
                stream);
  }
}

// Two keys whose scores are x apart: the lower one has the weight 1 / (1 + e^x). Rounding the score itself costs |x|
// eps.
TEST(Attention, WeightsAreAccurate) {
  const AttentionShape shape{.num_heads = 1, .num_kv_heads = 1, .head_dim = 8, .block_tokens = 2, .scale = 1};
  Stream stream;
  for (const NamedRunner& runner : all_runners())
    for (double x = 0; x < 86; x += 0.0917) {
      Buffer keys(DType::kF32, {1, 1, 2, 8}), values(DType::kF32, {1, 1, 2, 8});
      Buffer qkv(DType::kF32, {1, 1, 2, 24}), out(DType::kF32, {1, 1, 2, 8});
      auto* row = qkv.view().as<float>() + 24;
      row[0] = static_cast<float>(x), row[8] = 1, row[-8] = 1;  // query, its own key, the value of the other
      const std::vector<int32_t> query_start{0, 2}, kv_length{2}, tables{0};
      run_on_host(runner.run, shape, {query_start, kv_length}, tables, 1, qkv.view(), {keys.view(), values.view()},
                  out.view(), stream);
      const double want = 1 / (1 + std::exp(static_cast<double>(row[0])));
      EXPECT_NEAR(out.view().as<float>()[8] / want, 1, (6 + 2 * x) * 0x1p-24) << runner.name << " at " << x;
    }
}

TEST(Attention, WritesTheCacheAndNothingElse) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    for (const NamedRunner& runner : all_runners()) {
      const Model model{shape_of(4, 2, 16), dtype};
      Stream stream({}, 2);
      Rig rig(model, {150, 20});
      rig.run_all(runner.run, 100, stream);
      int64_t num_written = 0;
      for (size_t sequence = 0; sequence < 2; ++sequence)
        for (int64_t at = 0; at < static_cast<int64_t>(rig.results()[sequence].size()); ++at)
          for (int head = 0; head < 2; ++head)
            for (int64_t i = 0; i < 16; ++i, ++num_written) {
              const int64_t block = rig.tables()[sequence][static_cast<size_t>(at / 16)];
              const int64_t index = ((block * 2 + head) * 16 + at % 16) * 16 + i;
              for (const auto& [tensor, column] : {std::pair{rig.keys(), 64}, {rig.values(), 96}}) {
                const float want = rounded(input(sequence, at, column + head * 16 + i), dtype);
                const float got = dtype == DType::kF32    ? tensor.as<float>()[index]
                                  : dtype == DType::kBF16 ? float_from_bf16(tensor.as<uint16_t>()[index])
                                                          : float_from_f16(tensor.as<uint16_t>()[index]);
                ASSERT_EQ(got, want) << runner.name;
              }
            }
      int64_t num_poisoned = 0;
      const auto* bytes = static_cast<const unsigned char*>(rig.keys().data);
      const int64_t size = size_of(dtype);
      for (int64_t i = 0; i < rig.keys().count(); ++i)
        num_poisoned +=
            std::all_of(bytes + i * size, bytes + (i + 1) * size, [](unsigned char b) { return b == 0xff; });
      EXPECT_EQ(num_written + num_poisoned, rig.keys().count()) << runner.name;
    }
}

// Rounding to the cache is bf16_from_float()'s and f16_from_float()'s, in every instruction set.
TEST(Attention, NarrowsAsTheScalarFunctions) {
  std::vector<float> values;
  for (uint64_t i = 0; i < 1 << 16; ++i) {
    const auto value = std::bit_cast<float>(static_cast<uint32_t>(random_bits(5, i)));
    values.push_back(std::isnan(value) ? 0 : value);
    values.push_back(float_from_f16(static_cast<uint16_t>(i)) * 1.00048828125f);  // ties and near ties
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(i << 16 | 0x8000)));
  }
  for (float& value : values)
    if (std::isnan(value)) value = -0.f;
  for (const std::string_view isa : {"baseline", "avx2", "avx512"}) {
    const flash::Loops& loops = flash::loops_for(isa);
    if (flash_runners().size() < (isa == "baseline" ? 1u : isa == "avx2" ? 2u : 3u)) continue;
    std::vector<uint16_t> bf16(values.size()), f16(values.size());
    loops.narrow(values.data(), static_cast<int64_t>(values.size()), DType::kBF16, bf16.data());
    loops.narrow(values.data(), static_cast<int64_t>(values.size()), DType::kF16, f16.data());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(bf16[i], bf16_from_float(values[i])) << isa << " " << values[i];
      ASSERT_EQ(f16[i], f16_from_float(values[i])) << isa << " " << values[i];
    }
  }
}

TEST(ChooseAttention, FastestThatFits) {
  const AttentionChoice choice = choose_attention(shape_of(8, 2, 64), DType::kBF16, {}, "auto");
  EXPECT_EQ(choice.backend->name(), "flash");
  EXPECT_EQ(choice.passed_over, "");
  EXPECT_EQ(choose_attention(shape_of(8, 2, 64), DType::kBF16, {}, "").backend->name(), "flash");
}

TEST(ChooseAttention, SaysWhoWasPassedOver) {
  const AttentionChoice choice = choose_attention(shape_of(8, 2, 20), DType::kBF16, {}, "");
  EXPECT_EQ(choice.backend->name(), "reference");
  EXPECT_EQ(choice.passed_over, "flash: head_dim 20 is not a multiple of 8; ");
}

std::string refusal(const AttentionShape& shape, DType dtype, Device device, std::string_view forced) {
  try {
    choose_attention(shape, dtype, device, forced);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    return error.what();
  }
  return "no error";
}

TEST(ChooseAttention, Forced) {
  EXPECT_EQ(choose_attention(shape_of(8, 2, 64), DType::kF32, {}, "reference").backend->name(), "reference");
  EXPECT_EQ(refusal(shape_of(8, 2, 64), DType::kF32, {}, "quick"),
            "no attention backend is called quick; there are flash, reference");
  EXPECT_EQ(
      refusal(shape_of(8, 2, 20), DType::kF32, {}, "flash"),
      "no attention backend fits: flash: head_dim 20 is not a multiple of 8; unset LANE_ATTENTION to choose among "
      "flash, reference");
}

TEST(ChooseAttention, NothingFits) {
  EXPECT_EQ(refusal(shape_of(6, 4, 64), DType::kF32, {}, ""),
            "no attention backend fits: flash: 6 heads cannot share 4 kv heads evenly; reference: 6 heads cannot share "
            "4 kv heads evenly; there are no others");
  EXPECT_NE(refusal(shape_of(4, 4, 64), DType::kI32, {}, "").find("a cache of int32"), std::string::npos);
  EXPECT_FALSE(flash_attention().why_not(shape_of(4, 4, 64), DType::kF32, {DeviceKind::kCuda, 0}).empty());
}

}  // namespace
}  // namespace lane::testing
