#include "lane/runtime/engine.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lane/base/random.h"
#include "lane/base/trace.h"
#include "tests/runtime/engine_rig.h"

namespace lane {
namespace {

std::vector<int32_t> prompt_of(uint64_t key, int64_t length) {
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i < length; ++i)
    prompt.push_back(static_cast<int32_t>(random_bits(key, static_cast<uint64_t>(i)) % 256));
  return prompt;
}

// Prompts of all lengths, sampled by all rules.
std::vector<Request> mixed_requests(int count = 12) {
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    Request r{.id = i, .prompt = prompt_of(static_cast<uint64_t>(100 + i), 1 + i * 13 % 70), .sampling = {}};
    SamplingParams& p = r.sampling;
    p.max_tokens = 8 + i * 7 % 20;
    p.seed = static_cast<uint64_t>(i);
    p.logprobs = i % 4;
    p.temperature = i % 3 == 0 ? 0 : 0.5 + 0.1 * i;
    if (i % 4 == 1) p.top_k = 20;
    if (i % 4 == 2) p.top_p = 0.8;
    if (i % 5 == 3) p.min_p = 0.05;
    if (i % 5 == 4) p.repetition_penalty = 1.3, p.frequency_penalty = 0.2;
    requests.push_back(std::move(r));
  }
  return requests;
}

Request greedy(int64_t id, std::vector<int32_t> prompt, int64_t max_tokens) {
  Request request{.id = id, .prompt = std::move(prompt), .sampling = {}};
  request.sampling.temperature = 0;
  request.sampling.max_tokens = max_tokens;
  return request;
}

// A sampled request, whose text does not repeat itself.
Request varied(int64_t id, int64_t max_tokens) {
  Request request{.id = id, .prompt = prompt_of(static_cast<uint64_t>(id), 20), .sampling = {}};
  request.sampling.seed = 11;
  request.sampling.max_tokens = max_tokens;
  return request;
}

Completion run_one(const Request& request, EngineOptions options = tiny_options(), int num_ranks = 1) {
  return generate(num_ranks, options, {request}).completions.at(request.id);
}

// ---- The same whatever surrounds a request ----

TEST(Engine, SameTokensOnAnyNumberOfRanks) {
  const Outcome alone = generate(1, tiny_options(), mixed_requests());
  EXPECT_EQ(alone.completions.size(), 12u);
  for (const int num_ranks : {2, 4})
    expect_same_tokens(alone, generate(num_ranks, tiny_options(), mixed_requests()),
                       std::to_string(num_ranks) + " ranks");
}

TEST(Engine, ARequestDoesNotDependOnItsBatch) {
  std::vector<Request> requests = mixed_requests();
  for (const int num_ranks : {1, 2, 4}) {
    const Outcome together = generate(num_ranks, tiny_options(), requests);
    std::reverse(requests.begin(), requests.end());
    const Outcome reversed = generate(num_ranks, tiny_options(), requests);
    for (const Request& request : requests) {
      const std::string where = std::to_string(num_ranks) + " ranks, request " + std::to_string(request.id);
      expect_same_bits(together.completions.at(request.id), reversed.completions.at(request.id), where + ", reversed");
      expect_same_bits(together.completions.at(request.id), run_one(request, tiny_options(), num_ranks),
                       where + ", alone");
    }
  }
}

TEST(Engine, AnswersDoNotDependOnChunksNorBlocksNorSeats) {
  const std::vector<Request> requests = mixed_requests();
  const Outcome whole = generate(1, tiny_options(), requests);
  for (const int64_t chunk : {1, 3, 16, 50}) {
    EngineOptions options = tiny_options();
    options.limits.max_num_batched_tokens = chunk;
    const Outcome chunked = generate(1, options, requests);
    for (const Request& r : requests)
      expect_same_bits(whole.completions.at(r.id), chunked.completions.at(r.id), "chunks of " + std::to_string(chunk));
    EXPECT_GT(chunked.stats.num_steps, whole.stats.num_steps);
  }
  EngineOptions blocks = tiny_options();
  blocks.block_tokens = 8;
  expect_same_tokens(whole, generate(1, blocks, requests), "blocks of 8");
}

