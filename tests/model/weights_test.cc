#include "lane/model/weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "lane/base/error.h"
#include "lane/base/random.h"
#include "tests/model/checkpoint_writer.h"
#include "tests/model/small_models.h"

namespace lane {
namespace {

using test::checkpoint_of;
using test::safetensors_file;
using test::small_config;
using test::TempFolder;
using test::TestTensor;
using test::value_at;

std::vector<float> floats_of(const Buffer& buffer) {
  if (buffer.bytes() == 0) return {};
  const auto* values = buffer.view().as<float>();
  return {values, values + buffer.view().count()};
}

// The rows of a packed matrix, unpacked.
std::vector<std::vector<float>> rows_of(const kernels::PackedMatrix& matrix, Stream& stream) {
  std::vector<int32_t> ids(static_cast<size_t>(matrix.n()));
  std::iota(ids.begin(), ids.end(), 0);
  const Buffer out(DType::kF32, {1, 1, matrix.n(), matrix.k()});
  kernels::embedding(matrix, view_of(ids), 0, out.view(), stream);
  const auto* values = out.view().as<float>();
  std::vector<std::vector<float>> rows;
  for (int64_t row = 0; row < matrix.n(); ++row)
    rows.emplace_back(values + row * matrix.k(), values + (row + 1) * matrix.k());
  return rows;
}

// Row `row`, columns `cols` of a tensor of `width` columns.
std::vector<float> expected_row(const std::string& name, int64_t row, int64_t width, plan::Range cols) {
  std::vector<float> values;
  for (int64_t col = cols.begin; col < cols.end; ++col) values.push_back(value_at(name, row * width + col));
  return values;
}

struct Part {  // rows of a projection, perhaps inside a fused tensor
  std::string tensor;
  int64_t first_row;
  plan::Range rows;
};

void expect_matrix(const kernels::PackedMatrix& matrix, const std::vector<Part>& parts, int64_t width, plan::Range cols,
                   Stream& stream) {
  const auto rows = rows_of(matrix, stream);
  size_t at = 0;
  for (const Part& part : parts)
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row, ++at) {
      ASSERT_LT(at, rows.size());
      EXPECT_EQ(rows[at], expected_row(part.tensor, part.first_row + row, width, cols))
          << part.tensor << " row " << row;
    }
  EXPECT_EQ(at, rows.size());
}

void expect_vector(const Buffer& buffer, bool present, const std::vector<std::pair<std::string, plan::Range>>& parts) {
  std::vector<float> expected;
  if (present)
    for (const auto& [name, range] : parts)
      for (int64_t i = range.begin; i < range.end; ++i) expected.push_back(value_at(name, i));
  EXPECT_EQ(floats_of(buffer), expected) << parts.front().first;
}

// Every element of one rank against the definition of what that rank holds.
void expect_weights(const Weights& weights, const ModelConfig& config, int tensor, int rank, const std::string& prefix,
                    Stream& stream) {
  const auto& s = config.shape;
  const auto mine = plan::slices_of({.tensor = tensor}, s, rank);
  const int64_t d = s.head_dim, hidden = s.hidden_size, inner = s.intermediate_size, q_all = s.num_heads * d,
                kv_all = s.num_kv_heads * d;
  const plan::Range q{mine.heads.begin * d, mine.heads.end * d}, kv{mine.kv_heads.begin * d, mine.kv_heads.end * d};
  const plan::Range ff = mine.intermediate, all{0, hidden};
  expect_matrix(weights.embedding, {{prefix + "embed_tokens.weight", 0, mine.vocab}}, hidden, all, stream);
  if (config.tie_word_embeddings)
    EXPECT_EQ(weights.lm_head.n(), 0);
  else
    expect_matrix(weights.lm_head, {{"lm_head.weight", 0, mine.vocab}}, hidden, all, stream);
  expect_vector(weights.final_norm, true, {{prefix + "norm.weight", all}});
  ASSERT_EQ(weights.layers.size(), static_cast<size_t>(s.num_layers));
  for (int i = 0; i < s.num_layers; ++i) {
    const LayerWeights& layer = weights.layers[static_cast<size_t>(i)];
    const std::string base = prefix + "layers." + std::to_string(i) + ".", attn = base + "self_attn.",
                      mlp = base + "mlp.";
    if (config.fused_qkv) {
      const std::string qkv = attn + "qkv_proj.weight", gate_up = mlp + "gate_up_proj.weight";
      expect_matrix(layer.qkv, {{qkv, 0, q}, {qkv, q_all, kv}, {qkv, q_all + kv_all, kv}}, hidden, all, stream);
      expect_matrix(layer.gate_up, {{gate_up, 0, ff}, {gate_up, inner, ff}}, hidden, all, stream);
    } else {
      expect_matrix(layer.qkv,
                    {{attn + "q_proj.weight", 0, q}, {attn + "k_proj.weight", 0, kv}, {attn + "v_proj.weight", 0, kv}},
                    hidden, all, stream);
      expect_matrix(layer.gate_up, {{mlp + "gate_proj.weight", 0, ff}, {mlp + "up_proj.weight", 0, ff}}, hidden, all,
                    stream);
    }
    expect_matrix(layer.out, {{attn + "o_proj.weight", 0, all}}, q_all, q, stream);
    expect_matrix(layer.down, {{mlp + "down_proj.weight", 0, all}}, inner, ff, stream);
    expect_vector(layer.attention_norm, true, {{base + "input_layernorm.weight", all}});
    expect_vector(layer.mlp_norm, true, {{base + "post_attention_layernorm.weight", all}});
    expect_vector(layer.q_norm, config.qk_norm, {{attn + "q_norm.weight", {0, d}}});
    expect_vector(layer.k_norm, config.qk_norm, {{attn + "k_norm.weight", {0, d}}});
    expect_vector(layer.qkv_bias, config.qkv_bias,
                  {{attn + "q_proj.bias", q}, {attn + "k_proj.bias", kv}, {attn + "v_proj.bias", kv}});
    expect_vector(layer.out_bias, config.out_bias && rank == 0, {{attn + "o_proj.bias", all}});
    expect_vector(layer.gate_up_bias, config.mlp_bias, {{mlp + "gate_proj.bias", ff}, {mlp + "up_proj.bias", ff}});
    expect_vector(layer.down_bias, config.mlp_bias && rank == 0, {{mlp + "down_proj.bias", all}});
  }
}

TEST(Weights, EveryRankOfEveryFamilyHoldsItsSlices) {
  Stream stream({}, 3);
  for (const char* type : {"llama", "mistral", "qwen2", "qwen3", "phi3"})
    for (const DType stored : {DType::kF32, DType::kBF16, DType::kF16}) {
      const ModelConfig config = small_config(type);
      const TempFolder folder;
      const std::vector<TestTensor> tensors = checkpoint_of(config, stored);
      folder.write("model.safetensors", safetensors_file(tensors));
      for (const int tensor : {1, 2, 4, 8}) {
        int64_t read = 0, in_file = 0;
        for (int rank = 0; rank < tensor; ++rank) {
          SCOPED_TRACE(std::string(type) + " rank " + std::to_string(rank) + " of " + std::to_string(tensor));
          LoadReport report;
          const Weights weights = load_weights(folder.path(), config, {.tensor = tensor}, rank,
                                               {.dtype = rank % 2 ? DType::kBF16 : DType::kF32}, stream, &report);
          expect_weights(weights, config, tensor, rank, "model.", stream);
          EXPECT_LE(report.bytes_read, 1.05 * report.bytes_share);
          EXPECT_GE(weights.bytes(), report.bytes_share / 2);
          read += report.bytes_read;
        }
        // Over all ranks: every tensor once, but norms (and k, v of shared heads) by each rank that needs them.
        const int copies = std::max(1, tensor / config.shape.num_kv_heads);
        for (const TestTensor& t : tensors) {
          const bool is_kv = t.name.find(".k_proj") != std::string::npos || t.name.find(".v_proj") != std::string::npos;
          int64_t times = t.name.ends_with("norm.weight") ? tensor : is_kv ? copies : 1;
          if (t.name.ends_with("inv_freq")) times = 0;
          in_file += times * static_cast<int64_t>(t.bytes.size());
          if (t.name.ends_with("qkv_proj.weight"))
            in_file += (copies - 1) * 2 * config.shape.num_kv_heads * config.shape.head_dim * config.shape.hidden_size *
                       size_of(stored);
        }
        EXPECT_EQ(read, in_file) << type << " over " << tensor;
      }
    }
}

// Larger than one piece, so that pieces cut through the parts of a matrix.
TEST(Weights, LargeMatricesAreReadInPieces) {
  Stream stream({}, 4);
  const ModelConfig config = parse_model_config(
      R"({"model_type": "llama", "vocab_size": 1800, "hidden_size": 600, "intermediate_size": 2500,
          "num_hidden_layers": 1, "head_dim": 50, "num_attention_heads": 60, "num_key_value_heads": 20})",
      "config.json");
  const TempFolder folder;
  folder.write("model.safetensors", safetensors_file(checkpoint_of(config, DType::kBF16)));
  for (const int tensor : {1, 2}) {
    std::vector<int64_t> seen;
    int64_t total = 0;
    const auto here = std::this_thread::get_id();
    LoadReport report;
    const Weights weights = load_weights(folder.path(), config, {.tensor = tensor}, tensor - 1,
                                         {.dtype = DType::kBF16,
                                          .progress =
                                              [&](int64_t done, int64_t of) {
                                                EXPECT_EQ(std::this_thread::get_id(), here);
                                                seen.push_back(done), total = of;
                                              }},
                                         stream, &report);
    expect_weights(weights, config, tensor, tensor - 1, "model.", stream);
    EXPECT_EQ(report.bytes_read, report.bytes_share);
    EXPECT_EQ(total, report.bytes_share);
    ASSERT_FALSE(seen.empty());
    EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
    EXPECT_EQ(seen.back(), total);
  }
}

