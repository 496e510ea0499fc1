#include "lane/runtime/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "lane/base/random.h"

namespace lane {
namespace {

Request request_of(int64_t id, std::vector<int32_t> prompt, int64_t max_tokens) {
  Request request{.id = id, .prompt = std::move(prompt), .sampling = {}};
  request.sampling.max_tokens = max_tokens;
  return request;
}

// What the model would say: a function of all tokens so far.
int32_t next_token(const Sequence& sequence, int64_t end) {
  uint64_t hash = static_cast<uint64_t>(sequence.request.id % 3);  // some requests go on alike
  for (int64_t i = 0; i < end; ++i) hash = mix64(hash ^ static_cast<uint32_t>(sequence.tokens[static_cast<size_t>(i)]));
  return static_cast<int32_t>(hash % 5);
}

struct Simulation {
  SchedulerLimits limits;
  int64_t num_blocks;
  int block_tokens;
};

// Plays the engine and checks every step. A computed token is remembered by its block and slot, as the tokens up to it:
// what a sequence reads from its table must be what it would have computed.
class Player {
 public:
  explicit Player(const Simulation& simulation)
      : simulation_(simulation),
        pool_(simulation.num_blocks, simulation.block_tokens),
        scheduler_(simulation.limits, &pool_),
        cache_(static_cast<size_t>(simulation.num_blocks * simulation.block_tokens)) {}

  bool add(Request request) {
    const int64_t id = request.id;
    try {
      scheduler_.add(std::move(request));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return false;
    }
    order_.push_back(id);
    return true;
  }

  void cancel(int64_t id) {
    ASSERT_NE(scheduler_.remove(id), nullptr);
    forget(id);
  }

  // Returns the ids of those that finished.
  std::vector<int64_t> step() {
    const std::vector<ScheduledWork>& step = scheduler_.plan_step();
    check_plan(step);
    std::vector<int32_t> sampled;
    for (const ScheduledWork& work : step) {
      compute(work);
      sampled.push_back(work.samples ? next_token(*work.sequence, work.begin + work.count) : -1);
      log_.insert(log_.end(), {work.sequence->request.id, work.begin, work.count, work.samples, sampled.back()});
    }
    scheduler_.book_step();
    scheduler_.fill_step(sampled);
    std::vector<int64_t> finished;
    for (const ScheduledWork& work : step) {
      Sequence& sequence = *work.sequence;
      if (!work.samples) continue;
      const bool stops = sequence.tokens.back() == 4 && sequence.request.id % 2 == 0;  // end of sequence
      if (stops || static_cast<int64_t>(sequence.tokens.size()) == sequence.max_length)
        finished.push_back(sequence.request.id);
    }
    for (const int64_t id : finished) {
      const auto sequence = scheduler_.remove(id);
      outputs_[id].assign(sequence->tokens.begin() + sequence->num_prompt(), sequence->tokens.end());
      forget(id);
    }
    check_pool();
    return finished;
  }

  bool idle() const { return scheduler_.idle(); }
  const std::vector<int64_t>& order() const { return order_; }
  const std::map<int64_t, std::vector<int32_t>>& outputs() const { return outputs_; }
  const std::vector<int64_t>& log() const { return log_; }
  const std::map<int64_t, const Sequence*>& running() const { return running_; }
  Scheduler& scheduler() { return scheduler_; }
  BlockPool& pool() { return pool_; }
  int64_t num_computed() const { return num_computed_; }

 private:
  void forget(int64_t id) { std::erase(order_, id), running_.erase(id); }