// Many more requests than seats: those who finish leave, those who wait enter.
TEST(Engine, ContinuousBatching) {
  const std::vector<Request> requests = mixed_requests(20);
  const Outcome all = generate(2, tiny_options(), requests);
  EXPECT_EQ(all.stats.most_running, 20);
  EngineOptions options = tiny_options();
  options.limits.max_num_seqs = 3;
  const Outcome seated = generate(2, options, requests);
  EXPECT_EQ(seated.stats.most_running, 3);
  EXPECT_EQ(seated.stats.num_preemptions, 0);
  expect_same_tokens(all, seated, "three seats");
  EXPECT_NE(seated.order.back(), 0);
}

// As on a device: a step is launched before the tokens of the one before are known.
TEST(Engine, RunningAheadChangesNoToken) {
  std::vector<Request> requests = mixed_requests(20);
  for (size_t i = 0; i < requests.size(); ++i) requests[i].sampling.max_tokens += static_cast<int64_t>(3 * i % 29);
  const Outcome behind = generate(1, tiny_options(), requests);
  EXPECT_EQ(behind.stats.num_steps_ahead, 0);
  for (const int num_ranks : {1, 2})
    for (const int64_t seats : {3, 64})
      for (const int64_t num_blocks : {20, 200}) {
        EngineOptions options = tiny_options();
        options.cpu_runs_ahead = true;
        options.limits.max_num_seqs = seats;
        options.limits.max_num_batched_tokens = 70;
        options.num_blocks = num_blocks;
        const Outcome ahead = generate(num_ranks, options, requests);
        expect_same_tokens(behind, ahead, std::to_string(seats) + " seats, " + std::to_string(num_blocks) + " blocks");
      }
  // Without penalties, which need all tokens so far, nearly all steps of decoding run ahead.
  for (Request& request : requests) {
    SamplingParams& sampling = request.sampling;
    sampling.repetition_penalty = 1, sampling.presence_penalty = sampling.frequency_penalty = 0;
    sampling.max_tokens = 40;
  }
  EngineOptions options = tiny_options();
  const Outcome plain = generate(1, options, requests);
  options.cpu_runs_ahead = true;
  const Outcome ahead = generate(2, options, requests);
  expect_same_tokens(plain, ahead, "without penalties");
  EXPECT_GT(ahead.stats.num_steps_ahead, ahead.stats.num_steps / 2);
}

TEST(Engine, PreemptedRequestsComeToTheSameResult) {
  std::vector<Request> requests;
  for (int i = 0; i < 6; ++i) {
    requests.push_back(mixed_requests()[static_cast<size_t>(i)]);
    requests.back().sampling.max_tokens = 60;
  }
  const Outcome roomy = generate(1, tiny_options(), requests);
  EXPECT_EQ(roomy.stats.num_preemptions, 0);
  for (const int num_ranks : {1, 2}) {
    EngineOptions options = tiny_options();
    options.num_blocks = 14;
    const Outcome tight = generate(num_ranks, options, requests);
    EXPECT_GT(tight.stats.num_preemptions, 0);
    expect_same_tokens(roomy, tight, "few blocks");
    if (num_ranks == 1)
      for (const Request& r : requests)
        expect_same_bits(roomy.completions.at(r.id), tight.completions.at(r.id), "few blocks");
  }
}