TEST(Weights, ShardsAndTheBareDecoderAreRead) {
  Stream stream;
  const ModelConfig config = small_config("qwen3");
  const TempFolder folder;
  const std::vector<TestTensor> tensors = checkpoint_of(config, DType::kF32, "");
  std::vector<std::vector<TestTensor>> shards(3);
  std::string map;
  for (size_t i = 0; i < tensors.size(); ++i) {
    shards[i % 3].push_back(tensors[i]);
    map += (i ? ",\"" : "\"") + tensors[i].name + "\":\"model-" + std::to_string(i % 3) + ".safetensors\"";
  }
  for (size_t i = 0; i < 3; ++i)
    folder.write("model-" + std::to_string(i) + ".safetensors", safetensors_file(shards[i]));
  folder.write("model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
  for (int rank = 0; rank < 2; ++rank)
    expect_weights(load_weights(folder.path(), config, {.tensor = 2}, rank, {.dtype = DType::kF16}, stream, nullptr),
                   config, 2, rank, "", stream);
}

TEST(Weights, WhatDoesNotFitIsNamed) {
  Stream stream({}, 2);
  const ModelConfig config = small_config("llama");
  struct Case {
    const char* tensor;
    std::function<void(std::vector<TestTensor>&, size_t)> change;
    ErrorCode code;
    const char* part;
  };
  const auto erase = [](std::vector<TestTensor>& tensors, size_t i) {
    tensors.erase(tensors.begin() + static_cast<int64_t>(i));
  };
  const std::vector<Case> cases = {
      {"lm_head.weight", erase, ErrorCode::kCorruptData, "model.safetensors: tensor \"lm_head.weight\" is missing"},
      {"model.layers.1.mlp.up_proj.weight", erase, ErrorCode::kCorruptData, "layers.1.mlp.up_proj.weight\" is missing"},
      {"model.layers.0.self_attn.k_proj.weight",
       [](auto& tensors, size_t i) {
         tensors[i].shape = {40, 12};
       },
       ErrorCode::kCorruptData,
       "tensor \"model.layers.0.self_attn.k_proj.weight\" has shape [40, 12]; config.json says [12, 40]"},
      {"model.norm.weight",
       [](auto& tensors, size_t i) {
         tensors[i].shape = {1, 40};
       },
       ErrorCode::kCorruptData, "has shape [1, 40]; config.json says [40]"},
      {"model.layers.0.self_attn.q_proj.weight", [](auto& tensors, size_t i) { tensors[i].dtype = "I32"; },
       ErrorCode::kUnsupported, "is of dtype I32; weights of F32, BF16 and F16 are implemented"},
      {"model.layers.0.self_attn.q_proj.weight",
       [](auto& tensors, size_t i) {
         tensors[i].dtype = "F8_E4M3", tensors[i].bytes.resize(tensors[i].bytes.size() / 4);
       },
       ErrorCode::kUnsupported, "is of dtype F8_E4M3"},
  };
  for (const Case& c : cases) {
    std::vector<TestTensor> tensors = checkpoint_of(config, DType::kF32);
    const auto at = std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == c.tensor; });
    ASSERT_NE(at, tensors.end());
    c.change(tensors, static_cast<size_t>(at - tensors.begin()));
    const TempFolder folder;
    folder.write("model.safetensors", safetensors_file(tensors));
    try {
      load_weights(folder.path(), config, {.tensor = 1}, 0, {}, stream, nullptr);
      ADD_FAILURE() << c.part;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), c.code);
      EXPECT_NE(std::string(error.what()).find(c.part), std::string::npos) << error.what();
    }
  }
}

