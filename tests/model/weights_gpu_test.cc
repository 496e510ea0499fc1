// What is loaded on a GPU is what is loaded on the CPU.
#include <gtest/gtest.h>

#include "lane/base/error.h"
#include "lane/model/weights.h"
#include "tests/model/small_models.h"

namespace lane {
namespace {

using test::checkpoint_of;
using test::safetensors_file;
using test::small_config;
using test::TempFolder;

constexpr Device kGpu{.kind = DeviceKind::kCuda, .index = 0};

float as_float(const std::vector<char>& bytes, DType type, int64_t i) {
  if (type == DType::kF32) return reinterpret_cast<const float*>(bytes.data())[i];
  const uint16_t half = reinterpret_cast<const uint16_t*>(bytes.data())[i];
  return type == DType::kBF16 ? float_from_bf16(half) : float_from_f16(half);
}

std::vector<float> to_host(TensorView view, Stream& stream) {
  std::vector<char> bytes(static_cast<size_t>(view.bytes()));
  if (view.count() > 0) copy_to_host(view, bytes.data(), stream);
  std::vector<float> values;
  for (int64_t i = 0; i < view.count(); ++i) values.push_back(as_float(bytes, view.dtype, i));
  return values;
}

void expect_matrix(kernels::PackedMatrix& gpu, const kernels::PackedMatrix& cpu, Stream& on_gpu, Stream& on_cpu,
                   const char* name) {
  ASSERT_EQ(gpu.n(), cpu.n()) << name;
  if (cpu.n() == 0) return;
  std::vector<int32_t> ids(static_cast<size_t>(cpu.n()));
  std::iota(ids.begin(), ids.end(), 0);
  const Buffer rows(DType::kF32, {1, 1, cpu.n(), cpu.k()});
  kernels::embedding(cpu, view_of(ids), 0, rows.view(), on_cpu);
  const auto* expected = rows.view().as<float>();
  EXPECT_EQ(to_host(gpu.device_rows(0, gpu.n()), on_gpu), std::vector<float>(expected, expected + rows.view().count()))
      << name;
}

// Norms and biases are float32 on the CPU and of the weights' type on a GPU.
void expect_vector(const Buffer& gpu, const Buffer& cpu, DType type, Stream& on_gpu, const char* name) {
  std::vector<float> expected;
  for (int64_t i = 0; cpu.bytes() > 0 && i < cpu.view().count(); ++i) {
    const float value = cpu.view().as<float>()[i];
    expected.push_back(type == DType::kF32    ? value
                       : type == DType::kBF16 ? float_from_bf16(bf16_from_float(value))
                                              : float_from_f16(f16_from_float(value)));
  }
  EXPECT_EQ(gpu.bytes() > 0 ? to_host(gpu.view(), on_gpu) : std::vector<float>(), expected) << name;
}

void expect_same(Weights& gpu, const Weights& cpu, DType type, Stream& on_gpu, Stream& on_cpu) {
  expect_matrix(gpu.embedding, cpu.embedding, on_gpu, on_cpu, "embedding");
  expect_matrix(gpu.lm_head, cpu.lm_head, on_gpu, on_cpu, "lm_head");
  expect_vector(gpu.final_norm, cpu.final_norm, type, on_gpu, "final_norm");
  ASSERT_EQ(gpu.layers.size(), cpu.layers.size());
  for (size_t i = 0; i < gpu.layers.size(); ++i) {
    LayerWeights& a = gpu.layers[i];
    const LayerWeights& b = cpu.layers[i];
    for (const auto& [name, matrix] : {std::pair{"qkv", &LayerWeights::qkv},
                                       {"out", &LayerWeights::out},
                                       {"gate_up", &LayerWeights::gate_up},
                                       {"down", &LayerWeights::down}})
      expect_matrix(a.*matrix, b.*matrix, on_gpu, on_cpu, name);
    for (const auto& [name, vector] : {std::pair{"attention_norm", &LayerWeights::attention_norm},
                                       {"mlp_norm", &LayerWeights::mlp_norm},
                                       {"qkv_bias", &LayerWeights::qkv_bias},
                                       {"q_norm", &LayerWeights::q_norm},
                                       {"k_norm", &LayerWeights::k_norm},
                                       {"out_bias", &LayerWeights::out_bias},
                                       {"gate_up_bias", &LayerWeights::gate_up_bias},
                                       {"down_bias", &LayerWeights::down_bias}})
      expect_vector(a.*vector, b.*vector, type, on_gpu, name);
  }
}

void compare(const std::string& folder, const ModelConfig& config, int tensor, int rank, const LoadOptions& options) {
  Stream on_gpu(kGpu, 3), on_cpu({}, 3);
  LoadReport report_gpu, report_cpu;
  Weights gpu = load_weights(folder, config, {.tensor = tensor}, rank, options, on_gpu, &report_gpu);
  const Weights cpu = load_weights(folder, config, {.tensor = tensor}, rank, options, on_cpu, &report_cpu);
  SCOPED_TRACE(config.model_type + " in " + std::string(name_of(options.dtype)) + " rank " + std::to_string(rank) +
               " of " + std::to_string(tensor));
  expect_same(gpu, cpu, options.dtype, on_gpu, on_cpu);
  EXPECT_EQ(report_gpu.bytes_read, report_cpu.bytes_read);
  EXPECT_EQ(report_gpu.bytes_share, report_cpu.bytes_share);
  EXPECT_EQ(gpu.bytes(), weight_bytes(config, {.tensor = tensor}, rank, options.dtype, kGpu));
}

TEST(WeightsGpu, FilesOfEveryTypeArriveAsOnTheCpu) {
  for (const char* type : {"llama", "qwen2", "qwen3", "phi3"})
    for (const DType stored : {DType::kF32, DType::kBF16, DType::kF16}) {
      const ModelConfig config = small_config(type);
      const TempFolder folder;
      folder.write("model.safetensors", safetensors_file(checkpoint_of(config, stored)));
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
        for (const int rank : {0, 1}) compare(folder.path(), config, 2, rank, {.dtype = dtype});
    }
}

// Several pieces a thread, so that page-locked memory is used again.
TEST(WeightsGpu, LargeMatricesArriveInPieces) {
  const ModelConfig config = parse_model_config(
      R"({"model_type": "llama", "vocab_size": 9000, "hidden_size": 1200, "intermediate_size": 2500,
          "num_hidden_layers": 1, "head_dim": 50, "num_attention_heads": 60, "num_key_value_heads": 20})",
      "config.json");
  const TempFolder folder;
  folder.write("model.safetensors", safetensors_file(checkpoint_of(config, DType::kBF16)));
  compare(folder.path(), config, 1, 0, {.dtype = DType::kBF16});
  compare(folder.path(), config, 2, 1, {.dtype = DType::kF32});
}

TEST(WeightsGpu, RandomOnesAreTheCpus) {
  for (const char* type : {"llama", "qwen3", "phi3"})
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
      for (const int rank : {0, 3})
        compare("/nonexistent", small_config(type), 4, rank, {.dtype = dtype, .dummy = true, .dummy_seed = 11});
}

TEST(WeightsGpu, WhatEndsLoadingLeavesTheGpuUsable) {
  const ModelConfig config = small_config("llama");
  const TempFolder folder;
  folder.write("model.safetensors", safetensors_file(checkpoint_of(config, DType::kBF16)));
  Stream stream(kGpu, 2);
  const LoadOptions cut_while_loading{.progress = [&](int64_t, int64_t) {
    throw Error(ErrorCode::kCancelled, "enough");  // with copies under way
  }};
  EXPECT_THROW(load_weights(folder.path(), config, {.tensor = 1}, 0, cut_while_loading, stream, nullptr), Error);
  EXPECT_NO_THROW(load_weights(folder.path(), config, {.tensor = 1}, 0, {}, stream, nullptr));
}

}  // namespace
}  // namespace lane