TEST(Engine, CommonPrefixesAreComputedOnce) {
  std::vector<Request> requests;
  const std::vector<int32_t> shared = prompt_of(7, 50);
  for (int i = 0; i < 3; ++i) {
    Request r = greedy(i, shared, 6);
    for (const int32_t token : prompt_of(static_cast<uint64_t>(50 + i), 5)) r.prompt.push_back(token);
    r.sampling.logprobs = 2;
    requests.push_back(r);
  }
  for (const int num_ranks : {1, 2}) {
    const Outcome outcome = run_engine(num_ranks, tiny_options(), [&](Engine& engine, Outcome& out) {
      for (const Request& request : requests) {
        engine.add(request);
        run_to_end(engine, out);
      }
    });
    EXPECT_EQ(outcome.completions.at(0).cached_prompt_tokens, 0);
    for (int i = 1; i < 3; ++i) EXPECT_EQ(outcome.completions.at(i).cached_prompt_tokens, 48);
    EXPECT_EQ(outcome.stats.num_cached_tokens, 96);
    EXPECT_EQ(outcome.stats.num_prefill_tokens, 55 + 7 + 7);
    for (const Request& r : requests)
      expect_same_bits(outcome.completions.at(r.id), run_one(r, tiny_options(), num_ranks), "computed alone");
  }
}

// ---- What a completion says ----

TEST(Engine, LogprobsAreThoseOfAPlainForwardPass) {
  Request request = greedy(0, prompt_of(3, 37), 12);
  request.sampling.logprobs = 5;
  request.sampling.repetition_penalty = 1.2;  // changes the choice, not the numbers
  const Completion done = run_one(request);
  ASSERT_EQ(done.logprobs.size(), 12u);

  std::vector<int32_t> tokens = request.prompt;
  tokens.insert(tokens.end(), done.tokens.begin(), done.tokens.end());
  const auto length = static_cast<int32_t>(tokens.size());
  std::vector<int32_t> positions(tokens.size()), table(8);
  std::iota(positions.begin(), positions.end(), 0);
  std::iota(table.begin(), table.end(), 0);
  const std::vector<int32_t> query_start = {0, length}, kv_length = {length};
  Communicator group;
  Stream stream;
  Model model = tiny_model(group, stream);
  KvCache cache({.num_layers = 2, .num_kv_heads = 2, .head_dim = 8, .block_tokens = 16, .dtype = DType::kF32}, 8, {});
  const TensorView logits = model.forward({.token_ids = view_of(tokens),
                                           .positions = view_of(positions),
                                           .attention = host_batch({query_start, kv_length}, table, 8),
                                           .logit_rows = view_of(positions)},
                                          cache.layers(), stream);
  for (size_t i = 0; i < done.logprobs.size(); ++i) {
    const float* row = logits.as<float>() + (request.prompt.size() + i - 1) * 256;
    double sum = 0;
    for (int id = 0; id < 256; ++id) sum += std::exp(double{row[id]});
    std::vector<int32_t> order(256);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
    EXPECT_EQ(done.logprobs[i].chosen.token, done.tokens[i]);
    EXPECT_NEAR(done.logprobs[i].chosen.logprob, row[done.tokens[i]] - std::log(sum), 1e-5);
    ASSERT_EQ(done.logprobs[i].top.size(), 5u);
    for (size_t j = 0; j < 5; ++j) {
      EXPECT_EQ(done.logprobs[i].top[j].token, order[j]);
      EXPECT_NEAR(done.logprobs[i].top[j].logprob, row[order[j]] - std::log(sum), 1e-5);
    }
  }
}

TEST(Engine, CompletionsAreFilled) {
  const Completion done = run_one(varied(42, 9), tiny_options(), 2);
  EXPECT_EQ(done.id, 42);
  EXPECT_EQ(done.tokens.size(), 9u);
  EXPECT_EQ(done.text, text_of(done.tokens));
  EXPECT_EQ(done.reason, FinishReason::kLength);
  EXPECT_EQ(done.prompt_tokens, 20);
  EXPECT_EQ(done.cached_prompt_tokens, 0);
  EXPECT_TRUE(done.logprobs.empty());
  EXPECT_EQ(done.token_gaps_s.size(), 8u);
  EXPECT_GE(done.queued_s, 0);
  EXPECT_GT(done.first_token_s, done.queued_s);
  const double sum = std::accumulate(done.token_gaps_s.begin(), done.token_gaps_s.end(), done.first_token_s);
  EXPECT_NEAR(done.finished_s, sum, 1e-6);
}

// ---- When a request ends ----