Weights dummy(const ModelConfig& config, int tensor, int rank, uint64_t seed, Stream& stream) {
  return load_weights("/nonexistent", config, {.tensor = tensor}, rank,
                      {.dtype = DType::kF32, .dummy = true, .dummy_seed = seed}, stream, nullptr);
}

TEST(DummyWeights, AreOneModelForAnyNumberOfRanks) {
  Stream stream({}, 2);
  for (const char* type : {"llama", "phi3"}) {
    const ModelConfig config = small_config(type);
    const auto& s = config.shape;
    const Weights whole = dummy(config, 1, 0, 5, stream);
    const auto qkv = rows_of(whole.layers[1].qkv, stream), gate_up = rows_of(whole.layers[1].gate_up, stream),
               out = rows_of(whole.layers[1].out, stream), down = rows_of(whole.layers[1].down, stream),
               embedding = rows_of(whole.embedding, stream);
    for (const int tensor : {2, 4, 8})
      for (int rank = 0; rank < tensor; ++rank) {
        const auto mine = plan::slices_of({.tensor = tensor}, s, rank);
        const Weights part = dummy(config, tensor, rank, 5, stream);
        const int64_t d = s.head_dim, ff = mine.intermediate.size();
        size_t at = 0;
        const auto part_qkv = rows_of(part.layers[1].qkv, stream);
        const auto take = [&](int64_t first, plan::Range heads) {
          for (int64_t row = heads.begin * d; row < heads.end * d; ++row)
            EXPECT_EQ(part_qkv[at++], qkv[static_cast<size_t>(first + row)]);
        };
        take(0, mine.heads);
        take(s.num_heads * d, mine.kv_heads);
        take((s.num_heads + s.num_kv_heads) * d, mine.kv_heads);
        const auto part_gate_up = rows_of(part.layers[1].gate_up, stream);
        for (int64_t row = 0; row < ff; ++row) {
          EXPECT_EQ(part_gate_up[static_cast<size_t>(row)],
                    gate_up[static_cast<size_t>(mine.intermediate.begin + row)]);
          EXPECT_EQ(part_gate_up[static_cast<size_t>(ff + row)],
                    gate_up[static_cast<size_t>(s.intermediate_size + mine.intermediate.begin + row)]);
        }
        const auto part_out = rows_of(part.layers[1].out, stream), part_down = rows_of(part.layers[1].down, stream);
        const auto part_embedding = rows_of(part.embedding, stream);
        for (size_t row = 0; row < out.size(); ++row) {
          const auto &o = out[row], &w = down[row];
          EXPECT_EQ(part_out[row],
                    std::vector<float>(o.begin() + mine.heads.begin * d, o.begin() + mine.heads.end * d));
          EXPECT_EQ(part_down[row],
                    std::vector<float>(w.begin() + mine.intermediate.begin, w.begin() + mine.intermediate.end));
        }
        for (int64_t row = mine.vocab.begin; row < mine.vocab.end; ++row)
          EXPECT_EQ(part_embedding[static_cast<size_t>(row - mine.vocab.begin)], embedding[static_cast<size_t>(row)]);
      }
  }
}

