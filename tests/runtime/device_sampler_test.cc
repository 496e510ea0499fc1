// The sampler of a GPU chooses what the host's does.
#include "lane/runtime/device_sampler.h"

#include <gtest/gtest.h>

#include <mutex>

#include "lane/device/device_info.h"
#include "lane/runtime/scheduler.h"
#include "tests/runtime/device_rig.h"
#include "tests/runtime/sampler_cases.h"
#include "tests/support/rank_group.h"

namespace lane {
namespace {

// A batch of cases whose logits are what the type can hold.
std::vector<Case> random_batch(Random& random, int64_t rows, int64_t vocab_size, DType type) {
  std::vector<Case> batch;
  for (int64_t i = 0; i < rows; ++i) {
    Case& c = batch.emplace_back(random_case(random, vocab_size));
    for (float& x : c.logits) {
      if (type == DType::kBF16) x = float_from_bf16(bf16_from_float(x));
      if (type == DType::kF16) x = float_from_f16(f16_from_float(x));
    }
    if (random.chance(0.5)) c.params.logprobs = static_cast<int>(random.below(random.chance(0.2) ? 1000 : 8));
  }
  return batch;
}

// Rows as a runner gets them, with the numbers of their sequences.
std::vector<SamplingRow> rows_of(const std::vector<Case>& batch, int64_t first_number) {
  std::vector<SamplingRow> rows;
  for (const Case& c : batch) {
    rows.push_back(c.row());
    rows.back().sequence = first_number++;
  }
  return rows;
}

std::vector<SampledToken> expected(const std::vector<Case>& batch) {
  const auto vocab_size = static_cast<int64_t>(batch[0].logits.size());
  std::vector<float> logits;
  for (const Case& c : batch) logits.insert(logits.end(), c.logits.begin(), c.logits.end());
  TensorView view = view_of(logits);
  view.shape = {1, 1, static_cast<int64_t>(batch.size()), vocab_size};
  Communicator alone;
  Stream stream;
  uint32_t signal = 0;
  return Sampler({0, vocab_size}, vocab_size, &alone).sample(view, rows_of(batch, 0), 0, &signal, stream);
}

// A rank's part of a GPU's sampler, fed with logits from the host.
class Rig {
 public:
  Rig(Communicator& group, int64_t vocab_size, int64_t max_rows, DType type)
      : stream_({DeviceKind::kCuda, group.rank() % num_gpus()}),
        slice_(plan::even_part(vocab_size, group.size(), group.rank())),
        type_(type),
        sampler_(&group, {.slice = slice_, .vocab_size = vocab_size, .max_rows = max_rows, .logits = type},
                 stream_.device()),
        chosen_(DType::kI32, {1, 1, 1, max_rows}, stream_.device()) {
    group.open_device(stream_.device());
  }

  // Launches a step, with places for two rows more where there is room.
  void launch(const std::vector<Case>& batch, std::span<const SamplingRow> rows) {
    const auto count = static_cast<int64_t>(batch.size());
    std::vector<char> bytes;
    for (const Case& c : batch)
      for (int64_t i = slice_.begin; i < slice_.end; ++i) {
        const float x = c.logits[static_cast<size_t>(i)];
        const uint16_t half = type_ == DType::kBF16 ? bf16_from_float(x) : f16_from_float(x);
        const auto* from =
            type_ == DType::kF32 ? reinterpret_cast<const char*>(&x) : reinterpret_cast<const char*>(&half);
        bytes.insert(bytes.end(), from, from + size_of(type_));
      }
    logits_ = Buffer(type_, {1, 1, count, slice_.size()}, stream_.device());
    copy_to_device(bytes.data(), logits_.view(), stream_);
    sampler_.open_step(++step_, rows, std::min(count + 2, chosen_.view().count()), stream_);
    sampler_.choose(logits_.view(), chosen_.view(DType::kI32, {1, 1, 1, count}), stream_);
  }
  std::vector<SampledToken> collect(size_t count) {
    std::vector<int32_t> tokens(count);
    copy_to_host(chosen_.view(DType::kI32, {1, 1, 1, static_cast<int64_t>(count)}), tokens.data(), stream_);
    std::vector<SampledToken> sampled;
    for (size_t i = 0; i < count; ++i)
      sampled.push_back({tokens[i], sampler_.logprobs(step_, static_cast<int64_t>(i), tokens[i])});
    return sampled;
  }

