// Every schedule is proven for 1 to 64 ranks; broken ones must be found out.
#include "lane/plan/schedule.h"

#include <gtest/gtest.h>

#include <set>

#include "lane/base/error.h"
#include "lane/plan/verify.h"

namespace lane::plan {
namespace {

constexpr Collective kCollectives[] = {Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather,
                                       Collective::kBroadcast, Collective::kGather};

std::set<int> roots_of(Collective collective, int num_ranks) {
  if (collective != Collective::kBroadcast && collective != Collective::kGather) return {0};
  return {0, 1 % num_ranks, num_ranks / 2, num_ranks - 1};
}

TEST(Schedules, AreProvenForOneToSixtyFourRanks) {
  for (const Collective collective : kCollectives)
    for (const std::string& name : schedule_names(collective))
      for (int num_ranks = 1; num_ranks <= 64; ++num_ranks)
        for (const int root : roots_of(collective, num_ranks)) {
          const Schedule schedule = make_schedule(name, collective, num_ranks, root);
          EXPECT_EQ(schedule.name, name);
          EXPECT_EQ(schedule.num_ranks(), num_ranks);
          ASSERT_EQ(verify(schedule, collective, root), "")
              << name_of(collective) << " " << name << ", " << num_ranks << " ranks, root " << root;
        }
}

TEST(Schedules, AreTheSameEveryTime) {
  for (const Collective collective : kCollectives)
    for (const std::string& name : schedule_names(collective))
      EXPECT_EQ(make_schedule(name, collective, 13).program, make_schedule(name, collective, 13).program);
}

TEST(Schedules, UnknownNamesAreAnsweredWithTheKnownOnes) {
  try {
    make_schedule("fastest", Collective::kAllReduce, 4);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_STREQ(error.what(), "no all_reduce algorithm is called fastest; known: one_shot, two_shot, ring");
  }
  EXPECT_THROW(make_schedule("ring", Collective::kAllReduce, 0), Error);
  EXPECT_THROW(make_schedule("direct", Collective::kBroadcast, 4, 4), Error);
}

// Calls broken(schedule, what) for every schedule that differs by one step from a correct one and cannot be correct.
template <class Broken>
void for_each_mutation(const Schedule& good, Broken&& broken) {
  const int n = good.num_ranks();
  for (int rank = 0; rank < n; ++rank)
    for (size_t i = 0; i < good.program[rank].size(); ++i) {
      const auto with = [&](auto&& change, const std::string& what) {
        Schedule bad = good;
        change(bad.program[rank]);
        broken(bad, what + " in step " + std::to_string(i) + " of rank " + std::to_string(rank));
      };
      const Step step = good.program[rank][i];
      const auto at = static_cast<std::ptrdiff_t>(i);
      with([&](auto& program) { program.erase(program.begin() + at); }, "step left out");
      with([&](auto& program) { program.insert(program.begin() + at, step); }, "step twice");
      with([&](auto& program) { program[i].chunk = -1; }, "no chunk");
      if (good.num_chunks > 1)
        with([&](auto& program) { program[i].chunk = (step.chunk + 1) % good.num_chunks; }, "another chunk");
      if (step.action != Action::kReduce) {
        with([&](auto& program) { program[i].peer = rank; }, "itself as peer");
        with([&](auto& program) { program[i].peer = n; }, "no such peer");
        with([&](auto& program) { program[i].round += 1; }, "later round");
        if (n > 2) {
          const int other = (step.peer + 1) % n == rank ? (step.peer + 2) % n : (step.peer + 1) % n;
          with([&](auto& program) { program[i].peer = other; }, "another peer");
        }
        for (const Action action : {Action::kSend, Action::kRecv, Action::kRecvReduce, Action::kCollect})
          // Adding at once instead of setting aside can be right: where one rank alone sums, or where it is next
          // anyway.
          if (action != step.action && !(step.action == Action::kCollect && action == Action::kRecvReduce))
            with([&](auto& program) { program[i].action = action; }, "another action");
      }
    }
}

// Sums where the chunk is missing, copies where a sum is due, and the like.
TEST(Verify, RejectsEveryMutation) {
  int num_mutations = 0;
  for (const Collective collective : kCollectives)
    for (const std::string& name : schedule_names(collective))
      for (const int num_ranks : {2, 3, 5, 8})
        for_each_mutation(make_schedule(name, collective, num_ranks),
                          [&](const Schedule& bad, const std::string& what) {
                            ++num_mutations;
                            EXPECT_NE(verify(bad, collective), "")
                                << name_of(collective) << " " << name << " for " << num_ranks << ": " << what;
                          });
  EXPECT_GT(num_mutations, 10'000);
}

Schedule hand_made(int num_chunks, std::vector<std::vector<Step>> program) {
  return {.name = "hand made", .num_chunks = num_chunks, .program = std::move(program)};
}

TEST(Verify, FindsDeadlock) {
  // Both receive first.
  const Schedule bad = hand_made(1, {{{Action::kCollect, 1, 0}, {Action::kReduce, -1, 0}, {Action::kSend, 1, 0, 1}},
                                     {{Action::kCollect, 0, 0}, {Action::kReduce, -1, 0}, {Action::kSend, 0, 0, 1}}});
  EXPECT_NE(verify(bad, Collective::kAllReduce).find("for ever"), std::string::npos);
}

TEST(Verify, FindsDeadlockThatOnlySmallLinksHave) {
  // Two messages under way on a link before the other side takes the first.
  const Schedule bad = hand_made(2, {{{Action::kSend, 1, 0},
                                      {Action::kSend, 1, 1},
                                      {Action::kCollect, 1, 0},
                                      {Action::kReduce, -1, 0},
                                      {Action::kCollect, 1, 1},
                                      {Action::kReduce, -1, 1}},
                                     {{Action::kSend, 0, 0},
                                      {Action::kSend, 0, 1},
                                      {Action::kCollect, 0, 0},
                                      {Action::kReduce, -1, 0},
                                      {Action::kCollect, 0, 1},
                                      {Action::kReduce, -1, 1}}});
  EXPECT_NE(verify(bad, Collective::kAllReduce).find("for ever"), std::string::npos);
}

TEST(Verify, FindsAContributionAddedTwice) {
  const Schedule bad = hand_made(1, {{{Action::kSend, 1, 0, 0}, {Action::kRecvReduce, 1, 0, 1}},
                                     {{Action::kRecvReduce, 0, 0, 0}, {Action::kSend, 0, 0, 1}}});
  EXPECT_EQ(verify(bad, Collective::kAllReduce), "rank 0 adds the contribution of rank 0 to chunk 0 twice");
}

TEST(Verify, FindsAnotherOrderOfAddition) {
  // Both have the sum of three, but (0+1)+2 and (1+2)+0.
  const Schedule bad =
      hand_made(1, {{{Action::kSend, 1, 0, 0}, {Action::kRecvReduce, 1, 0, 1}, {Action::kRecv, 1, 0, 2}},
                    {{Action::kRecvReduce, 2, 0, 0}, {Action::kSend, 0, 0, 1}, {Action::kRecvReduce, 0, 0, 0}},
                    {{Action::kSend, 1, 0, 0}}});
  EXPECT_NE(verify(bad, Collective::kAllReduce), "");

  const Schedule two_orders = hand_made(1, {{{Action::kSend, 1, 0, 0}, {Action::kRecvReduce, 1, 0, 0}},
                                            {{Action::kSend, 0, 0, 0}, {Action::kRecvReduce, 0, 0, 0}}});
  EXPECT_EQ(verify(two_orders, Collective::kAllReduce), "rank 1 adds chunk 0 up in another order than others");
}

TEST(Verify, FindsWhatIsPassedOnTooEarly) {
  const Schedule bad = hand_made(
      1,
      {{{Action::kSend, 1, 0, 0}}, {{Action::kRecv, 0, 0, 0}, {Action::kSend, 2, 0, 0}}, {{Action::kRecv, 1, 0, 0}}});
  EXPECT_EQ(verify(bad, Collective::kBroadcast), "rank 1 passes chunk 0 on in round 0, which brings it");
  const Schedule empty = hand_made(1, {{}, {{Action::kSend, 2, 0, 0}}, {{Action::kRecv, 1, 0, 0}}});
  EXPECT_EQ(verify(empty, Collective::kBroadcast), "rank 1 sends chunk 0 before it has it");
}

TEST(Verify, FindsOverwrittenContributions) {
  const Schedule bad = hand_made(1, {{{Action::kSend, 1, 0, 0}}, {{Action::kRecv, 0, 0, 0}}});
  EXPECT_EQ(verify(bad, Collective::kAllReduce), "rank 1 overwrites contributions to chunk 0 that only it has");
}

}  // namespace
}  // namespace lane::plan