TEST(DummyWeights, HaveTheSpreadOfFreshOnes) {
  Stream stream({}, 2);
  const ModelConfig config = parse_model_config(
      R"({"model_type": "llama", "vocab_size": 1000, "hidden_size": 256, "intermediate_size": 512,
          "num_hidden_layers": 2, "num_attention_heads": 4})",
      "config.json");
  const Weights weights = dummy(config, 1, 0, 1, stream), same = dummy(config, 1, 0, 1, stream),
                other = dummy(config, 1, 0, 2, stream);
  const auto rows = rows_of(weights.layers[0].gate_up, stream);
  EXPECT_EQ(rows, rows_of(same.layers[0].gate_up, stream));
  EXPECT_NE(rows, rows_of(other.layers[0].gate_up, stream));
  EXPECT_NE(rows, rows_of(weights.layers[1].gate_up, stream));
  EXPECT_EQ(floats_of(weights.final_norm), std::vector<float>(256, 1.0f));
  EXPECT_EQ(floats_of(weights.layers[1].mlp_norm), std::vector<float>(256, 1.0f));
  double sum = 0, square = 0, largest = 0, neighbours = 0, count = 0;
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) {
      sum += row[i], square += row[i] * row[i], largest = std::max(largest, std::abs(double{row[i]})), ++count;
      if (i > 0) neighbours += row[i] * row[i - 1];
    }
  const double deviation = std::sqrt(square / count);
  EXPECT_NEAR(deviation, 0.02, 1e-4);
  EXPECT_LT(std::abs(sum / count), 5 * 0.02 / std::sqrt(count));
  EXPECT_LT(std::abs(neighbours / count), 5 * 0.02 * 0.02 / std::sqrt(count));
  EXPECT_LE(largest, 0.02 * std::sqrt(3.0) * 1.0001);
}