TEST(Engine, EndsAtMaxTokensOrAtTheModelsLength) {
  EXPECT_EQ(run_one(varied(1, 1)).tokens.size(), 1u);
  EngineOptions options = tiny_options();
  options.limits.max_model_len = 32;
  for (const int num_ranks : {1, 2}) {
    const Completion done = run_one(varied(1, 1000), options, num_ranks);
    EXPECT_EQ(done.tokens.size(), 12u);
    EXPECT_EQ(done.reason, FinishReason::kLength);
  }
}

TEST(Engine, EndOfSequence) {
  const Completion free = run_one(varied(1, 30));
  const int32_t end = free.tokens[12];
  const auto first = static_cast<size_t>(std::find(free.tokens.begin(), free.tokens.end(), end) - free.tokens.begin());
  EngineOptions options = tiny_options();
  options.eos_token_ids = {255, end};

  const Completion ended = run_one(varied(1, 30), options, 2);
  EXPECT_EQ(ended.reason, FinishReason::kStop);
  EXPECT_EQ(ended.tokens,
            std::vector<int32_t>(free.tokens.begin(), free.tokens.begin() + static_cast<int64_t>(first) + 1));
  EXPECT_EQ(ended.text, text_of(ended.tokens).substr(0, 2 * first)) << "the text is without the token";

  Request ignoring = varied(1, 30);
  ignoring.sampling.ignore_eos = true;
  EXPECT_EQ(run_one(ignoring, options).tokens, free.tokens);

  // At max_tokens, too, an end is an end.
  Request exact = varied(1, static_cast<int64_t>(first) + 1);
  EXPECT_EQ(run_one(exact, options).reason, FinishReason::kStop);
}

TEST(Engine, StopTokens) {
  const Completion free = run_one(varied(1, 30));
  const int32_t end = free.tokens[7];
  const auto first = static_cast<size_t>(std::find(free.tokens.begin(), free.tokens.end(), end) - free.tokens.begin());
  Request request = varied(1, 30);
  request.sampling.stop_token_ids = {end};
  request.sampling.ignore_eos = true;
  const Completion ended = run_one(request, tiny_options(), 2);
  EXPECT_EQ(ended.reason, FinishReason::kStop);
  EXPECT_EQ(ended.tokens.size(), first + 1);
  EXPECT_EQ(ended.text, free.text.substr(0, 2 * first));
  request.sampling.include_stop_str_in_output = true;
  EXPECT_EQ(run_one(request).text, free.text.substr(0, 2 * first + 2));
}

// Before min_tokens the tokens that would end the request are impossible.
TEST(Engine, MinTokens) {
  const Completion free = run_one(varied(1, 30));
  EngineOptions options = tiny_options();
  options.eos_token_ids = {free.tokens[0], free.tokens[5]};
  Request request = varied(1, 30);
  EXPECT_EQ(run_one(request, options).tokens.size(), 1u);
  request.sampling.stop_token_ids = {free.tokens[2], free.tokens[3]};
  for (const int64_t min_tokens : {1, 4, 20}) {
    request.sampling.min_tokens = min_tokens;
    const Completion done = run_one(request, options);
    EXPECT_GE(static_cast<int64_t>(done.tokens.size()), min_tokens + (done.reason == FinishReason::kStop ? 1 : 0));
    for (int64_t i = 0; i < min_tokens; ++i)
      for (const int32_t end : {free.tokens[0], free.tokens[5], free.tokens[2], free.tokens[3]})
        EXPECT_NE(done.tokens[static_cast<size_t>(i)], end);
    EXPECT_EQ(done.tokens, run_one(request, options, 2).tokens);
  }
}

