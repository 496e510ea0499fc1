#include "lane/runtime/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>

#include "lane/base/random.h"
#include "tests/runtime/sampler_cases.h"
#include "tests/support/rank_group.h"

namespace lane {
namespace {

// ---- The definition, in double and on one rank: slow, obvious, and the only judge ----

std::vector<double> changed_logits(const Case& c) {
  std::vector<double> logits(c.logits.begin(), c.logits.end());
  for (const int32_t token : c.banned) logits[static_cast<size_t>(token)] = -kInfinity;
  std::vector<int64_t> in_text(logits.size()), in_output(logits.size());
  for (size_t i = 0; i < c.tokens.size(); ++i) {
    const auto id = static_cast<size_t>(c.tokens[i]);
    ++in_text[id];
    if (static_cast<int64_t>(i) >= c.num_prompt) ++in_output[id];
  }
  for (size_t id = 0; id < logits.size(); ++id) {
    double& x = logits[id];
    if (in_text[id] > 0) x = x > 0 ? x / c.params.repetition_penalty : x * c.params.repetition_penalty;
    if (in_output[id] > 0)
      x -= c.params.frequency_penalty * static_cast<double>(in_output[id]) + c.params.presence_penalty;
    x = static_cast<float>(x);
  }
  return logits;
}

// The tokens that may be chosen, in their order.
std::vector<int32_t> allowed_tokens(const std::vector<double>& logits, const SamplingParams& params) {
  std::vector<int32_t> order;
  for (size_t id = 0; id < logits.size(); ++id)
    if (logits[id] > -kInfinity) order.push_back(static_cast<int32_t>(id));
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (params.temperature < 1e-5) {
    order.resize(1);
    return order;
  }
  const auto z = [&](int32_t id) { return logits[static_cast<size_t>(id)] * (1 / params.temperature); };
  const double first = z(order[0]);
  if (params.min_p > 0) std::erase_if(order, [&](int32_t id) { return z(id) < first + std::log(params.min_p); });
  if (params.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(params.top_k)));
  if (params.top_p < 1) {
    double all = 0, reached = 0;
    for (const int32_t id : order) all += std::exp(z(id) - first);
    size_t count = 0;
    while (count < order.size() && reached < params.top_p * all) reached += std::exp(z(order[count++]) - first);
    order.resize(count);
  }
  return order;
}

double gumbel(uint64_t seed, uint64_t position, int32_t token) {
  return -std::log(
      -std::log(random_uniform(seed ^ hash_name("sampler"), (position << 32) | static_cast<uint32_t>(token))));
}

int32_t expected_token(const Case& c) {
  const std::vector<double> logits = changed_logits(c);
  const std::vector<int32_t> allowed = allowed_tokens(logits, c.params);
  if (c.params.temperature < 1e-5) return allowed[0];
  int32_t best = -1;
  double most = -kInfinity;
  for (const int32_t id : allowed) {
    const double value =
        logits[static_cast<size_t>(id)] * (1 / c.params.temperature) + gumbel(c.params.seed, c.tokens.size(), id);
    if (value > most || (value == most && id < best)) best = id, most = value;
  }
  return best;
}

// ---- Running the sampler ----

std::vector<SampledToken> sample(Communicator& group, const std::vector<Case>& cases, int num_threads = 1,
                                 uint32_t signal_in = 0, uint32_t* signal_out = nullptr) {
  const auto vocab_size = static_cast<int64_t>(cases[0].logits.size());
  const plan::Range slice = plan::even_part(vocab_size, group.size(), group.rank());
  Buffer logits(DType::kF32, {1, 1, static_cast<int64_t>(cases.size()), slice.size()});
  std::vector<SamplingRow> rows;
  for (size_t i = 0; i < cases.size(); ++i) {
    std::copy(cases[i].logits.begin() + slice.begin, cases[i].logits.begin() + slice.end,
              logits.view().as<float>() + static_cast<int64_t>(i) * slice.size());
    rows.push_back(cases[i].row());
  }
  Stream stream({}, num_threads);
  Sampler sampler(slice, vocab_size, &group);
  uint32_t signal = 0;
  return sampler.sample(logits.view(), rows, signal_in, signal_out ? signal_out : &signal, stream);
}

void expect_same(const SampledToken& a, const SampledToken& b, const std::string& where) {
  EXPECT_EQ(a.token, b.token) << where;
  const auto same = [&](const TokenLogprob& x, const TokenLogprob& y) {
    EXPECT_EQ(x.token, y.token) << where;
    EXPECT_EQ(std::memcmp(&x.logprob, &y.logprob, sizeof(float)), 0) << where << ": the same bits";
  };
  same(a.logprobs.chosen, b.logprobs.chosen);
  ASSERT_EQ(a.logprobs.top.size(), b.logprobs.top.size()) << where;
  for (size_t i = 0; i < a.logprobs.top.size(); ++i) same(a.logprobs.top[i], b.logprobs.top[i]);
}

// ---- Tests ----

// Every rule and every mixture of them, on every number of ranks.
TEST(Sampler, AgreesWithTheDefinitionOnAnyNumberOfRanks) {
  Random random(1);
  std::vector<std::vector<Case>> batches;
  for (const int64_t vocab_size : {9, 16, 50, 63, 64, 65, 127, 300, 1000, 2048, 5000, 20011})
    for (int repeat = 0; repeat < std::max<int64_t>(1, 2000 / vocab_size); ++repeat) {
      std::vector<Case>& batch = batches.emplace_back();
      const int64_t num_rows = vocab_size > 4000 ? 24 : 1 + random.below(40);
      for (int64_t i = 0; i < num_rows; ++i) batch.push_back(random_case(random, vocab_size));
    }
  std::vector<std::vector<int32_t>> expected;
  size_t num_rows = 0;
  for (const std::vector<Case>& batch : batches) {
    std::vector<int32_t>& tokens = expected.emplace_back();
    for (const Case& c : batch) tokens.push_back(expected_token(c));
    num_rows += batch.size();
  }
  EXPECT_GT(num_rows, 5000u);
  for (const int num_ranks : {1, 2, 3, 4, 8})
    run_ranks(num_ranks, [&](Communicator& group) {
      for (size_t b = 0; b < batches.size(); ++b) {
        const std::vector<SampledToken> got = sample(group, batches[b]);
        for (size_t i = 0; i < got.size(); ++i)
          ASSERT_EQ(got[i].token, expected[b][i])
              << "batch " << b << " row " << i << ", " << num_ranks << " ranks, vocab " << batches[b][i].logits.size();
      }
    });
}

// A large, flat vocabulary: the first candidates never suffice, and the exchange is repeated.
TEST(Sampler, WidensUntilTheSetIsCovered) {
  Random random(2);
  std::vector<Case> cases;
  for (int i = 0; i < 6; ++i) {
    Case c;
    for (int j = 0; j < 40000; ++j) c.logits.push_back(static_cast<float>(random.normal() * 0.2));
    c.tokens = {1, 2, 3};
    c.num_prompt = 1;
    c.params.seed = static_cast<uint64_t>(i);
    if (i < 2) c.params.top_p = i == 0 ? 0.999999 : 0.5;
    if (i == 2) c.params.top_k = 30000;
    if (i == 3) c.params.min_p = 0.1;
    if (i == 4) c.params.top_k = 5000, c.params.top_p = 0.7, c.params.min_p = 0.3, c.params.logprobs = 3;
    if (i == 5) {  // one large logit in each group of 64: the first candidates are all there is above their bound
      for (size_t j = 0; j < c.logits.size(); ++j)
        c.logits[j] = j % 64 == 0 ? 2 - 1e-3f * static_cast<float>(j / 64) : 0;
      c.params.top_p = 0.99;
    }
    cases.push_back(std::move(c));
  }
  for (const int num_ranks : {1, 3, 8})
    run_ranks(num_ranks, [&](Communicator& group) {
      const std::vector<SampledToken> got = sample(group, cases);
      for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i].token, expected_token(cases[i])) << i;
      EXPECT_EQ(got[4].logprobs.top.size(), 3u);
    });
}

