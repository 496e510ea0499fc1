// Every schedule is proven: one node of 1 to 64 ranks, all even shapes up to 16 nodes of 8, and uneven ones.
#include "lane/plan/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <tuple>

#include "lane/base/error.h"
#include "lane/plan/verify.h"

namespace lane::plan {
namespace {

constexpr Collective kCollectives[] = {Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather,
                                       Collective::kBroadcast, Collective::kGather,        Collective::kAllToAll};

std::set<int> roots_of(Collective collective, int num_ranks) {
  if (collective != Collective::kBroadcast && collective != Collective::kGather) return {0};
  return {0, 1 % num_ranks, num_ranks / 2, num_ranks - 1};
}

std::string words_for(const Layout& layout) {
  std::string text = "nodes of the ranks:";
  for (const int node : layout.node_of) text += " " + std::to_string(node);
  return text;
}

void prove(const std::string& name, Collective collective, const Layout& layout) {
  for (const int root : roots_of(collective, layout.num_ranks())) {
    const Schedule schedule = make_schedule(name, collective, layout, root);
    EXPECT_EQ(schedule.name, name);
    EXPECT_EQ(schedule.num_ranks(), layout.num_ranks());
    if (layout.num_ranks() == 1) {
      EXPECT_TRUE(schedule.program[0].empty());
    }
    ASSERT_EQ(verify(schedule, collective, layout, root), "")
        << name_of(collective) << " " << name << ", root " << root << ", " << words_for(layout);
  }
}

TEST(Schedules, AreProvenOnOneNodeOfOneToSixtyFourRanks) {
  for (const Collective collective : kCollectives)
    for (int num_ranks = 1; num_ranks <= 64; ++num_ranks)
      for (const std::string& name : schedule_names(collective, Layout::one_node(num_ranks)))
        prove(name, collective, Layout::one_node(num_ranks));
}

TEST(Schedules, AreProvenOnEvenNodes) {
  for (const Collective collective : kCollectives)
    for (int num_nodes = 2; num_nodes <= 16; ++num_nodes)
      for (int ranks_per_node = 1; ranks_per_node <= 8; ++ranks_per_node) {
        const Layout layout = Layout::uniform(num_nodes, ranks_per_node);
        for (const std::string& name : schedule_names(collective, layout))
          if (name.starts_with("hier:")) prove(name, collective, layout);
      }
}

// Runs an all-reduce in the plainest way, with numbers: all messages of a round are read before anything is written.
// Returns each rank's result.
std::vector<std::vector<float>> run_all_reduce(const Schedule& schedule, const Layout& layout,
                                               const std::vector<std::vector<float>>& input) {
  auto chunks = input;
  struct Term {
    int lowest_rank;
    float value;
  };
  const auto add_up = [](std::vector<Term> terms) {
    std::sort(terms.begin(), terms.end(), [](const Term& a, const Term& b) { return a.lowest_rank < b.lowest_rank; });
    float sum = terms[0].value;
    for (size_t i = 1; i < terms.size(); ++i) sum += terms[i].value;
    return sum;
  };
  std::vector<std::vector<int>> lowest(layout.num_ranks());  // of what is in a rank's chunk
  for (int rank = 0; rank < layout.num_ranks(); ++rank) lowest[rank].assign(schedule.num_chunks, rank);
  for (int round = 0; round < schedule.num_rounds(); ++round) {
    std::map<std::tuple<int, int, int>, Term> sent;  // from, to, chunk; to is -1 for multicast
    for (int rank = 0; rank < layout.num_ranks(); ++rank)
      for (const Step& step : schedule.program[rank])
        if (step.round == round && (step.action == Action::kSend || step.action == Action::kMulticast))
          sent[{rank, step.peer, step.chunk}] = {lowest[rank][step.chunk], chunks[rank][step.chunk]};
    for (int rank = 0; rank < layout.num_ranks(); ++rank) {
      std::map<int, std::vector<Term>> aside;
      for (const Step& step : schedule.program[rank]) {
        if (step.round != round || step.action == Action::kSend || step.action == Action::kMulticast) continue;
        float& mine = chunks[rank][step.chunk];
        int& mine_lowest = lowest[rank][step.chunk];
        std::vector<Term> terms = {{mine_lowest, mine}};
        if (step.action == Action::kReduce) {
          const auto& others = aside.at(step.chunk);
          terms.insert(terms.end(), others.begin(), others.end());
        } else {
          const Term came = sent.at({step.peer, step.by_multicast ? -1 : rank, step.chunk});
          if (step.action == Action::kCollect) {
            aside[step.chunk].push_back(came);
            continue;
          }
          if (step.action == Action::kRecv) terms.clear();
          terms.push_back(came);
        }
        mine = add_up(terms);
        for (const Term& term : terms) mine_lowest = std::min(mine_lowest, term.lowest_rank);
      }
    }
  }
  return chunks;
}

TEST(Schedules, GiveTheSameBitsOnAllRanks) {
  for (const Layout& layout : {Layout::one_node(2), Layout::one_node(7), Layout::one_node(12), Layout::uniform(3, 4),
                               Layout::of_sizes({3, 1, 6, 2}), Layout{{1, 0, 1, 2, 1, 0}}}) {
    std::vector<float> in_rank_order;
    for (const std::string& name : schedule_names(Collective::kAllReduce, layout)) {
      const Schedule schedule = make_schedule(name, Collective::kAllReduce, layout);
      // All chunks start with the same numbers, so that schedules with other chunks can be compared.
      std::mt19937 numbers(7);
      std::vector<std::vector<float>> input(layout.num_ranks());
      double exact = 0;
      for (auto& chunks : input) {
        chunks.assign(schedule.num_chunks, static_cast<float>(numbers()) / 1e9f - 2.1f);
        exact += chunks[0];
      }
      const auto result = run_all_reduce(schedule, layout, input);
      for (const auto& chunks : result) {
        ASSERT_EQ(chunks, result[0]) << name;
        for (const float value : chunks) EXPECT_NEAR(value, exact, 1e-5) << name;
      }
      if (name == "one_shot") in_rank_order = result[0];
      if (name.starts_with("two_shot") || name.starts_with("one_shot")) {
        for (const float value : result[0]) EXPECT_EQ(value, in_rank_order[0]) << name << " adds in rank order";
      }
    }
  }
}

std::vector<Layout> uneven_layouts(int count) {
  std::mt19937 random(20091102);
  const auto up_to = [&](int most) { return static_cast<int>(random() % static_cast<unsigned>(most)) + 1; };
  std::vector<Layout> layouts;
  while (static_cast<int>(layouts.size()) < count) {
    std::vector<int> sizes(up_to(5));
    for (int& size : sizes) size = up_to(7);
    layouts.push_back(Layout::of_sizes(sizes));
    // The ranks of a node need not follow each other.
    auto& node_of = layouts.back().node_of;
    if (layouts.size() % 2 == 0)
      for (size_t i = node_of.size(); i-- > 1;) std::swap(node_of[i], node_of[up_to(static_cast<int>(i)) - 1]);
  }
  return layouts;
}

TEST(Schedules, AreProvenOnUnevenNodes) {
  for (const Layout& layout : uneven_layouts(60))
    for (const Collective collective : kCollectives)
      for (const std::string& name : schedule_names(collective, layout)) prove(name, collective, layout);
}

TEST(Schedules, AreTheSameEveryTime) {
  for (const Layout& layout : {Layout::one_node(13), Layout::of_sizes({3, 5, 1})})
    for (const Collective collective : kCollectives)
      for (const std::string& name : schedule_names(collective, layout))
        EXPECT_EQ(make_schedule(name, collective, layout).program, make_schedule(name, collective, layout).program);
}

int floor_log2(int n) { return n < 2 ? 0 : 1 + floor_log2(n / 2); }
int ceil_log2(int n) { return n < 2 ? 0 : floor_log2(n - 1) + 1; }

TEST(Schedules, HaveTheRoundsOfThePapers) {
  for (int n = 2; n <= 64; ++n) {
    const bool power = ceil_log2(n) == floor_log2(n);
    const auto rounds = [&](const char* name, Collective collective = Collective::kAllReduce) {
      return make_schedule(name, collective, Layout::one_node(n)).num_rounds();
    };
    EXPECT_EQ(rounds("one_shot"), 1);
    EXPECT_EQ(rounds("one_shot_multicast"), 1);
    EXPECT_EQ(rounds("two_shot"), 2);
    EXPECT_EQ(rounds("two_shot_multicast"), 2);
    EXPECT_EQ(rounds("ring"), 2 * (n - 1));
    EXPECT_EQ(rounds("recursive_doubling"), floor_log2(n) + (power ? 0 : 2));
    EXPECT_EQ(rounds("halving_doubling"), 2 * floor_log2(n) + (power ? 0 : 2));
    EXPECT_EQ(rounds("bruck"), 2 * ceil_log2(n));
    for (const int pieces : {1, 4, 7})
      EXPECT_EQ(rounds(("double_tree:" + std::to_string(pieces)).c_str()), 2 * floor_log2(n) + pieces - 1);
    EXPECT_EQ(rounds("binomial", Collective::kBroadcast), ceil_log2(n));
    EXPECT_EQ(rounds("binomial", Collective::kGather), ceil_log2(n));
    EXPECT_EQ(rounds("bruck", Collective::kAllToAll), ceil_log2(n));
    EXPECT_EQ(rounds("bruck", Collective::kReduceScatter), ceil_log2(n));
  }
}

// Sanders, Speck, Träff: that is why two trees use all ports.
TEST(Schedules, OfTheDoubleTreeHaveEachRankInsideAtMostOneTree) {
  for (int n = 2; n <= 64; ++n) {
    const Schedule schedule = make_schedule("double_tree", Collective::kAllReduce, Layout::one_node(n));
    for (int rank = 0; rank < n; ++rank) {
      std::set<int> trees;
      for (const Step& step : schedule.program[rank])
        if (step.action == Action::kRecvReduce || step.action == Action::kCollect) trees.insert(step.chunk);
      EXPECT_LE(trees.size(), 1u) << n << " ranks, rank " << rank;
    }
  }
}

// Rank r sends to r+1 first, rank r+1 to r+2, and so on.
TEST(Schedules, DoNotAllWriteToTheSameReceiverAtOnce) {
  for (const char* name : {"one_shot", "two_shot", "ring"}) {
    const Schedule schedule = make_schedule(name, Collective::kAllReduce, Layout::one_node(8));
    std::set<int> receivers;
    for (const auto& program : schedule.program) receivers.insert(program.front().peer);
    EXPECT_EQ(receivers.size(), 8u) << name;
  }
}

// What one rank sends another in a round is one message: nothing between its steps, chunks ascending.
TEST(Schedules, PutWhatGoesTheSameWayIntoOneMessage) {
  const Layout layout = Layout::of_sizes({3, 5, 2});
  for (const Collective collective : kCollectives)
    for (const std::string& name : schedule_names(collective, layout))
      for (const auto& program : make_schedule(name, collective, layout).program) {
        std::set<std::tuple<int, bool, int, bool>> done;
        for (size_t i = 0; i < program.size(); ++i) {
          const auto key = [](const Step& step) {
            return std::tuple(step.round, step.action == Action::kSend || step.action == Action::kMulticast, step.peer,
                              step.by_multicast);
          };
          if (program[i].action == Action::kReduce) continue;
          if (i > 0 && key(program[i]) == key(program[i - 1])) {
            EXPECT_LT(program[i - 1].chunk, program[i].chunk);
          } else {
            EXPECT_TRUE(done.insert(key(program[i])).second) << name;
          }
        }
      }
}

TEST(Schedules, AddInRankOrderWhereThatIsPromised) {
  for (const char* name : {"one_shot", "two_shot", "one_shot_multicast", "two_shot_multicast"}) {
    const Schedule schedule = make_schedule(name, Collective::kAllReduce, Layout::one_node(7));
    for (const auto& program : schedule.program)
      for (const Step& step : program) {
        EXPECT_NE(step.action, Action::kRecvReduce) << name;
      }
  }
}

TEST(Schedules, BetweenNodesSendOnlyAnOwnersPart) {
  // 3 nodes of 4: recursive doubling between 3 nodes folds one in: 3 rounds and back, each with a quarter for each
  // rank.
  const Layout layout = Layout::uniform(3, 4);
  const Schedule schedule = make_schedule("hier:two_shot/recursive_doubling", Collective::kAllReduce, layout);
  EXPECT_EQ(schedule.num_chunks, 4);
  EXPECT_EQ(schedule.num_rounds(), 1 + 3 + 1);
  for (int rank = 0; rank < 12; ++rank)
    for (const Step& step : schedule.program[rank])
      if (step.peer >= 0 && layout.node_of[step.peer] != layout.node_of[rank]) {
        EXPECT_EQ(step.chunk, rank % 4);
        EXPECT_EQ(step.peer % 4, rank % 4);
      }
}

std::string complaint(const char* name, Collective collective, const Layout& layout, int root = 0) {
  try {
    make_schedule(name, collective, layout, root);
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
}

TEST(Schedules, UnknownNamesAreAnsweredWithTheKnownOnes) {
  EXPECT_EQ(complaint("fastest", Collective::kAllReduce, Layout::one_node(4)),
            "no all_reduce algorithm for one node is called fastest; known: one_shot, one_shot_multicast, "
            "recursive_doubling, two_shot, two_shot_multicast, bruck, halving_doubling, double_tree, double_tree:4, "
            "double_tree:16, ring");
  EXPECT_EQ(complaint("two_shot_multicast", Collective::kReduceScatter, Layout::uniform(2, 2)),
            "no reduce_scatter algorithm for several nodes is called two_shot_multicast; known: direct, bruck, ring, "
            "and hier:INSIDE/BETWEEN with direct, bruck, ring inside and direct, bruck, ring between the nodes");
  for (const char* name : {"double_tree:", "double_tree:0", "double_tree:4x", "double_tree:1025", "double_trees:4",
                           "hier:two_shot/two_shot", "hier:", ""})
    EXPECT_NE(complaint(name, Collective::kAllReduce, Layout::one_node(4)), "") << name;
  for (const char* name : {"two_shot_multicast", "hier:two_shot", "hier:two_shot/two_shot_multicast",
                           "hier:one_shot/two_shot", "hier:two_shot/hier:two_shot/ring", "hier:two_shot/"})
    EXPECT_NE(complaint(name, Collective::kAllReduce, Layout::uniform(2, 2)), "") << name;
  EXPECT_EQ(complaint("hier:two_shot_multicast/double_tree:3", Collective::kAllReduce, Layout::uniform(2, 2)), "");
}

TEST(Schedules, RefuseLayoutsThatCannotBe) {
  EXPECT_EQ(complaint("ring", Collective::kAllReduce, Layout::one_node(0)), "a schedule needs at least one rank");
  EXPECT_EQ(complaint("ring", Collective::kAllReduce, {{0, 2, 2}}),
            "node 1 has no ranks; number the nodes without gaps");
  EXPECT_EQ(complaint("ring", Collective::kAllReduce, {{0, -1}}), "a rank is on node -1; nodes are numbered from 0");
  EXPECT_EQ(complaint("direct", Collective::kBroadcast, Layout::one_node(4), 4),
            "there is no rank 4 to be the root of 4 ranks");
}

TEST(Layouts, SayWhoIsWhere) {
  EXPECT_EQ(Layout::uniform(2, 3), Layout::of_sizes({3, 3}));
  EXPECT_EQ(Layout::of_sizes({1, 2}).node_of, (std::vector<int>{0, 1, 1}));
  EXPECT_EQ(Layout::one_node(3).num_nodes(), 1);
  const Layout mixed{{1, 0, 1}};
  EXPECT_EQ(mixed.num_nodes(), 2);
  EXPECT_EQ(mixed.ranks_by_node(), (std::vector<std::vector<int>>{{1}, {0, 2}}));
}

}  // namespace
}  // namespace lane::plan
