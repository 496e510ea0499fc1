// Every family against Hugging Face transformers: tests/fixtures/models/ holds tiny random models with the logits and
// greedy tokens that transformers computed in float32 (tools/fixtures/make_model_fixtures.py). Built twice: for the
// CPU, and with LANE_TEST_ON_GPU=1 for GPUs, a rank on each.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <numeric>

#include "lane/device/device_info.h"
#include "lane/model/safetensors.h"
#include "lane/runtime/session.h"
#include "tests/support/rank_group.h"

namespace lane {
namespace {

constexpr bool kOnGpu = LANE_TEST_ON_GPU;

// How far float32 logits may be off. On a GPU, products are added up in other orders.
constexpr double kFloatBound = kOnGpu ? 1e-4 : 1e-5;

Device device_of(int rank) { return kOnGpu ? Device{DeviceKind::kCuda, rank} : Device{}; }

// A list where a rank computes.
class List {
 public:
  List(std::span<const int32_t> values, Stream& stream)
      : buffer_(DType::kI32, {1, 1, 1, static_cast<int64_t>(values.size())}, stream.device()) {
    copy_to_device(values.data(), buffer_.view(), stream);
    stream.synchronize();
  }
  TensorView view() const { return buffer_.view(); }

 private:
  Buffer buffer_;
};

std::vector<float> read_floats(TensorView view, Stream& stream) {
  std::vector<uint16_t> halves(static_cast<size_t>(view.bytes() / 2));
  copy_to_host(view, halves.data(), stream);
  std::vector<float> values(static_cast<size_t>(view.count()));
  if (view.dtype == DType::kF32) std::memcpy(values.data(), halves.data(), values.size() * sizeof(float));
  for (size_t i = 0; i < values.size() && view.dtype != DType::kF32; ++i)
    values[i] = view.dtype == DType::kBF16 ? float_from_bf16(halves[i]) : float_from_f16(halves[i]);
  return values;
}

const std::string kModels = std::string(LANE_SOURCE_DIR) + "/tests/fixtures/models/";

// The reference file is a safetensors file that is not named like a checkpoint's.
class Reference {
 public:
  explicit Reference(const std::string& family)
      : file_(kModels + family + "/reference.safetensors"), entries_(read_safetensors_header(file_)) {}

  template <class T>
  std::vector<T> get(const std::string& name) const {
    const TensorEntry& entry = entries_.at(name);
    std::vector<T> values(static_cast<size_t>(entry.end - entry.begin) / sizeof(T));
    file_.read(entry.begin, values.data(), entry.end - entry.begin);
    return values;
  }