TEST(Sampler, EqualLogitsGiveTheLowestToken) {
  Case c;
  c.logits.assign(1000, 1.5f);
  c.tokens = {0};
  c.num_prompt = 1;
  c.params.temperature = 0;
  c.logits[0] = 1;
  Case zeros = c;  // -0 equals 0
  zeros.logits.assign(1000, -0.0f);
  zeros.logits[700] = 0;
  Case kept = c;  // top_k takes the lowest of equals
  kept.params.temperature = 1, kept.params.top_k = 1;
  for (const int num_ranks : {1, 2, 3, 4, 8})
    run_ranks(num_ranks, [&](Communicator& group) {
      const auto got = sample(group, {c, zeros, kept});
      EXPECT_EQ(got[0].token, 1);
      EXPECT_EQ(got[1].token, 0);
      EXPECT_EQ(got[2].token, 1);
    });
}

TEST(Sampler, TemperatureZeroIsGreedyWhateverElseIsSet) {
  Random random(3);
  run_ranks(2, [&](Communicator& group) {
    Random mine(4);
    for (int i = 0; i < 50; ++i) {
      Case c = random_case(mine, 200);
      c.params.temperature = i % 2 ? 0 : 9e-6;
      Case plain = c;
      plain.params.top_k = 0, plain.params.top_p = 1, plain.params.min_p = 0, plain.params.seed = 99;
      const auto got = sample(group, {c, plain});
      EXPECT_EQ(got[0].token, got[1].token);
    }
  });
}