TEST(Engine, StopStringsAcrossTokens) {
  const Completion free = run_one(varied(1, 30));
  for (const size_t begin : {9u, 10u, 21u}) {
    const std::string stop = free.text.substr(begin, 5);  // of three tokens
    const size_t at = free.text.find(stop);
    Request request = varied(1, 30);
    request.sampling.stop = {"zz never", stop};
    for (const int num_ranks : {1, 2}) {
      const Completion cut = run_one(request, tiny_options(), num_ranks);
      EXPECT_EQ(cut.reason, FinishReason::kStop);
      EXPECT_EQ(cut.text, free.text.substr(0, at));
      EXPECT_EQ(cut.tokens.size(), (at + 5 + 1) / 2) << "the token that completes it is the last";
    }
    request.sampling.include_stop_str_in_output = true;
    EXPECT_EQ(run_one(request).text, free.text.substr(0, at + 5));
    // On the last token that is allowed, too.
    request.sampling.max_tokens = static_cast<int64_t>((at + 5 + 1) / 2);
    EXPECT_EQ(run_one(request).reason, FinishReason::kStop);
    request.sampling.min_tokens = request.sampling.max_tokens = 29;
    EXPECT_EQ(run_one(request).tokens.size(), 29u) << "not before min_tokens";
  }
  // Of several the one that is complete first, however they are listed.
  Request request = varied(1, 30);
  request.sampling.stop = {free.text.substr(12, 10), free.text.substr(14, 4)};
  EXPECT_EQ(run_one(request).text, free.text.substr(0, free.text.find(request.sampling.stop[1])));
}

TEST(Engine, StreamedTextIsCertain) {
  const Completion free = run_one(varied(1, 30));
  Request request = varied(1, 30);
  // The beginning of the first comes true, the second ends the text.
  request.sampling.stop = {free.text.substr(10, 7) + "zz", free.text.substr(30, 6)};
  Request other = varied(2, 10);
  std::map<int64_t, std::vector<std::string>> pieces;
  const Outcome outcome = run_engine(2, tiny_options(), [&](Engine& engine, Outcome& out) {
    engine.on_token = [&](int64_t id, std::string_view text) { pieces[id].emplace_back(text); };
    engine.add(request);
    engine.add(other);
    run_to_end(engine, out);
  });
  for (const int64_t id : {1, 2}) {
    const Completion& done = outcome.completions.at(id);
    EXPECT_EQ(pieces[id].size(), done.tokens.size()) << "one call a token";
    EXPECT_EQ(std::accumulate(pieces[id].begin(), pieces[id].end(), std::string()), done.text);
  }
  EXPECT_EQ(outcome.completions.at(1).text, free.text.substr(0, 30));
}

TEST(Engine, Cancel) {
  const Completion free = run_one(varied(1, 100));
  for (const int num_ranks : {1, 2}) {
    const Outcome outcome = run_engine(num_ranks, tiny_options(), [&](Engine& engine, Outcome& out) {
      engine.add(varied(1, 100));
      engine.add(varied(2, 10));
      engine.add(varied(3, 10));
      engine.cancel(3);    // before it began
      engine.cancel(999);  // never heard of
      for (int i = 0; i < 5; ++i)
        for (Completion& completion : engine.step()) out.completions[completion.id] = std::move(completion);
      engine.cancel(1);
      engine.cancel(1);
      run_to_end(engine, out);
      engine.cancel(2);  // over
      EXPECT_TRUE(engine.idle());
      EXPECT_TRUE(engine.step().empty());
    });
    ASSERT_EQ(outcome.completions.size(), 3u);
    const Completion& cut = outcome.completions.at(1);
    EXPECT_EQ(cut.reason, FinishReason::kCancelled);
    EXPECT_GE(cut.tokens.size(), 4u);
    EXPECT_LE(cut.tokens.size(), 6u);
    EXPECT_EQ(cut.text, free.text.substr(0, 2 * cut.tokens.size()));
    EXPECT_EQ(outcome.completions.at(2).tokens, run_one(varied(2, 10)).tokens);
    EXPECT_EQ(outcome.completions.at(3).reason, FinishReason::kCancelled);
    EXPECT_TRUE(outcome.completions.at(3).tokens.empty());
  }
}

// ---- Commands between steps ----