 private:
  ReadFile file_;
  std::map<std::string, TensorEntry> entries_;
};

// Logits of all positions of a prompt, [tokens, vocab], put together from the slices of `num_ranks` ranks. The prompt
// goes through the model in chunks of `chunk` tokens.
std::vector<float> prompt_logits(const std::string& family, const std::vector<int32_t>& prompt, DType dtype,
                                 int num_ranks, int64_t chunk, const std::string& backend = "auto") {
  const std::string folder = kModels + family;
  const ModelConfig config = load_model_config(folder);
  const int64_t vocab = config.shape.vocab_size, num_tokens = static_cast<int64_t>(prompt.size());
  std::vector<float> logits(static_cast<size_t>(num_tokens * vocab), std::nanf(""));
  std::mutex mutex;
  run_ranks(num_ranks, [&](Communicator& group) {
    Stream stream(device_of(group.rank()));
    const plan::ParallelPlan plan{.tensor = num_ranks};
    const plan::RankSlices slices = plan::slices_of(plan, config.shape, group.rank());
    constexpr int kBlockTokens = kOnGpu ? 16 : 4;
    KvCache cache({.num_layers = config.shape.num_layers,
                   .num_kv_heads = static_cast<int>(slices.kv_heads.size()),
                   .head_dim = config.shape.head_dim,
                   .block_tokens = kBlockTokens,
                   .dtype = dtype},
                  64, stream.device());
    const AttentionShape shape{.num_heads = static_cast<int>(slices.heads.size()),
                               .num_kv_heads = static_cast<int>(slices.kv_heads.size()),
                               .head_dim = config.shape.head_dim,
                               .block_tokens = kBlockTokens,
                               .dtype = kernels::activation_type(dtype, stream.device())};
    Model model(config, load_weights(folder, config, plan, group.rank(), {.dtype = dtype}, stream, nullptr), plan,
                *choose_attention(shape, dtype, stream.device(), backend).backend, group);
    AttentionShape heads = model.attention_shape();
    heads.block_tokens = kBlockTokens;
    const auto state = model.attention().make_state(
        heads, {.max_seqs = 1, .max_tokens = num_tokens, .max_query = num_tokens, .max_kv = 256}, dtype,
        stream.device());
    std::vector<int32_t> table(64);
    std::iota(table.rbegin(), table.rend(), 0);  // blocks in reverse: their order must not matter
    for (int64_t begin = 0; begin < num_tokens; begin += chunk) {
      const int64_t count = std::min(chunk, num_tokens - begin);
      std::vector<int32_t> positions(static_cast<size_t>(count)), rows(static_cast<size_t>(count));
      std::iota(positions.begin(), positions.end(), static_cast<int32_t>(begin));
      std::iota(rows.begin(), rows.end(), 0);
      const int32_t query_start[] = {0, static_cast<int32_t>(count)},
                    kv_length[] = {static_cast<int32_t>(begin + count)};
      const HostBatch lists{query_start, kv_length};
      const auto piece = std::span(prompt).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
      const List ids(piece, stream), places(positions, stream), starts(query_start, stream), lengths(kv_length, stream),
          blocks(table, stream), wanted(rows, stream);
      AttentionBatch batch = host_batch(lists, table, 64);
      batch.query_start = starts.view(), batch.kv_length = lengths.view(), batch.block_tables = blocks.view();
      model.attention().plan(heads, batch, lists, state.get(), stream);
      const TensorView out = model.forward({.token_ids = ids.view(),
                                            .positions = places.view(),
                                            .attention = batch,
                                            .logit_rows = wanted.view(),
                                            .attention_state = state.get()},
                                           cache.layers(), stream);
      group.wait(stream);
      const std::vector<float> values = read_floats(out, stream);
      const std::lock_guard lock(mutex);
      for (int64_t row = 0; row < count; ++row)
        std::copy_n(values.begin() + row * out.cols(), out.cols(),
                    logits.begin() + (begin + row) * vocab + slices.vocab.begin);
    }
  });
  return logits;
}

// Largest difference over the largest magnitude.
double relative_error(const std::vector<float>& got, const std::vector<float>& wanted) {
  double worst = 0, scale = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (std::isnan(got[i])) return INFINITY;
    worst = std::max(worst, std::abs(double{got[i]} - wanted[i]));
    scale = std::max(scale, std::abs(double{wanted[i]}));
  }
  return worst / scale;
}

std::vector<int> legal_ranks(const std::string& family) {
  const plan::ModelShape shape = load_model_config(kModels + family).shape;
  std::vector<int> legal;
  for (const int ranks : {1, 2, 4, 8})
    if ((!kOnGpu || ranks <= num_gpus()) && shape.num_heads % ranks == 0 &&
        (shape.num_kv_heads % ranks == 0 || ranks % shape.num_kv_heads == 0))
      legal.push_back(ranks);
  return legal;
}

class Family : public testing::TestWithParam<std::string> {};

TEST_P(Family, Float32LogitsAreThoseOfTransformers) {
  const Reference reference(GetParam());
  for (const char* suffix : {"", "_1"}) {
    const auto prompt = reference.get<int32_t>(std::string("prompt_ids") + suffix);
    const auto wanted = reference.get<float>(std::string("prompt_logits") + suffix);
    for (const int ranks : legal_ranks(GetParam()))
      EXPECT_LT(relative_error(prompt_logits(GetParam(), prompt, DType::kF32, ranks, 1000), wanted), kFloatBound)
          << ranks << " ranks";
    EXPECT_LT(relative_error(prompt_logits(GetParam(), prompt, DType::kF32, 1, 1000, "reference"), wanted),
              kFloatBound);
  }
}

// On a GPU the order of additions depends on how many tokens travel together.
TEST_P(Family, HowAPromptIsCutDoesNotChangeABit) {
  const auto prompt = Reference(GetParam()).get<int32_t>("prompt_ids");
  const int ranks = legal_ranks(GetParam()).size() > 1 ? 2 : 1;
  const auto whole = prompt_logits(GetParam(), prompt, DType::kF32, ranks, 1000);
  for (const int64_t chunk : {1, 5, 16}) {
    const auto cut = prompt_logits(GetParam(), prompt, DType::kF32, ranks, chunk);
    if (kOnGpu)
      EXPECT_LT(relative_error(cut, whole), kFloatBound) << chunk;
    else
      EXPECT_EQ(cut, whole) << chunk;
  }
}

// Bfloat16 weights and cache differ from their float32 originals by at most u = 2^-9, relative, element by element. A
// layer has seven weight matrices and two cache tensors, and the head is one more: n = 9 layers + 1 roundings, each of
// which perturbs what flows through it by at most u in norm. To first order they add up to n u. On a GPU activations
// are rounded too: eleven times a layer (two norms; queries, keys and values, and once more when they are rotated; the
// attention's and the MLP's inner results; two partial sums, their two sums, and the residual), the embedding, the last
// norm and the logits.
TEST_P(Family, Bfloat16StaysWithinItsRounding) {
  const Reference reference(GetParam());
  const auto prompt = reference.get<int32_t>("prompt_ids");
  const auto wanted = reference.get<float>("prompt_logits");
  const int ranks = legal_ranks(GetParam()).size() > 1 ? 2 : 1;
  const auto got = prompt_logits(GetParam(), prompt, DType::kBF16, ranks, 1000);
  double difference = 0, norm = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    difference += std::pow(double{got[i]} - wanted[i], 2);
    norm += std::pow(double{wanted[i]}, 2);
  }
  const double u = std::ldexp(1.0, -9), layers = load_model_config(kModels + GetParam()).shape.num_layers;
  const double n = kOnGpu ? 20 * layers + 4 : 9 * layers + 1;
  EXPECT_LT(std::sqrt(difference / norm), n * u);
  RecordProperty("relative_error", std::to_string(std::sqrt(difference / norm)));
}