  void check_plan(const std::vector<ScheduledWork>& step) {
    ASSERT_EQ(step.empty(), scheduler_.idle());
    int64_t num_tokens = 0;
    std::set<int64_t> ids;
    for (const ScheduledWork& work : step) {
      const Sequence& sequence = *work.sequence;
      running_[sequence.request.id] = &sequence;
      num_tokens += work.count;
      ASSERT_TRUE(ids.insert(sequence.request.id).second) << "one work a sequence";
      ASSERT_GT(work.count, 0);
      ASSERT_EQ(work.begin, sequence.num_computed);
      ASSERT_LE(work.begin + work.count, static_cast<int64_t>(sequence.tokens.size()));
      ASSERT_EQ(work.samples, work.begin + work.count == static_cast<int64_t>(sequence.tokens.size()));
      ASSERT_GE(static_cast<int64_t>(sequence.blocks.size()), pool_.blocks_for(work.begin + work.count));
      ASSERT_LE(static_cast<int64_t>(sequence.blocks.size()),
                pool_.blocks_for(static_cast<int64_t>(sequence.tokens.size())));
      for (int64_t at = work.begin / simulation_.block_tokens; at < pool_.blocks_for(work.begin + work.count); ++at) {
        const int32_t block = sequence.blocks[static_cast<size_t>(at)];
        ASSERT_EQ(pool_.num_references(block), 1) << "written by its only holder";
        ASSERT_FALSE(pool_.is_published(block));
      }
    }
    ASSERT_LE(num_tokens, simulation_.limits.max_num_batched_tokens);
    ASSERT_LE(scheduler_.num_running(), simulation_.limits.max_num_seqs);
    ASSERT_EQ(scheduler_.num_running() + scheduler_.num_waiting(), static_cast<int64_t>(order_.size()));
    if (!step.empty()) {
      ASSERT_TRUE(ids.contains(order_.front())) << "the oldest proceeds";
    }
    // Those that run are the oldest ones. (A sequence runs if it holds blocks; those set back hold none.)
    for (auto it = running_.begin(); it != running_.end();) it = it->second->blocks.empty() ? running_.erase(it) : ++it;
    ASSERT_EQ(static_cast<int64_t>(running_.size()), scheduler_.num_running());
    for (int64_t i = 0; i < scheduler_.num_running(); ++i)
      ASSERT_TRUE(running_.contains(order_[static_cast<size_t>(i)])) << "nobody overtakes";
    // Who decodes comes first.
    bool prompts = false;
    for (const ScheduledWork& work : step) {
      const bool decodes = work.begin + 1 == static_cast<int64_t>(work.sequence->tokens.size()) && work.begin > 0 &&
                           work.sequence->num_output() > 0 && work.sequence->num_preemptions == 0;
      ASSERT_FALSE(prompts && decodes);
      prompts |= work.count > 1;
    }
  }

  void compute(const ScheduledWork& work) {
    const Sequence& sequence = *work.sequence;
    const auto slot = [&](int64_t at) -> std::vector<int32_t>& {
      const int64_t block = sequence.blocks[static_cast<size_t>(at / simulation_.block_tokens)];
      return cache_[static_cast<size_t>(block * simulation_.block_tokens + at % simulation_.block_tokens)];
    };
    for (int64_t at = work.begin; at < work.begin + work.count; ++at, ++num_computed_)
      slot(at).assign(sequence.tokens.begin(), sequence.tokens.begin() + at + 1);
    for (int64_t at = 0; at < work.begin; ++at)
      ASSERT_TRUE(static_cast<int64_t>(slot(at).size()) == at + 1 &&
                  std::equal(slot(at).begin(), slot(at).end(), sequence.tokens.begin()))
          << "the cache holds what this sequence has at " << at;
  }

  void check_pool() {
    std::map<int32_t, int32_t> references;
    for (const auto& [id, sequence] : running_)
      for (const int32_t block : sequence->blocks) ++references[block];
    for (int32_t block = 0; block < pool_.num_blocks(); ++block) {
      const int32_t count = references.contains(block) ? references[block] : 0;
      ASSERT_EQ(pool_.num_references(block), count);
      if (count > 1) {
        ASSERT_TRUE(pool_.is_published(block)) << "only what is published is shared";
      }
    }
    ASSERT_EQ(pool_.num_available(), pool_.num_blocks() - static_cast<int64_t>(references.size()));
  }