TEST(Engine, RequestsMayComeAtAnyTime) {
  const std::vector<Request> requests = mixed_requests();
  const Outcome at_once = generate(1, tiny_options(), requests);
  for (const int num_ranks : {1, 2, 4}) {
    const Outcome late = run_engine(num_ranks, tiny_options(), [&](Engine& engine, Outcome& out) {
      size_t next = 0;
      while (next < requests.size() || !engine.idle()) {
        // Now and then everything that came is finished first.
        if (next == 4 || next == 9) run_to_end(engine, out);
        if (next < requests.size()) engine.add(requests[next++]);
        for (size_t i = 0; i < next % 3; ++i)
          for (Completion& completion : engine.step()) out.completions[completion.id] = std::move(completion);
        if (next == requests.size()) run_to_end(engine, out);
      }
    });
    expect_same_tokens(at_once, late, std::to_string(num_ranks) + " ranks");
  }
}

// Adds, cancels and steps in any order: the ranks stay together, and what is not cancelled is not touched.
TEST(Engine, AnyOrderOfCommands) {
  std::map<int64_t, Completion> whole;
  std::vector<Request> requests = mixed_requests(30);
  for (auto& [id, completion] : generate(1, tiny_options(), requests).completions) whole[id] = completion;
  EngineOptions options = tiny_options();
  options.limits.max_num_seqs = 5;
  options.limits.max_num_batched_tokens = 40;
  options.num_blocks = 20;
  for (const int num_ranks : {1, 2})
    for (uint64_t key = 0; key < 12; ++key) {
      options.cpu_runs_ahead = key % 2 == 1;
      const Outcome outcome = run_engine(num_ranks, options, [&](Engine& engine, Outcome& out) {
        size_t next = 0;
        for (uint64_t i = 0; next < requests.size(); ++i) {
          const uint64_t bits = random_bits(key, i);
          if (bits % 4 == 0) engine.add(requests[next++]);
          if (bits % 16 == 1) engine.cancel(static_cast<int64_t>(bits >> 32) % static_cast<int64_t>(requests.size()));
          if (bits % 4 >= 2)
            for (Completion& completion : engine.step()) out.completions[completion.id] = std::move(completion);
        }
        run_to_end(engine, out);
      });
      ASSERT_EQ(outcome.completions.size(), requests.size());
      for (const auto& [id, completion] : outcome.completions) {
        const std::vector<int32_t>& all = whole.at(id).tokens;
        if (completion.reason != FinishReason::kCancelled) {
          EXPECT_EQ(completion.tokens, all);
        }
        ASSERT_LE(completion.tokens.size(), all.size());
        EXPECT_TRUE(std::equal(completion.tokens.begin(), completion.tokens.end(), all.begin()));
      }
    }
}

TEST(Engine, ACallbackThatThrowsLosesNothing) {
  const Outcome outcome = run_engine(2, tiny_options(), [&](Engine& engine, Outcome& out) {
    int calls = 0;
    engine.on_token = [&](int64_t, std::string_view) {
      if (++calls % 5 == 0) throw Error(ErrorCode::kCancelled, "the reader is gone");
    };
    engine.add(varied(1, 10));
    int thrown = 0;
    while (!engine.idle()) {
      try {
        for (Completion& completion : engine.step()) out.completions[completion.id] = std::move(completion);
      } catch (const Error&) {
        ++thrown;
      }
    }
    EXPECT_EQ(thrown, 2);
  });
  EXPECT_EQ(outcome.completions.at(1).tokens, run_one(varied(1, 10)).tokens);
}

TEST(Engine, FinishDropsWhatIsUnderWay) {
  for (const int num_ranks : {1, 2}) {
    run_engine(num_ranks, tiny_options(), [&](Engine& engine, Outcome&) {
      engine.add(varied(1, 200));
      for (int i = 0; i < 3; ++i) engine.step();
      engine.add(varied(2, 200));
    });
    run_engine(num_ranks, tiny_options(), [&](Engine& engine, Outcome&) { engine.add(varied(1, 200)); });
    run_engine(num_ranks, tiny_options(), [&](Engine&, Outcome&) {});
  }
}