 private:
  Stream stream_;
  plan::Range slice_;
  DType type_;
  DeviceSampler sampler_;
  Buffer chosen_, logits_;
  int64_t step_ = 0;
};

void expect_like(const SampledToken& got, const SampledToken& wanted, const std::string& where) {
  ASSERT_EQ(got.token, wanted.token) << where;
  const auto near = [&](const TokenLogprob& a, const TokenLogprob& b) {
    EXPECT_EQ(a.token, b.token) << where;
    EXPECT_NEAR(a.logprob, b.logprob, 0x1p-22 * (1 + std::abs(b.logprob))) << where;  // a double, rounded
  };
  near(got.logprobs.chosen, wanted.logprobs.chosen);
  ASSERT_EQ(got.logprobs.top.size(), wanted.logprobs.top.size()) << where;
  for (size_t i = 0; i < wanted.logprobs.top.size(); ++i) near(got.logprobs.top[i], wanted.logprobs.top[i]);
}

class DeviceSampling : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (num_gpus() < GetParam()) GTEST_SKIP() << "needs " << GetParam() << " GPUs; here are " << num_gpus();
  }
};

// Every rule and every mixture of them.
TEST_P(DeviceSampling, AgreesWithTheHost) {
  struct Shape {
    int64_t vocab_size, rows;
    int repeats;
  };
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
    for (const Shape& shape : {Shape{9, 5, 20}, {65, 70, 10}, {1000, 130, 4}, {4097, 33, 4}, {128'256, 16, 3}}) {
      Random random(static_cast<uint64_t>(shape.vocab_size));
      std::vector<std::vector<Case>> batches;
      std::vector<std::vector<SampledToken>> wanted;
      for (int i = 0; i < shape.repeats; ++i) {
        batches.push_back(random_batch(random, shape.rows, shape.vocab_size, type));
        wanted.push_back(expected(batches.back()));
      }
      run_ranks(GetParam(), [&](Communicator& group) {
        Rig rig(group, shape.vocab_size, shape.rows, type);
        for (size_t b = 0; b < batches.size(); ++b) {
          rig.launch(batches[b], rows_of(batches[b], static_cast<int64_t>(b) * 1000));
          const std::vector<SampledToken> got = rig.collect(batches[b].size());
          for (size_t i = 0; i < got.size(); ++i)
            expect_like(got[i], wanted[b][i],
                        std::string(name_of(type)) + ", vocabulary " + std::to_string(shape.vocab_size) + ", batch " +
                            std::to_string(b) + ", row " + std::to_string(i));
        }
      });
    }
}

// Penalties count what the step before chose, which the host does not know; bans hold for the first tokens; sequences
// come, sit out and lose their places.
TEST_P(DeviceSampling, CountsTokensThatTheHostDoesNotKnow) {
  constexpr int64_t kVocab = 50, kRows = 4, kSequences = 7;
  run_ranks(GetParam(), [&](Communicator& group) {
    Random random(5);
    std::vector<Case> sequences;
    for (int64_t i = 0; i < kSequences; ++i) {
      Case& c = sequences.emplace_back(random_case(random, kVocab));
      c.params.repetition_penalty = 1.3, c.params.frequency_penalty = 0.7, c.params.presence_penalty = -0.4;
      c.tokens.resize(static_cast<size_t>(c.num_prompt));
      c.banned = {3, 4};
    }
    const size_t ban_end = 5;  // tokens of the output
    Rig rig(group, kVocab, kRows, DType::kF32);
    std::vector<size_t> last;
    for (int step = 0; step < 200; ++step) {
      std::vector<size_t> members;
      for (size_t i = 0; i < sequences.size() && members.size() < kRows; ++i) {
        const bool took_part = std::find(last.begin(), last.end(), i) != last.end();
        if (random.chance(took_part ? 0.8 : 0.3)) members.push_back(i);
      }
      if (members.empty()) continue;
      std::vector<Case> known, shown;  // with all tokens; with what a host that runs ahead knows
      for (const size_t i : members) {
        Case& c = sequences[i];
        for (float& x : c.logits) x = static_cast<float>(random.normal() * 2);
        Case& now = known.emplace_back(c);
        if (now.tokens.size() >= static_cast<size_t>(now.num_prompt) + ban_end) now.banned.clear();
        shown.push_back(now);
        if (std::find(last.begin(), last.end(), i) != last.end()) shown.back().tokens.back() = kUnknownToken;
      }
      std::vector<SamplingRow> rows = rows_of(shown, 0);
      for (size_t i = 0; i < rows.size(); ++i) rows[i].sequence = static_cast<int64_t>(members[i]);
      rig.launch(shown, rows);
      const std::vector<SampledToken> got = rig.collect(shown.size()), wanted = expected(known);
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_EQ(got[i].token, wanted[i].token) << "step " << step << ", sequence " << members[i];
        sequences[members[i]].tokens.push_back(got[i].token);
      }
      last = members;
    }
  });
}

TEST_P(DeviceSampling, NonsenseIsTold) {
  std::vector<Case> batch(4, Case{.logits = std::vector<float>(300, 1), .params = {}, .tokens = {1}, .num_prompt = 1});
  batch[0].logits[299] = std::numeric_limits<float>::quiet_NaN();
  batch[1].logits[7] = kInfinity;
  batch[2].logits.assign(300, -kInfinity);
  batch[2].logits[3] = 1;
  batch[2].banned = {3};
  for (Case& c : batch) c.params.top_p = 0.5, c.params.logprobs = 3;
  run_ranks(GetParam(), [&](Communicator& group) {
    Rig rig(group, 300, 4, DType::kF32);
    rig.launch(batch, rows_of(batch, 0));
    const std::vector<SampledToken> got = rig.collect(4);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(got[static_cast<size_t>(i)].token, -1) << i;
    EXPECT_GE(got[3].token, 0);
  });
}

// Through a model, in graphs and without: a host that runs ahead changes no token and no log-probability.
TEST_P(DeviceSampling, IsTheSameAheadOfTheHost) {
  std::vector<SamplingParams> params(DeviceRig::kSeqs);
  params[0] = {.temperature = 0.8, .top_k = 20, .top_p = 0.9, .seed = 1};
  params[1] = {.temperature = 0, .repetition_penalty = 1.5, .frequency_penalty = 0.5, .logprobs = 4};
  params[2] = {.temperature = 1.2, .min_p = 0.05, .presence_penalty = 1, .seed = 2, .logprobs = 0};
  params[3] = {.temperature = 1, .seed = 3};
  std::mutex mutex;
  for (const bool use_graphs : {false, true}) {
    std::vector<std::vector<SampledToken>> first;
    for (const bool ahead : {false, true})
      run_ranks(GetParam(), [&](Communicator& group) {
        Stream stream({DeviceKind::kCuda, group.rank() % num_gpus()});
        DeviceRig rig(group, stream, {.use_graphs = use_graphs}, params);
        std::vector<std::vector<SampledToken>> steps;
        rig.launch();
        for (int i = 0; i < 20; ++i) {
          if (ahead) rig.launch();
          steps.push_back(rig.collect());
          if (!ahead) rig.launch();
        }
        rig.collect();
        const std::lock_guard lock(mutex);
        if (first.empty()) first = steps;
        for (size_t i = 0; i < steps.size(); ++i)
          for (size_t row = 0; row < steps[i].size(); ++row) {
            EXPECT_EQ(steps[i][row].token, first[i][row].token) << "step " << i << ", row " << row;
            EXPECT_EQ(steps[i][row].logprobs.chosen.logprob, first[i][row].logprobs.chosen.logprob);
            EXPECT_EQ(steps[i][row].logprobs.top.size(), row == 1 ? 4u : 0u);
          }
      });
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, DeviceSampling, testing::Values(1, 2, 4));

}  // namespace
}  // namespace lane