// Real folders of Hugging Face, where the tree has them.
TEST(Weights, FixturesLoadOverEveryLegalNumberOfRanks) {
  const std::filesystem::path folder = std::filesystem::path(LANE_SOURCE_DIR) / "tests/fixtures/models";
  int num_models = 0;
  Stream stream({}, 2);
  if (std::filesystem::is_directory(folder))
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const std::string path = entry.path().string();
      if (!std::filesystem::exists(entry.path() / "config.json")) continue;
      SCOPED_TRACE(path);
      ++num_models;
      const ModelConfig config = load_model_config(path);
      EXPECT_NO_THROW(load_generation_defaults(path));
      for (const int tensor : {1, 2, 4, 8}) {
        try {
          plan::check({.tensor = tensor}, config.shape);
        } catch (const Error&) {
          continue;
        }
        for (int rank = 0; rank < tensor; ++rank) {
          LoadReport report;
          const Weights weights =
              load_weights(path, config, {.tensor = tensor}, rank, {.dtype = DType::kF32}, stream, &report);
          EXPECT_LE(report.bytes_read, 1.05 * report.bytes_share);
          for (const float gain : floats_of(weights.final_norm)) EXPECT_TRUE(std::isfinite(gain));
        }
      }
    }
  if (num_models == 0) GTEST_SKIP() << "no fixtures under " << folder;
}

}  // namespace
}  // namespace lane
