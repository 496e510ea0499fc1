// The result of a token does not depend, bit for bit, on what it is computed together with.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/attention/attention_rig.h"

namespace lane::testing {
namespace {

void expect_same_bits(const std::vector<float>& a, const std::vector<float>& b, const std::string& where) {
  ASSERT_EQ(a.size(), b.size()) << where;
  ASSERT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << where;
}

// The sequence alone, token by token, on one thread: what everything else has to equal.
std::vector<std::vector<float>> decoded_alone(const Model& model, const Runner& run, int64_t length) {
  Stream stream;
  Rig rig(model, {length});
  rig.run_all(run, 1, stream);
  return rig.results()[0];
}

const std::vector<Model> kModels = {
    {shape_of(3, 3, 64), DType::kBF16},
    {shape_of(8, 2, 32), DType::kF32},
    {shape_of(7, 1, 24), DType::kF16},
    {shape_of(4, 2, 80, 7), DType::kBF16, 100},
    {shape_of(2, 2, 136, 32, 5.f), DType::kBF16},
    {shape_of(4, 1, 8, 1, 2.f), DType::kF32, 530},
};

TEST(SameBits, AnyChunk) {
  for (const NamedRunner& runner : flash_runners())
    for (const Model& model : kModels) {
      const int64_t length = 620;  // beyond one range of positions
      const auto want = decoded_alone(model, runner.run, length);
      Stream stream({}, 2);
      for (const int64_t chunk : {3, 40, 64, 619}) {
        Rig rig(model, {length}, static_cast<uint64_t>(chunk));
        rig.run_all(runner.run, chunk, stream);
        for (size_t i = 0; i < want.size(); ++i)
          expect_same_bits(
              rig.results()[0][i], want[i],
              fmt::format("{}, head_dim {}, chunk {}, token {}", runner.name, model.shape.head_dim, chunk, i));
      }
    }
}

TEST(SameBits, AnyCompany) {
  for (const NamedRunner& runner : flash_runners())
    for (const Model& model : kModels) {
      const int64_t length = 170;
      const auto want = decoded_alone(model, runner.run, length);
      Stream stream({}, 3);
      Rig rig(model, {length, 300, 40, 1, 64});
      rig.step(runner.run, {{1, 0, 200}, {0, 0, 90}, {2, 0, 3}}, stream);
      rig.step(runner.run, {{2, 3, 1}, {0, 90, 1}, {1, 200, 1}, {4, 0, 64}}, stream);
      rig.step(runner.run, {{0, 91, 78}, {3, 0, 1}}, stream);
      rig.step(runner.run, {{1, 201, 1}, {2, 4, 1}, {0, 169, 1}}, stream);
      for (size_t i = 0; i < want.size(); ++i)
        expect_same_bits(rig.results()[0][i], want[i], fmt::format("{}, token {}", runner.name, i));
    }
}

TEST(SameBits, AnyNumberOfThreads) {
  for (const NamedRunner& runner : flash_runners())
    for (const Model& model : kModels) {
      const int64_t length = 1200;  // with one head and many threads, ranges of positions are spread over threads
      std::vector<std::vector<float>> first;
      for (const int num_threads : {1, 2, 5}) {
        Stream stream({}, num_threads);
        Rig rig(model, {length});
        rig.step(runner.run, {{0, 0, 1100}}, stream);
        rig.step(runner.run, {{0, 1100, 98}}, stream);
        for (int64_t at = 1198; at < length; ++at) rig.step(runner.run, {{0, at, 1}}, stream);
        if (first.empty()) first = rig.results()[0];
        for (size_t i = 0; i < first.size(); ++i)
          expect_same_bits(rig.results()[0][i], first[i], fmt::format("{}, token {}", runner.name, i));
      }
      // The same in one step.
      Stream stream;
      Rig rig(model, {length});
      rig.step(runner.run, {{0, 0, length}}, stream);
      for (size_t i = 0; i < first.size(); ++i)
        expect_same_bits(rig.results()[0][i], first[i], fmt::format("{} in one step, token {}", runner.name, i));
    }
}

// A later token of the same step cannot be seen, not even as 0 * infinity.
TEST(SameBits, LaterTokensMayBeInfinite) {
  for (const NamedRunner& runner : flash_runners()) {
    const Model model{shape_of(2, 1, 16), DType::kF32};
    std::vector<std::vector<float>> results;
    for (const float last : {1.f, INFINITY}) {
      Stream stream;
      const std::vector<int32_t> query_start{0, 70}, kv_length{70}, tables{4, 3, 2, 1, 0};
      Buffer keys(DType::kF32, {5, 1, 16, 16}), values(DType::kF32, {5, 1, 16, 16});
      Buffer qkv(DType::kF32, {1, 1, 70, 64}), out(DType::kF32, {1, 1, 70, 32});
      for (int64_t i = 0; i < 70 * 64; ++i) qkv.view().as<float>()[i] = input(1, i / 64, i % 64);
      for (int64_t i = 32; i < 64; ++i) qkv.view().as<float>()[69 * 64 + i] *= last;
      run_on_host(runner.run, model.shape, {query_start, kv_length}, tables, 5, qkv.view(),
                  {keys.view(), values.view()}, out.view(), stream);
      const auto* row = out.view().as<float>();
      results.emplace_back(row, row + 69 * 32);
    }
    expect_same_bits(results[0], results[1], runner.name);
  }
}

}  // namespace
}  // namespace lane::testing