// The choice is a sample of the distribution that the rules leave. Pearson's chi-square: its mean is the number of
// degrees of freedom d and its standard deviation sqrt(2 d); more than five of them above the mean fails (a chance of
// about 1e-5 for a correct sampler, and the seeds are fixed).
TEST(Sampler, DrawsFromTheDistribution) {
  constexpr int kVocab = 40, kDraws = 40000, kBatch = 2000;
  Random random(5);
  std::vector<float> logits;
  for (int i = 0; i < kVocab; ++i) logits.push_back(static_cast<float>(random.normal() * 1.5));
  std::vector<SamplingParams> params(6);
  params[1].temperature = 0.7;
  params[2].top_k = 7;
  params[3].top_p = 0.8;
  params[4].min_p = 0.2, params[4].temperature = 1.5;
  params[5].top_k = 20, params[5].top_p = 0.9, params[5].min_p = 0.02;
  for (size_t config = 0; config < params.size(); ++config) {
    Case c{.logits = logits, .params = params[config], .tokens = {1, 2, 3}, .banned = {}, .num_prompt = 3};
    const std::vector<double> changed = changed_logits(c);
    const std::vector<int32_t> allowed = allowed_tokens(changed, c.params);
    std::vector<double> share(kVocab);
    double sum = 0;
    for (const int32_t id : allowed) sum += share[id] = std::exp(changed[id] / c.params.temperature);
    std::vector<double> count(kVocab);
    run_ranks(2, [&](Communicator& group) {
      for (int begin = 0; begin < kDraws; begin += kBatch) {
        std::vector<Case> cases(kBatch, c);
        // Half of the draws differ by their seed, half by their position.
        for (int i = 0; i < kBatch; ++i) {
          if (i % 2) cases[i].params.seed = static_cast<uint64_t>(begin + i);
          if (i % 2 == 0) cases[i].tokens.resize(static_cast<size_t>(3 + (begin + i) / 2 % 1000), 0);
          if (i % 2 == 0) cases[i].params.seed = 1000000 + static_cast<uint64_t>((begin + i) / 2000);
        }
        const auto got = sample(group, cases);
        if (group.rank() == 0)
          for (const SampledToken& token : got) ++count[static_cast<size_t>(token.token)];
      }
    });
    double chi_square = 0;
    for (int id = 0; id < kVocab; ++id) {
      const double expected = kDraws * share[id] / sum;
      if (expected == 0)
        EXPECT_EQ(count[id], 0) << "config " << config << ": token " << id << " is not allowed";
      else
        chi_square += (count[id] - expected) * (count[id] - expected) / expected;
    }
    const double freedom = static_cast<double>(allowed.size()) - 1;
    EXPECT_LT(chi_square, freedom + 5 * std::sqrt(2 * freedom)) << "config " << config;
    EXPECT_GT(chi_square, 0);
  }
}

TEST(Sampler, PenaltiesByHand) {
  Case c;
  c.logits = {2, -2, 4, 1, 0, 3};
  c.tokens = {0, 1, 2, 2, 2};  // prompt 0 1, output 2 2 2
  c.num_prompt = 2;
  c.params.temperature = 0;
  Case repeated = c, frequent = c, present = c, banned = c;
  repeated.params.repetition_penalty = 2;   // 1 -4 2 1 0 3
  frequent.params.frequency_penalty = 0.5;  // 2: 4 - 1.5
  present.params.presence_penalty = 0.5;    // 2: 3.5
  banned.banned = {2, 5};
  run_ranks(2, [&](Communicator& group) {
    const auto got = sample(group, {c, repeated, frequent, present, banned});
    EXPECT_EQ(got[0].token, 2);
    EXPECT_EQ(got[1].token, 5);
    EXPECT_EQ(got[2].token, 5);
    EXPECT_EQ(got[3].token, 2);
    EXPECT_EQ(got[4].token, 0);
  });
}

