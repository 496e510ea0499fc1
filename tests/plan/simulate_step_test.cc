#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "lane/base/error.h"
#include "lane/plan/simulate.h"
#include "lane/plan/step_graph.h"

namespace lane::plan {
namespace {

constexpr ModelShape kShape{.vocab_size = 4096,
                            .hidden_size = 1024,
                            .intermediate_size = 4096,
                            .num_layers = 12,
                            .num_heads = 16,
                            .num_kv_heads = 16,
                            .head_dim = 64};
constexpr Link kLocal{.latency_s = 2e-6, .bytes_per_s = 200e9}, kRemote{.latency_s = 5e-6, .bytes_per_s = 50e9};

// Ranks on nodes of `ranks_per_node`, in order.
Fabric nodes_of(int num_ranks, int ranks_per_node) {
  return {Layout::uniform(num_ranks / ranks_per_node, ranks_per_node), kLocal, kRemote};
}

// The part of a fabric that a group sees.
FabricOf part_of(const Fabric& whole) {
  return [&whole](std::span<const int> ranks) {
    Fabric part{{}, whole.local, whole.remote};
    std::vector<int> known;
    for (const int rank : ranks) {
      const int node = whole.layout.node_of[rank];
      const auto found = std::find(known.begin(), known.end(), node);
      part.layout.node_of.push_back(static_cast<int>(found - known.begin()));
      if (found == known.end()) known.push_back(node);
    }
    return part;
  };
}

StepJob job_of(ParallelPlan plan, std::vector<Pass> passes) {
  return {.shape = kShape, .plan = plan, .passes = std::move(passes), .speed = {1e12, 100e12, 1e-6}};
}

StepGraph graph_of(const StepJob& job, const Fabric& fabric) {
  return step_graph(job, Network(fabric), part_of(fabric));
}

TEST(Passes, DealSequencesAndCutPrompts) {
  EXPECT_EQ(decode_passes(5, 2, 99), (std::vector<Pass>{{3, 3, 300, 300}, {2, 2, 200, 200}}));
  EXPECT_EQ(decode_passes(1, 4, 0).size(), 1u);
  EXPECT_EQ(prefill_passes(1, 10, 4), (std::vector<Pass>{{4, 0, 4, 10}, {4, 0, 8, 26}, {2, 1, 10, 19}}));
  double pairs = 0;
  for (const Pass& pass : prefill_passes(3, 100, 7)) pairs += pass.pairs;
  EXPECT_EQ(pairs, 3 * 100 * 101 / 2);
}

// What cost_of_step() adds up, the simulator goes through.
TEST(SimulateStep, AgreesWithTheStepsCost) {
  for (const int tensor : {1, 2, 4, 8, 16})
    for (const int ranks_per_node : {2, 4, 16}) {
      const Fabric fabric = nodes_of(tensor, std::min(tensor, ranks_per_node));
      const StepWork work{.shape = kShape, .plan = {.tensor = tensor}, .batch = 8, .context = 1000};
      StepJob job = job_of(work.plan, {{8, 8, 8000, 8000}});
      job.speed.flop_per_s = std::numeric_limits<double>::infinity();
      job.activation_bytes = work.activation_bytes;
      job.partial_scale = 1;
      const double wanted = cost_of_step(work, fabric, {1e12, 1e-6}).total_s();
      const StepGraph graph = graph_of(job, fabric);
      EXPECT_NEAR(graph.priced_s, wanted, 1e-9 * wanted);
      EXPECT_NEAR(simulate(graph.workload).makespan_s, wanted, 1e-9) << tensor;
    }
}

// p equal stages, m passes, messages of no size: (m + p - 1) t, of which a stage idles (p - 1) t.
TEST(SimulateStep, ThePipelinesBubbleIsThatOfTheFormula) {
  for (int p = 1; p <= 6; ++p)
    for (int m = 1; m <= 9; ++m) {
      const double t = 1e-3;
      Workload workload{.labels = {"work", "next"}};
      for (int stage = 0; stage + 1 < p; ++stage)
        workload.exchanges.push_back(
            {.name = "next", .parcels = {{.from = stage, .to = {stage + 1}}}, .holds_sender = false});
      for (int stage = 0; stage < p; ++stage) {
        std::vector<Op> program;
        for (int pass = 0; pass < m; ++pass) {
          if (stage > 0) program.push_back({1, stage - 1, 0});
          program.push_back({0, -1, t});
          if (stage + 1 < p) program.push_back({1, stage, 0});
        }
        workload.programs.push_back(program);
        workload.program_of.push_back(stage);
        workload.slowness.push_back(1);
      }
      const Simulation result = simulate(workload);
      EXPECT_NEAR(result.makespan_s, (m + p - 1) * t, 1e-12);
      for (const RankTime& rank : result.ranks)
        EXPECT_NEAR(rank.idle_s / result.makespan_s, (p - 1.0) / (m + p - 1), 1e-9) << p << " " << m;
    }
}

// A pipeline on links that nobody else uses is what the recurrence says, up to what ranks gain by running ahead.
TEST(SimulateStep, APipelineAloneIsAsPriced) {
  for (const int pipeline : {1, 2, 3, 4, 6})
    for (const int passes : {1, 2, 5, 8}) {
      const Fabric fabric = nodes_of(2 * pipeline, 2);
      const StepGraph graph = graph_of(job_of({2, pipeline, 1}, decode_passes(8, passes, 500)), fabric);
      const Simulation result = simulate(graph.workload);
      EXPECT_NEAR(result.makespan_s, graph.priced_s, 1e-3 * graph.priced_s) << pipeline << " " << passes;
      EXPECT_LE(result.makespan_s, graph.priced_s + 1e-9);
    }
}

TEST(SimulateStep, FoldingChangesNothing) {
  struct Case {
    ParallelPlan plan;
    int ranks_per_node, passes;
    double slow;
    bool has_racks;
  };
  for (const Case& one : std::vector<Case>{{{4, 2, 2}, 4, 3, 1, false},
                                           {{4, 2, 2}, 4, 3, 1.5, true},
                                           {{4, 1, 4}, 2, 1, 1, true},
                                           {{2, 3, 2}, 4, 4, 2, false},
                                           {{8, 2, 1}, 2, 2, 1, true}}) {
    Fabric fabric = nodes_of(one.plan.num_ranks(), one.ranks_per_node);
    if (one.has_racks) {
      for (int node = 0; node < fabric.layout.num_nodes(); ++node) fabric.rack_of_node.push_back(node % 2);
      fabric.uplink = {1e-6, 60e9};
    }
    StepJob job = job_of(one.plan, decode_passes(16, one.passes, 500));
    job.num_steps = 2;
    StepGraph graph = graph_of(job, fabric);
    graph.workload.slowness[1] = one.slow;
    const Simulation folded = simulate(graph.workload), plain = simulate(graph.workload, {.fold = false});
    EXPECT_EQ(folded.makespan_s, plain.makespan_s);
    EXPECT_LT(folded.num_tasks, plain.num_tasks);
    for (size_t rank = 0; rank < plain.ranks.size(); ++rank) {
      EXPECT_EQ(folded.ranks[rank].communication_s, plain.ranks[rank].communication_s) << rank;
      EXPECT_EQ(folded.ranks[rank].idle_s, plain.ranks[rank].idle_s) << rank;
    }
    for (size_t link = 0; link < plain.link_bytes.size(); ++link)
      EXPECT_NEAR(folded.link_bytes[link], plain.link_bytes[link], 1e-9 * plain.link_bytes[link]);
  }
}

TEST(SimulateStep, ReplicasOnTheirOwnLinksTakeAsLongAsOne) {
  const auto run = [](int replicas) {
    const Fabric fabric = nodes_of(8 * replicas, 4);
    return simulate(graph_of(job_of({4, 2, replicas}, decode_passes(8, 2, 100)), fabric).workload);
  };
  const Simulation one = run(1), many = run(50);
  EXPECT_EQ(one.makespan_s, many.makespan_s);
  EXPECT_EQ(one.num_events, many.num_events) << "folded";
  EXPECT_EQ(many.alike[8 * 49 + 5], one.alike[5]);
}

// Two groups of each node share its way out: what each sends takes twice as long.
TEST(SimulateStep, GroupsOnOneNodeAreInEachOthersWay) {
  const Fabric fabric{Layout{{0, 1, 0, 1}}, kLocal, kRemote};  // two groups of two, both across
  StepJob job = job_of({2, 1, 2}, {{64, 64, 0, 0}});
  job.algorithm = "one_shot";
  const StepGraph both = graph_of(job, fabric);
  const Fabric half{Layout{{0, 1}}, kLocal, kRemote};
  job.plan.replicas = 1;
  const StepGraph alone = graph_of(job, half);
  const int num_all_reduces = 1 + 2 * kShape.num_layers;
  const double transfer = 64 * 1024 * 2 / kRemote.bytes_per_s;
  const double samples = 64 * 64 * 2 / 2 / kRemote.bytes_per_s;
  EXPECT_NEAR(simulate(both.workload).makespan_s - simulate(alone.workload).makespan_s,
              num_all_reduces * transfer + samples, 1e-9);
  EXPECT_DOUBLE_EQ(both.priced_s, alone.priced_s) << "which the formula does not know";
}

// A group waits for its slowest rank in every layer; other replicas do not. The slow rank itself finds all messages
// there: it computes and sends, and the latency of what it sends shows only at the end.
TEST(SimulateStep, AStragglerHoldsUpItsReplica) {
  const Fabric fabric = nodes_of(8, 4);
  StepJob job = job_of({4, 1, 2}, decode_passes(4, 1, 100));
  job.algorithm = "one_shot";
  StepGraph graph = graph_of(job, fabric);
  ASSERT_EQ(graph.collectives.at(1).algorithm, "direct");
  const Simulation even = simulate(graph.workload);
  const double compute = even.ranks[2].compute_s, a = kLocal.latency_s;
  const double sent = (25 * 3 * 4 * 1024 * 2 + 3 * 4 * 64) / kLocal.bytes_per_s;
  EXPECT_NEAR(even.makespan_s, compute + sent + 26 * a, 1e-9);
  graph.workload.slowness[2] = 2;
  const Simulation slow = simulate(graph.workload);
  // But once: in the first all-reduce it is only the embedding late, less than a latency.
  const double first_wait = a - job.speed.operation_s;
  EXPECT_NEAR(slow.makespan_s, 2 * compute + sent + a + first_wait, 1e-9);
  EXPECT_NEAR(slow.ranks[2].compute_s, 2 * compute, 1e-11);
  EXPECT_GT(slow.ranks[0].idle_s, even.ranks[0].idle_s + 0.5 * compute) << "its neighbours wait";
  EXPECT_EQ(slow.ranks[5].communication_s, even.ranks[5].communication_s) << "the other replica works on";
}

TEST(SimulateStep, StepsFollowEachOther) {
  StepJob job = job_of({4, 1, 1}, decode_passes(4, 1, 100));
  const Fabric fabric = nodes_of(4, 4);
  const double one = simulate(graph_of(job, fabric).workload).makespan_s;
  job.num_steps = 3;
  EXPECT_NEAR(simulate(graph_of(job, fabric).workload).makespan_s, 3 * one, 1e-11);
  // With enough micro-batches a pipeline stays full: a further step takes as long as its slowest stage works on it.
  job = job_of({1, 4, 1}, decode_passes(16, 8, 100));
  const Fabric apart = nodes_of(4, 1);
  const auto steps = [&](int count) {
    job.num_steps = count;
    const StepGraph graph = graph_of(job, apart);
    const double simulated = simulate(graph.workload).makespan_s;
    EXPECT_NEAR(simulated, graph.priced_s, 1e-6 * simulated);
    return simulated;
  };
  const double two = steps(2), three = steps(3), four = steps(4);
  EXPECT_NEAR(four - three, three - two, 1e-9);
  EXPECT_LT(three - two, two / 2) << "no bubble between steps";
}

TEST(SimulateStep, PrefillIsCutIntoChunksThatFillThePipeline) {
  const Fabric fabric = nodes_of(8, 2);
  const auto run = [&](int64_t chunk) {
    return simulate(graph_of(job_of({2, 4, 1}, prefill_passes(1, 4096, chunk)), fabric).workload).makespan_s;
  };
  EXPECT_LT(run(512), 0.5 * run(4096)) << "four stages work at once";
}

TEST(SimulateStep, RefusesPlansThatDoNotFit) {
  const Fabric fabric = nodes_of(6, 2);
  EXPECT_THROW(graph_of(job_of({3, 2, 1}, decode_passes(1, 1, 1)), fabric), Error);
}

}  // namespace
}  // namespace lane::plan
