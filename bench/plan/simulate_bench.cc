// How long it takes to simulate a decode step of Llama-3-70B on 512 hosts of 8 H100 with a NIC each: 64 replicas of 4
// stages of 16, in seconds of one core. Every case is built from nothing: topology, network, schedules, classes,
// events.
//   build/release/bench/plan/bench_simulate
#include <fmt/format.h>

#include <ctime>
#include <numeric>

#include "lane/base/random.h"
#include "lane/plan/known_shapes.h"
#include "lane/plan/simulate.h"
#include "lane/plan/step_graph.h"

using namespace lane;
using topology::GpuRef;

namespace {

// Two levels: `hosts_per_leaf` hosts on a leaf, whose uplinks carry 1/oversubscription of what its NICs could send.
topology::Topology cluster(int num_hosts, int hosts_per_leaf, double oversubscription) {
  topology::Topology topology;
  for (int h = 0; h < num_hosts; ++h) {
    topology::Host host{.name = fmt::format("n{:03}", h), .leaf_switch = fmt::format("leaf{:02}", h / hosts_per_leaf)};
    for (int g = 0; g < 8; ++g) {
      host.gpus.push_back({.index = g, .sm = 90, .num_nvlinks = 18, .nvlink_gb_per_s = 26.5625});
      host.nics.push_back({.name = fmt::format("mlx5_{}", g),
                           .kind = topology::NicKind::kInfiniband,
                           .role = topology::NicRole::kCompute,
                           .ports = {{.gbit_per_s = 400}}});
    }
    topology.hosts.push_back(std::move(host));
  }
  for (int leaf = 0; leaf * hosts_per_leaf < num_hosts; ++leaf)
    topology.switches.push_back({.name = fmt::format("leaf{:02}", leaf),
                                 .parents = {"spine"},
                                 .uplink_gbit_per_s = hosts_per_leaf * 8 * 400 / oversubscription});
  topology.switches.push_back({.name = "spine", .level = 2});
  return topology;
}

struct Case {
  const char* what;
  int tensor, pipeline, replicas, micro_batches;
  double oversubscription;
  double slow = 1;  // of rank 100
  int shift = 0;    // of ranks against hosts: groups straddle; -1: any rank on any GPU
};

void run(const Case& one) {
  const std::clock_t start = std::clock();
  const plan::ParallelPlan plan{one.tensor, one.pipeline, one.replicas};
  const topology::Topology topology = cluster(512, 32, one.oversubscription);
  const plan::Reach reach(topology);
  std::vector<GpuRef> gpus;
  std::vector<int> shuffled(4096);
  std::iota(shuffled.begin(), shuffled.end(), 0);
  for (uint64_t i = shuffled.size() - 1; i > 0; --i) std::swap(shuffled[i], shuffled[random_bits(1, i) % (i + 1)]);
  for (int rank = 0; rank < plan.num_ranks(); ++rank) {
    const int slot = one.shift < 0 ? shuffled[rank] : (rank + one.shift) % 4096;
    gpus.push_back({slot / 8, slot % 8});
  }
  const plan::Network network(reach, gpus);
  const plan::StepJob job{.shape = *plan::known_shape("llama-3-70b"),
                          .plan = plan,
                          .passes = plan::decode_passes(64, one.micro_batches, 4096),
                          .speed = {3.35e12, 989e12, 2e-6}};
  const auto fabric_of = [&](std::span<const int> ranks) {
    std::vector<GpuRef> group;
    for (const int rank : ranks) group.push_back(gpus[rank]);
    return reach.fabric(group);
  };
  plan::StepGraph graph = plan::step_graph(job, network, fabric_of);
  if (one.slow != 1) graph.workload.slowness[100] = one.slow;
  const std::clock_t built = std::clock();
  const plan::Simulation result = plan::simulate(graph.workload);
  const std::clock_t end = std::clock();
  const auto seconds = [](std::clock_t from, std::clock_t to) { return double(to - from) / CLOCKS_PER_SEC; };
  fmt::print("{:<58} {:>9.3f} {:>9.3f} {:>8.3f} {:>8.3f} {:>8.3f} {:>10} {:>10}\n", one.what, result.makespan_s * 1e3,
             graph.priced_s * 1e3, seconds(start, built), seconds(built, end), seconds(start, end), result.num_tasks,
             result.num_events);
}

}  // namespace

int main() {
  fmt::print("{:<58} {:>9} {:>9} {:>8} {:>8} {:>8} {:>10} {:>10}\n", "4,096 GPUs, Llama-3-70B, batch 64 a replica",
             "step ms", "formula", "build s", "run s", "total s", "tasks", "events");
  run({"TP 16 x PP 4 x 64, 4 micro-batches", 16, 4, 64, 4, 1});
  run({"TP 16 x PP 4 x 64, 16 micro-batches", 16, 4, 64, 16, 1});
  run({"TP 8 x PP 8 x 64, 8 micro-batches", 8, 8, 64, 8, 1});
  run({"TP 32 x PP 1 x 128", 32, 1, 128, 1, 1});
  run({"TP 16 x PP 4 x 64, uplinks 4:1, ranks shifted by 4", 16, 4, 64, 4, 4, 1, 4});
  run({"TP 16 x PP 4 x 64, uplinks 4:1, a rank at half speed", 16, 4, 64, 4, 4, 2});
  run({"TP 16 x PP 4 x 64, 4:1, shifted by 3, a rank at half speed", 16, 4, 64, 4, 4, 2, 3});
}