  Simulation simulation_;
  BlockPool pool_;
  Scheduler scheduler_;
  std::vector<std::vector<int32_t>> cache_;  // [block * block_tokens + slot] the tokens up to this one
  std::vector<int64_t> order_;               // unfinished requests, oldest first
  std::map<int64_t, const Sequence*> running_;
  std::map<int64_t, std::vector<int32_t>> outputs_;
  std::vector<int64_t> log_;
  int64_t num_computed_ = 0;
};

struct Random {
  uint64_t seed, counter = 0;
  int64_t below(int64_t limit) {
    return static_cast<int64_t>(random_bits(seed, counter++) % static_cast<uint64_t>(limit));
  }
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
};

Simulation random_simulation(Random& random) {
  Simulation simulation;
  simulation.block_tokens = static_cast<int>(std::vector<int64_t>{1, 2, 4, 16}[static_cast<size_t>(random.below(4))]);
  simulation.num_blocks = 1 + random.between(1, random.below(2) == 0 ? 80 : 160) / simulation.block_tokens;
  simulation.limits.max_num_seqs = random.between(1, 10);
  simulation.limits.max_num_batched_tokens = random.between(1, random.below(2) == 0 ? 8 : 64);
  simulation.limits.max_model_len = random.between(random.below(8) == 0 ? 2 : 40, 120);
  return simulation;
}

Request random_request(Random& random, int64_t id) {
  std::vector<int32_t> prompt;
  const int64_t shared = random.below(30), own = random.between(1, random.below(4) == 0 ? 60 : 8);
  for (int64_t i = 0; i < shared; ++i) prompt.push_back(static_cast<int32_t>(i));
  for (int64_t i = 0; i < own; ++i) prompt.push_back(static_cast<int32_t>(random.below(3)));
  return request_of(id, prompt, random.between(1, 40));
}

std::vector<int32_t> output_alone(const Request& request, int64_t max_model_len) {
  Player player({{1, 1000, max_model_len}, (max_model_len + 15) / 16, 16});
  EXPECT_TRUE(player.add(request));
  while (!player.idle()) player.step();
  return player.outputs().at(request.id);
}

// The proof by experiment that everything finishes, with the same output as alone, whatever the limits are.
TEST(Scheduler, RandomSimulations) {
  int64_t num_requests = 0, num_refused = 0, num_preemptions = 0, num_cancelled = 0;
  for (uint64_t seed = 0; seed < 300 && !HasFatalFailure(); ++seed) {
    Random random{seed};
    const Simulation simulation = random_simulation(random);
    Player player(simulation), copy(simulation);  // every rank runs one
    std::map<int64_t, std::vector<int32_t>> expected;
    int64_t id = 0, work = 0;
    for (int turn = 0; turn < 60 || !player.idle(); ++turn) {
      if (turn < 60)
        for (int64_t arrivals = random.below(3); arrivals > 0; --arrivals) {
          const Request request = random_request(random, id++);
          ++num_requests;
          const bool taken = player.add(request);
          ASSERT_EQ(taken, copy.add(request));
          if (!taken) {
            ++num_refused;
            continue;
          }
          expected[request.id] = output_alone(request, simulation.limits.max_model_len);
          work += static_cast<int64_t>(request.prompt.size()) + request.sampling.max_tokens;
        }
      if (random.below(25) == 0 && !player.order().empty()) {
        const int64_t victim =
            player.order()[static_cast<size_t>(random.below(static_cast<int64_t>(player.order().size())))];
        player.cancel(victim), copy.cancel(victim);
        expected.erase(victim);
        ++num_cancelled;
      }
      player.step(), copy.step();
      ASSERT_FALSE(HasFatalFailure()) << "seed " << seed;
      ASSERT_LT(turn, 60 + 2 * work) << "seed " << seed << ": it does not come to an end";
    }
    ASSERT_EQ(player.outputs(), expected) << "seed " << seed;
    ASSERT_EQ(player.log(), copy.log()) << "seed " << seed << ": two copies decide alike";
    ASSERT_EQ(player.pool().num_available(), simulation.num_blocks);
    num_preemptions += player.scheduler().num_preemptions();
  }
  EXPECT_GT(num_requests, 10000);
  EXPECT_LT(num_refused, num_requests / 2);
  EXPECT_GT(num_preemptions, 1000);
  EXPECT_GT(num_cancelled, 100);
}

TEST(Scheduler, EveryTokenOnceUnlessPreempted) {
  Player player({{8, 32, 200}, 200, 4});  // room for all
  int64_t num_tokens = 0;
  for (int64_t id = 0; id < 8; ++id) {
    std::vector<int32_t> prompt(static_cast<size_t>(10 + id), static_cast<int32_t>(1000 + id));  // nothing in common
    num_tokens += static_cast<int64_t>(prompt.size());
    ASSERT_TRUE(player.add(request_of(2 * id + 1, prompt, 9)));
  }
  while (!player.idle()) player.step();
  EXPECT_EQ(player.scheduler().num_preemptions(), 0);
  EXPECT_EQ(player.num_computed(), num_tokens + 8 * (9 - 1));  // the last token of each is never computed
}

TEST(Scheduler, DecodesGoBeforeChunksOfPrompts) {
  BlockPool pool(100, 16);
  Scheduler scheduler({.max_num_seqs = 4, .max_num_batched_tokens = 8, .max_model_len = 100}, &pool);
  scheduler.add(request_of(1, {1, 2, 3}, 20));
  scheduler.add(request_of(2, std::vector<int32_t>(20, 7), 20));
  const auto expect = [&](std::vector<std::array<int64_t, 4>> want) {
    std::vector<std::array<int64_t, 4>> got;
    const auto& step = scheduler.plan_step();
    for (const ScheduledWork& work : step)
      got.push_back({work.sequence->request.id, work.begin, work.count, work.samples});
    EXPECT_EQ(got, want);
    scheduler.book_step();
    scheduler.fill_step(std::vector<int32_t>(step.size(), 5));
  };
  expect({{1, 0, 3, 1}, {2, 0, 5, 0}});
  expect({{1, 3, 1, 1}, {2, 5, 7, 0}});
  scheduler.add(request_of(3, {9, 9}, 20));
  expect({{1, 4, 1, 1}, {2, 12, 7, 0}});
  expect({{1, 5, 1, 1}, {2, 19, 1, 1}, {3, 0, 2, 1}});
  expect({{1, 6, 1, 1}, {2, 20, 1, 1}, {3, 2, 1, 1}});
  EXPECT_EQ(scheduler.remove(2)->tokens.size(), 22u);
  EXPECT_EQ(scheduler.remove(2), nullptr);
  expect({{1, 7, 1, 1}, {3, 3, 1, 1}});
}

TEST(Scheduler, TheSecondPromptTakesOverTheBeginning) {
  BlockPool pool(100, 4);
  Scheduler scheduler({.max_num_seqs = 4, .max_num_batched_tokens = 64, .max_model_len = 100}, &pool);
  std::vector<int32_t> prompt(18, 3);
  scheduler.add(request_of(1, prompt, 5));
  scheduler.plan_step();
  scheduler.book_step();
  scheduler.fill_step({8});
  prompt.push_back(4);
  scheduler.add(request_of(2, prompt, 5));
  const auto& step = scheduler.plan_step();  // while the first is still running
  ASSERT_EQ(step.size(), 2u);
  EXPECT_EQ(step[1].begin, 16);
  EXPECT_EQ(step[1].count, 3);
  EXPECT_EQ(step[1].sequence->num_cached, 16);
  EXPECT_EQ(step[1].sequence->blocks[3], step[0].sequence->blocks[3]);
}

TEST(Scheduler, TheYoungestIsSetBack) {
  BlockPool pool(4, 2);
  Scheduler scheduler({.max_num_seqs = 4, .max_num_batched_tokens = 64, .max_model_len = 100}, &pool);
  scheduler.add(request_of(1, {1, 2}, 6));
  scheduler.add(request_of(2, {3, 4}, 6));
  size_t most = 0;
  std::vector<int64_t> finished;
  for (int i = 0; i < 30 && !scheduler.idle(); ++i) {
    const auto& step = scheduler.plan_step();
    EXPECT_EQ(step[0].sequence->request.id, finished.empty() ? 1 : 2);
    most = std::max(most, step.size());
    scheduler.book_step();
    scheduler.fill_step(std::vector<int32_t>(step.size(), 5));
    for (const int64_t id : {1, 2})
      for (const ScheduledWork& work : step)
        if (work.sequence->request.id == id && work.sequence->num_output() == 6) {
          EXPECT_EQ(work.sequence->num_preemptions, id == 2 ? scheduler.num_preemptions() : 0);
          finished.push_back(id);
        }
    for (const int64_t id : finished) scheduler.remove(id);
  }
  EXPECT_EQ(finished, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(most, 2u);
  EXPECT_GE(scheduler.num_preemptions(), 1);
  EXPECT_EQ(pool.num_available(), 4);
}

TEST(Scheduler, NoMoreSequencesThanTokensInAStep) {
  Player player({{.max_num_seqs = 50, .max_num_batched_tokens = 3, .max_model_len = 50}, 100, 16});
  for (int64_t id = 0; id < 10; ++id) ASSERT_TRUE(player.add(request_of(id, {1}, 5)));
  while (!player.idle()) {
    player.step();
    ASSERT_LE(player.scheduler().num_running(), 3);
  }
}

std::string refusal(const Simulation& simulation, int64_t num_prompt, int64_t max_tokens) {
  BlockPool pool(simulation.num_blocks, simulation.block_tokens);
  Scheduler scheduler(simulation.limits, &pool);
  try {
    scheduler.add(request_of(7, std::vector<int32_t>(static_cast<size_t>(num_prompt), 1), max_tokens));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_TRUE(scheduler.idle());
    return error.what();
  }
  return "";
}

TEST(Scheduler, RefusesWhatCanNeverFit) {
  const Simulation simulation{{.max_num_seqs = 4, .max_num_batched_tokens = 8, .max_model_len = 64}, 3, 16};
  EXPECT_EQ(refusal(simulation, 0, 1), "request 7: the prompt has no tokens");
  EXPECT_EQ(refusal(simulation, 64, 1),
            "request 7: the prompt has 64 tokens, but prompt and output together may have 64 (max_model_len)");
  EXPECT_EQ(refusal(simulation, 40, 10),
            "request 7: 40 prompt tokens and at most 10 of output need 4 blocks of 16 tokens, but the KV cache has 3");
  EXPECT_EQ(refusal(simulation, 40, 9), "");  // the 49th token is never computed
  EXPECT_THROW(Scheduler({.max_num_seqs = 0}, nullptr), Error);
}

TEST(Scheduler, OutputIsCutAtTheLongestLength) {
  BlockPool pool(10, 16);
  Scheduler scheduler({.max_num_seqs = 4, .max_num_batched_tokens = 8, .max_model_len = 20}, &pool);
  scheduler.add(request_of(1, {1, 2}, std::numeric_limits<int64_t>::max()));
  scheduler.add(request_of(2, {1, 2}, 3));
  const auto& step = scheduler.plan_step();
  EXPECT_EQ(step[0].sequence->max_length, 20);
  EXPECT_EQ(step[1].sequence->max_length, 5);
}

}  // namespace
}  // namespace lane
