// Broken schedules must be found out.
#include "lane/plan/verify.h"

#include <gtest/gtest.h>

#include <functional>

namespace lane::plan {
namespace {

constexpr Collective kCollectives[] = {Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather,
                                       Collective::kBroadcast, Collective::kGather,        Collective::kAllToAll};

using Broken = std::function<void(const Schedule&, const std::string& what)>;
using Change = std::function<void(std::vector<Step>&)>;

// Calls broken(schedule, what) for every schedule that differs by one step from a correct one and cannot be correct.
void for_each_mutation(const Schedule& good, const Broken& broken) {
  const int n = good.num_ranks();
  Schedule bad = good;
  for (int rank = 0; rank < n; ++rank)
    for (size_t i = 0; i < good.program[rank].size(); ++i) {
      const auto with = [&](const std::string& what, const Change& change) {
        change(bad.program[rank]);
        broken(bad, what + " in step " + std::to_string(i) + " of rank " + std::to_string(rank));
        bad.program[rank] = good.program[rank];
      };
      const Step step = good.program[rank][i];
      const auto at = static_cast<std::ptrdiff_t>(i);
      with("step left out", [&](auto& program) { program.erase(program.begin() + at); });
      with("step twice", [&](auto& program) { program.insert(program.begin() + at, step); });
      with("no chunk", [&](auto& program) { program[i].chunk = -1; });
      with("no such chunk", [&](auto& program) { program[i].chunk = good.num_chunks; });
      with("later round", [&](auto& program) { program[i].round += 1; });
      with("earlier round", [&](auto& program) { program[i].round -= 1; });
      with("multicast", [&](auto& program) { program[i].by_multicast = !step.by_multicast; });
      if (good.num_chunks > 1)
        with("another chunk", [&](auto& program) { program[i].chunk = (step.chunk + 1) % good.num_chunks; });
      if (i + 1 < good.program[rank].size()) {
        const Step& next = good.program[rank][i + 1];
        // Messages to different ranks may change places, and chunks that are added up of different messages.
        const bool same_message = next.peer == step.peer && next.action == step.action && step.peer >= 0;
        if (same_message || next.action == Action::kReduce || next.round != step.round)
          if (!(step.action == Action::kReduce && next.round == step.round))
            with("changed places", [&](auto& program) { std::swap(program[i], program[i + 1]); });
      }
      if (step.action == Action::kMulticast) {
        with("sent to one", [&](auto& program) {
          program[i] = {Action::kSend, (rank + 1) % n, step.chunk, step.round};
        });
      } else {
        with("itself as peer", [&](auto& program) { program[i].peer = rank; });
        with("no such peer", [&](auto& program) { program[i].peer = n; });
      }
      if (step.peer < 0) continue;
      with("no peer", [&](auto& program) { program[i].peer = -1; });
      if (n > 2) {
        const int other = (step.peer + 1) % n == rank ? (step.peer + 2) % n : (step.peer + 1) % n;
        with("another peer", [&](auto& program) { program[i].peer = other; });
      }
      for (const Action action : {Action::kSend, Action::kRecv, Action::kRecvReduce, Action::kCollect})
        if (action != step.action) with("another action", [&](auto& program) { program[i].action = action; });
      with("multicast", [&](auto& program) { program[i] = {Action::kMulticast, -1, step.chunk, step.round}; });
    }
}

// Sums where the chunk is missing, copies where a sum is due, and the like.
TEST(Verify, RejectsEveryMutation) {
  int num_mutations = 0;
  const std::vector<Layout> layouts = {Layout::one_node(2), Layout::one_node(3),      Layout::one_node(5),
                                       Layout::one_node(8), Layout::of_sizes({2, 2}), Layout{{1, 0, 1, 2, 1}}};
  for (const Layout& layout : layouts)
    for (const Collective collective : kCollectives)
      for (const std::string& name : schedule_names(collective, layout)) {
        if (name.ends_with("double_tree:16")) continue;  // as double_tree:4, only longer
        for_each_mutation(make_schedule(name, collective, layout), [&](const Schedule& bad, const std::string& what) {
          ++num_mutations;
          EXPECT_NE(verify(bad, collective, layout), "")
              << name_of(collective) << " " << name << " for " << layout.num_ranks() << ": " << what;
        });
      }
  EXPECT_GT(num_mutations, 100'000);
}

Schedule hand_made(int num_chunks, std::vector<std::vector<Step>> program) {
  return {.name = "hand made", .num_chunks = num_chunks, .program = std::move(program)};
}

std::string flaw_of(const Schedule& schedule, Collective collective = Collective::kAllReduce) {
  return verify(schedule, collective, Layout::one_node(schedule.num_ranks()));
}

TEST(Verify, FindsDeadlock) {
  // Each waits in round 0 for what the other sends in round 1.
  const std::vector<Step> waits_first_of_1 = {{Action::kRecvReduce, 1, 0, 0}, {Action::kSend, 1, 0, 1}};
  const std::vector<Step> waits_first_of_0 = {{Action::kRecvReduce, 0, 0, 0}, {Action::kSend, 0, 0, 1}};
  EXPECT_EQ(flaw_of(hand_made(1, {waits_first_of_1, waits_first_of_0})),
            "rank 0 waits for ever for chunk 0 of rank 1 in round 0");
  // The same in one round is two messages that pass each other, but sends must be listed first.
  EXPECT_EQ(flaw_of(hand_made(1, {{{Action::kRecvReduce, 1, 0}, {Action::kSend, 1, 0}},
                                  {{Action::kSend, 0, 0}, {Action::kRecvReduce, 0, 0}}})),
            "rank 0 does not send first, then receive, then add up in round 0");
  EXPECT_EQ(flaw_of(hand_made(1, {{{Action::kSend, 1, 0}, {Action::kRecvReduce, 1, 0}},
                                  {{Action::kSend, 0, 0}, {Action::kRecvReduce, 0, 0}}})),
            "");
}

TEST(Verify, FindsSumsThatWaitForEachOther) {
  // Ranks 1 and 2 each send rank 0 chunks 0 and 1 in one message. Chunk 1 cannot be added up before chunk 0 has gone.
  const auto with = [](int first, int second) {
    const std::vector<Step> sender = {
        {Action::kSend, 0, 0}, {Action::kSend, 0, 1}, {Action::kRecv, 0, 0, 1}, {Action::kRecv, 0, 1, 1}};
    return hand_made(2, {{{Action::kCollect, 1, 0},
                          {Action::kCollect, 1, 1},
                          {Action::kCollect, 2, 0},
                          {Action::kCollect, 2, 1},
                          {Action::kReduce, -1, first},
                          {Action::kReduce, -1, second},
                          {Action::kSend, 1, 0, 1},
                          {Action::kSend, 1, 1, 1},
                          {Action::kSend, 2, 0, 1},
                          {Action::kSend, 2, 1, 1}},
                         sender,
                         sender});
  };
  EXPECT_EQ(flaw_of(with(0, 1)), "");
  EXPECT_EQ(flaw_of(with(1, 0)), "rank 0 adds up chunk 1 in round 0 before another that rank 1 sent first");
}

TEST(Verify, FindsMessagesCutInAnotherWay) {
  // Rank 0 sends two messages, because a step with another peer is between; rank 1 expects one.
  const auto received_as = [](std::vector<Step> rank_1) {
    return hand_made(2, {{{Action::kSend, 1, 0}, {Action::kSend, 2, 0}, {Action::kSend, 1, 1}, {Action::kSend, 2, 1}},
                         std::move(rank_1),
                         {{Action::kRecv, 0, 0}, {Action::kRecv, 0, 1}}});
  };
  EXPECT_EQ(flaw_of(received_as({{Action::kRecv, 0, 0}, {Action::kRecv, 0, 1}}), Collective::kBroadcast),
            "rank 1 waits for ever for chunk 1 in the message of rank 0 of round 0");
}

TEST(Verify, FindsAContributionAddedTwice) {
  const Schedule bad = hand_made(1, {{{Action::kSend, 1, 0, 0}, {Action::kRecvReduce, 1, 0, 1}},
                                     {{Action::kRecvReduce, 0, 0, 0}, {Action::kSend, 0, 0, 1}}});
  EXPECT_EQ(flaw_of(bad), "rank 0 adds the contribution of rank 0 to chunk 0 twice");
}

TEST(Verify, FindsAnotherOrderOfAddition) {
  // Rank 0 adds up ((0+1)+2)+3, rank 2 (0+1)+(2+3); ranks 1 and 3 take what rank 0 has.
  const Schedule bad = hand_made(
      1,
      {{{Action::kSend, 1, 0, 0},
        {Action::kCollect, 1, 0, 0},
        {Action::kCollect, 2, 0, 0},
        {Action::kCollect, 3, 0, 0},
        {Action::kReduce, -1, 0, 0},
        {Action::kSend, 1, 0, 2},
        {Action::kSend, 3, 0, 2}},
       {{Action::kSend, 0, 0, 0}, {Action::kRecvReduce, 0, 0, 0}, {Action::kSend, 2, 0, 1}, {Action::kRecv, 0, 0, 2}},
       {{Action::kSend, 0, 0, 0}, {Action::kRecvReduce, 3, 0, 0}, {Action::kRecvReduce, 1, 0, 1}},
       {{Action::kSend, 0, 0, 0}, {Action::kSend, 2, 0, 0}, {Action::kRecv, 0, 0, 2}}});
  EXPECT_EQ(flaw_of(bad), "rank 2 adds chunk 0 up in another order than others");
}

TEST(Verify, FindsWhatIsMissing) {
  const Schedule bad = hand_made(1, {{{Action::kRecvReduce, 1, 0}}, {{Action::kSend, 0, 0}}});
  EXPECT_EQ(flaw_of(bad), "rank 1 ends with 1 of 2 contributions to chunk 0");
  EXPECT_EQ(flaw_of(hand_made(1, {{}, {}}), Collective::kBroadcast), "rank 1 ends without chunk 0");
}

TEST(Verify, FindsWhatIsPassedOnTooEarly) {
  const Schedule bad = hand_made(
      1,
      {{{Action::kSend, 1, 0, 0}}, {{Action::kSend, 2, 0, 0}, {Action::kRecv, 0, 0, 0}}, {{Action::kRecv, 1, 0, 0}}});
  EXPECT_EQ(flaw_of(bad, Collective::kBroadcast), "rank 1 sends chunk 0 before it has it");
}

TEST(Verify, FindsOverwrittenContributions) {
  const Schedule bad = hand_made(1, {{{Action::kSend, 1, 0, 0}}, {{Action::kRecv, 0, 0, 0}}});
  EXPECT_EQ(flaw_of(bad), "rank 1 overwrites contributions to chunk 0 that only it has");
}

TEST(Verify, FindsTwoThingsForAChunkInOneRound) {
  const Schedule bad = hand_made(
      1,
      {{{Action::kRecvReduce, 1, 0}, {Action::kRecvReduce, 2, 0}}, {{Action::kSend, 0, 0}}, {{Action::kSend, 0, 0}}});
  EXPECT_EQ(flaw_of(bad), "rank 0 gets chunk 0 twice in round 0");
}

TEST(Verify, FindsMulticastThatLeavesTheNode) {
  const Schedule schedule = make_schedule("direct_multicast", Collective::kBroadcast, Layout::one_node(4));
  EXPECT_EQ(verify(schedule, Collective::kBroadcast, Layout::one_node(4)), "");
  EXPECT_EQ(verify(schedule, Collective::kBroadcast, Layout::uniform(2, 2)),
            "rank 2 waits for ever for chunk 0 of rank 0 in round 0 by multicast");
  EXPECT_EQ(verify(schedule, Collective::kBroadcast, Layout::one_node(3)), "4 ranks on a layout for 3");
}

TEST(Replay, TellsWhatEachStepHandles) {
  const Layout layout = Layout::one_node(4);
  const Schedule schedule = make_schedule("recursive_doubling", Collective::kAllReduce, layout);
  const Replay replayed = replay(schedule, Collective::kAllReduce, layout);
  ASSERT_EQ(replayed.flaw, "");
  for (int rank = 0; rank < 4; ++rank) {
    const auto& facts = replayed.facts[rank];
    ASSERT_EQ(facts.size(), 4u);  // send, add, send, add
    EXPECT_EQ(facts[0].num_contributions, 1);
    EXPECT_EQ(facts[0].lowest_rank, rank);
    EXPECT_EQ(facts[1].num_contributions, 2);
    EXPECT_EQ(facts[1].lowest_rank, rank / 2 * 2);
    EXPECT_EQ(facts[1].message_first, rank % 2 == 1) << "of ranks 0 and 1, 0 is first on both";
    EXPECT_EQ(facts[2].num_contributions, 2);
    EXPECT_EQ(facts[3].num_contributions, 4);
    EXPECT_EQ(facts[3].lowest_rank, 0);
    EXPECT_EQ(facts[3].message_first, rank >= 2);
  }
}

}  // namespace
}  // namespace lane::plan