TEST(Engine, ARefusedRequestChangesNothing) {
  const auto refusal = [](Engine& engine, const Request& request) -> std::string {
    try {
      engine.add(request);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return error.what();
    }
    return "(taken)";
  };
  EngineOptions options = tiny_options();
  options.num_blocks = 8;
  const Outcome outcome = run_engine(2, options, [&](Engine& engine, Outcome& out) {
    engine.add(varied(1, 10));
    engine.step();
    const auto expect = [&](const Request& request, const std::vector<std::string>& words) {
      const std::string text = refusal(engine, request);
      for (const std::string& word : words) EXPECT_NE(text.find(word), std::string::npos) << text;
    };
    expect(greedy(5, prompt_of(1, 300), 4), {"request 5", "300", "256"});
    expect(greedy(6, prompt_of(1, 100), 100), {"request 6", "100", "13 blocks", "8"});
    expect(greedy(7, {}, 4), {"request 7", "prompt is empty"});
    expect(greedy(8, {3, 256}, 4), {"request 8", "token 1 of the prompt is 256", "between 0 and 255"});
    expect(greedy(9, {3, -1}, 4), {"is -1"});
    expect(greedy(1, {3}, 4), {"request 1", "under way"});
    Request bad = greedy(10, {3}, 4);
    bad.sampling.top_p = 2;
    expect(bad, {"top_p is 2"});
    bad = greedy(11, {3}, 4);
    bad.sampling.stop_token_ids = {1000};
    expect(bad, {"stop_token_ids has 1000"});
    run_to_end(engine, out);
    engine.add(varied(1, 10));  // its id is free again
    run_to_end(engine, out);
  });
  EXPECT_EQ(outcome.order, (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(outcome.completions.at(1).tokens, run_one(varied(1, 10)).tokens);
}

TEST(Engine, StopStringsNeedATokenizer) {
  Communicator group;
  Stream stream;
  Model model = tiny_model(group, stream);
  Engine engine(&model, &group, nullptr, tiny_options(), &stream);
  Request request = varied(1, 5);
  request.sampling.stop = {"x"};
  EXPECT_THROW(engine.add(request), Error);
  engine.add(varied(2, 5));
  Outcome outcome;
  run_to_end(engine, outcome);
  EXPECT_EQ(outcome.completions.at(2).tokens.size(), 5u);
  EXPECT_EQ(outcome.completions.at(2).text, "");
}

TEST(Engine, RanksWithDifferentOptionsAreToldSo) {
  try {
    run_ranks(2, [&](Communicator& group) {
      Stream stream;
      Model model = tiny_model(group, stream);
      EngineOptions options = tiny_options();
      options.limits.max_num_seqs = 10 + group.rank();
      Engine engine(&model, &group, nullptr, options, &stream);
      if (group.rank() != 0) return engine.follow();
      engine.add(varied(1, 5));
      Outcome outcome;
      run_to_end(engine, outcome);
    });
    FAIL() << "the ranks disagree";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("max_num_seqs 11"), std::string::npos) << error.what();
  }
}

TEST(Engine, StepsAreTracedByPhase) {
  Communicator group;
  Stream stream;
  Model model = tiny_model(group, stream);
  EngineOptions options = tiny_options();
  options.limits.max_num_batched_tokens = 8;
  Engine engine(&model, &group, nullptr, options, &stream);
  const auto before = trace_log.totals();
  trace_log.start(0);
  engine.add(varied(1, 5));  // 20 tokens of prompt: three steps, the last of which gives the first token
  Outcome outcome;
  run_to_end(engine, outcome);
  EXPECT_EQ(engine.stats().num_steps, 7);
  EXPECT_EQ(engine.stats().num_prefill_tokens, 20);
  EXPECT_EQ(engine.stats().num_decode_tokens, 4);
  const auto& after = trace_log.totals();
  EXPECT_EQ(after[0].num_steps - before[0].num_steps, 3);
  EXPECT_EQ(after[1].num_steps - before[1].num_steps, 4);
  EXPECT_GT(after[1].op_ns[static_cast<size_t>(TraceKind::kOther)], 0);
}

}  // namespace
}  // namespace lane