// Of the logits as the model gave them, whatever penalties and bans do to the choice.
TEST(Sampler, LogprobsAreThoseOfTheModel) {
  Random random(6);
  std::vector<Case> cases;
  for (int i = 0; i < 60; ++i) {
    cases.push_back(random_case(random, 777));
    cases.back().params.logprobs = static_cast<int>(random.below(8)) - 1;
  }
  for (const int num_ranks : {1, 2, 3, 8})
    run_ranks(num_ranks, [&](Communicator& group) {
      const auto got = sample(group, cases);
      for (size_t i = 0; i < cases.size(); ++i) {
        const std::vector<float>& logits = cases[i].logits;
        const double max = *std::max_element(logits.begin(), logits.end());
        double sum = 0;
        for (const float x : logits) sum += std::exp(x - max);
        std::vector<int32_t> order(logits.size());
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
        const auto logprob = [&](int32_t id) { return logits[static_cast<size_t>(id)] - max - std::log(sum); };

        const StepLogprobs& lp = got[i].logprobs;
        const int asked = cases[i].params.logprobs;
        ASSERT_EQ(static_cast<int>(lp.top.size()), std::max(asked, 0));
        if (asked >= 0) {
          EXPECT_EQ(lp.chosen.token, got[i].token);
          EXPECT_NEAR(lp.chosen.logprob, logprob(got[i].token), 1e-6 * (1 + std::abs(logprob(got[i].token))));
        }
        for (size_t j = 0; j < lp.top.size(); ++j) {
          EXPECT_EQ(lp.top[j].token, order[j]);
          EXPECT_NEAR(lp.top[j].logprob, logprob(order[j]), 1e-6 * (1 + std::abs(logprob(order[j]))));
        }
      }
    });
}

TEST(Sampler, ARowDoesNotDependOnItsBatchNorOnThreads) {
  Random random(7);
  std::vector<Case> cases;
  for (int i = 0; i < 20; ++i) {
    cases.push_back(random_case(random, 30000));
    cases.back().params.logprobs = 4;
  }
  run_ranks(2, [&](Communicator& group) {
    const auto together = sample(group, cases);
    const auto threaded = sample(group, cases, /*num_threads=*/3);
    for (size_t i = 0; i < cases.size(); ++i) {
      expect_same(together[i], sample(group, {cases[i]})[0], "alone, row " + std::to_string(i));
      expect_same(together[i], threaded[i], "three threads, row " + std::to_string(i));
    }
  });
}

TEST(Sampler, TheSignalOfRankZeroReachesAll) {
  run_ranks(3, [&](Communicator& group) {
    Stream stream;
    const plan::Range slice = plan::even_part(10, 3, group.rank());
    Sampler sampler(slice, 10, &group);
    for (uint32_t word : {7u, 0u, 123456789u}) {
      uint32_t got = 1;
      EXPECT_TRUE(sampler.sample({}, {}, group.rank() == 0 ? word : 555, &got, stream).empty());
      EXPECT_EQ(got, word) << "also without a row";
    }
    Case c{.logits = std::vector<float>(10, 1), .params = {}, .tokens = {1}, .banned = {}, .num_prompt = 1};
    uint32_t got = 0;
    sample(group, {c, c}, 1, group.rank() == 0 ? 9 : 0, &got);
    EXPECT_EQ(got, 9u);
  });
}

// Every rank sees the same refusal; nobody waits for one that gave up.
TEST(Sampler, LogitsThatAreNotFiniteAreAnErrorOnAllRanks) {
  const auto refusal = [](int num_ranks, const Case& c) {
    std::vector<std::string> seen(static_cast<size_t>(num_ranks));
    run_ranks(num_ranks, [&](Communicator& group) {
      Case good = c;
      for (float& x : good.logits) x = 1;
      good.banned.clear();
      try {
        sample(group, {good, c});
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
        seen[static_cast<size_t>(group.rank())] = error.what();
      }
    });
    for (const std::string& text : seen) EXPECT_EQ(text, seen[0]);
    return seen[0];
  };
  Case c{.logits = std::vector<float>(100, 1), .params = {}, .tokens = {1}, .banned = {}, .num_prompt = 1};
  for (const double temperature : {0.0, 1.0})
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity})
      for (const int num_ranks : {1, 2, 4}) {
        Case broken = c;
        broken.params.temperature = temperature;
        broken.logits[77] = bad;
        const std::string text = refusal(num_ranks, broken);
        EXPECT_NE(text.find("the logit of token 77"), std::string::npos) << text;
        EXPECT_NE(text.find("not a finite number"), std::string::npos) << text;
      }
  Case impossible = c;
  impossible.logits.assign(100, -kInfinity);
  impossible.logits[3] = 1;
  impossible.banned = {3};
  impossible.params.logprobs = 2;
  for (const int num_ranks : {1, 3})
    EXPECT_NE(refusal(num_ranks, impossible).find("no token is possible"), std::string::npos);
}

}  // namespace
}  // namespace lane