TEST_P(Family, GreedyTokensAreThoseOfTransformersOnAnyNumberOfRanks) {
  const Reference reference(GetParam());
  for (const int ranks : legal_ranks(GetParam()))
    for (const bool eager : {false, true}) {
      if (eager && !kOnGpu) continue;
      run_ranks(ranks, [&](Communicator& group) {
        Session session({.model = kModels + GetParam(),
                         .dtype = "float32",
                         .max_model_len = 128,
                         .kv_cache_memory_bytes = int64_t{16} << 20,
                         .num_threads = 1,
                         .device = device_of(group.rank()),
                         .enforce_eager = eager},
                        &group);
        Engine& engine = session.engine();
        if (group.rank() != 0) return engine.follow();
        for (const int64_t id : {0, 1})
          engine.add({.id = id,
                      .prompt = reference.get<int32_t>(id == 0 ? "prompt_ids" : "prompt_ids_1"),
                      .sampling = {.max_tokens = 64, .temperature = 0, .ignore_eos = true}});
        int num_finished = 0;
        while (!engine.idle())
          for (const Completion& completion : engine.step()) {
            ++num_finished;
            EXPECT_EQ(completion.tokens, reference.get<int32_t>(completion.id == 0 ? "greedy_ids" : "greedy_ids_1"))
                << ranks << " ranks, request " << completion.id << (eager ? ", eager" : "");
          }
        engine.finish();
        EXPECT_EQ(num_finished, 2);
      });
    }
}

// Every rule, through the engine: what it must come to is known. With little cache sequences are set back meanwhile,
// and on a GPU steps are launched before the tokens of the last are known.
TEST_P(Family, RulesHoldAheadOfTheHostAndAfterPreemption) {
  constexpr int64_t kTokens = 40;
  const Reference reference(GetParam());
  const ModelConfig config = load_model_config(kModels + GetParam());
  const auto prompt = reference.get<int32_t>("prompt_ids");
  auto greedy = reference.get<int32_t>("greedy_ids");
  greedy.resize(kTokens);
  std::vector<SamplingParams> asked(6, {.max_tokens = kTokens, .temperature = 0, .ignore_eos = true});
  asked[0].logprobs = 3;
  asked[1].temperature = 0.9, asked[1].top_k = 1;
  asked[2].temperature = 1.5, asked[2].top_p = 1e-9;
  asked[3].temperature = 1.5, asked[3].min_p = 1, asked[3].logprobs = 0;
  asked[4].repetition_penalty = 1e6;  // no token twice
  asked[5].stop_token_ids = {greedy[2]}, asked[5].min_tokens = 10;
  const auto judge = [&](const Completion& done) {
    const std::vector<int32_t>& tokens = done.tokens;
    if (done.id <= 3) {
      EXPECT_EQ(tokens, greedy) << "request " << done.id;
    }
    EXPECT_EQ(done.logprobs.size(), done.id == 0 || done.id == 3 ? tokens.size() : 0) << "request " << done.id;
    for (size_t i = 0; i < done.logprobs.size(); ++i) {
      const StepLogprobs& of = done.logprobs[i];
      EXPECT_EQ(of.chosen.token, tokens[i]);
      ASSERT_EQ(of.top.size(), done.id == 0 ? 3u : 0u);
      if (done.id != 0) continue;
      EXPECT_EQ(of.top[0].token, tokens[i]);
      EXPECT_EQ(of.top[0].logprob, of.chosen.logprob);
      EXPECT_LE(of.top[1].logprob, of.top[0].logprob);
      EXPECT_LE(of.top[2].logprob, of.top[1].logprob);
    }
    if (done.id == 4) {
      std::vector<int32_t> all = prompt;
      std::sort(all.begin(), all.end());
      all.erase(std::unique(all.begin(), all.end()), all.end());
      const size_t num_before = all.size();
      all.insert(all.end(), tokens.begin(), tokens.end());
      std::sort(all.begin(), all.end());
      all.erase(std::unique(all.begin(), all.end()), all.end());
      EXPECT_EQ(all.size(), num_before + tokens.size()) << "a token came again";
    }
    if (done.id == 5) {
      EXPECT_GT(tokens.size(), 10u);
      EXPECT_EQ(std::count(tokens.begin(), tokens.begin() + 10, greedy[2]), 0);
      EXPECT_EQ(done.reason, tokens.back() == greedy[2] ? FinishReason::kStop : FinishReason::kLength);
    }
  };
  for (const int ranks : legal_ranks(GetParam()))
    for (const bool tight : {false, true}) {
      const KvLayout layout{.num_layers = config.shape.num_layers,
                            .num_kv_heads = std::max(1, config.shape.num_kv_heads / ranks),
                            .head_dim = config.shape.head_dim,
                            .block_tokens = 16,
                            .dtype = DType::kF32};
      const int64_t length = static_cast<int64_t>(prompt.size()) + kTokens, blocks = (length + 15) / 16;
      run_ranks(ranks, [&](Communicator& group) {
        Session session({.model = kModels + GetParam(),
                         .dtype = "float32",
                         .max_model_len = length,
                         .kv_cache_memory_bytes = layout.block_bytes() * (tight ? blocks + 4 : 6 * blocks),
                         .num_threads = 1,
                         .device = device_of(group.rank())},
                        &group);
        Engine& engine = session.engine();
        if (group.rank() != 0) return engine.follow();
        for (size_t id = 0; id < asked.size(); ++id)
          engine.add({.id = static_cast<int64_t>(id), .prompt = prompt, .sampling = asked[id]});
        size_t num_finished = 0;
        while (!engine.idle())
          for (const Completion& completion : engine.step()) {
            ++num_finished;
            judge(completion);
          }
        engine.finish();
        EXPECT_EQ(num_finished, asked.size());
        EXPECT_EQ(engine.stats().num_preemptions > 0, tight);
        if (kOnGpu) {
          EXPECT_GT(engine.stats().num_steps_ahead, tight ? 0 : engine.stats().num_steps / 2);
        }
      });
    }
}

std::vector<std::string> families() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kModels))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}
INSTANTIATE_TEST_SUITE_P(Transformers, Family, testing::ValuesIn(families()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lane
