#pragma once
#include <array>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <tuple>

#include "lane/plan/estimate.h"
#include "lane/plan/nccl_model.h"
#include "lane/plan/reach.h"

namespace lane::plan {

inline constexpr int kNumTiers = 6;
using ByTier = std::array<double, kNumTiers>;  // seconds, by Tier

// All of a group that its collectives' times depend on: groups that are alike here are alike in time. Where islands or
// racks are of different sizes, the largest stands for all.
struct GroupShape {
  int num_ranks = 1, num_islands = 1, ranks_per_island = 1;
  Tier inside = Tier::kNvlink;             // of an island: kNvlink or kNode
  std::array<int, 3> islands_within = {};  // a leaf, a spine, the core: how many of the group's; the last is all
  std::array<double, 3> switches_s = {};   // that a way through that tier adds to the network's latency
  Link local, remote, uplink;              // uplink: of a leaf
  std::string gpu;                         // gpu_kind(); may be empty
  int sm = 90, nics_per_island = 1;
  double nic_bytes_per_s = 0;  // of one, for data
  bool amd_cpu = false;
  auto key() const {
    return std::tuple(num_ranks, num_islands, ranks_per_island, inside, islands_within, switches_s, local.latency_s,
                      local.bytes_per_s, remote.latency_s, remote.bytes_per_s, uplink.bytes_per_s, nic_bytes_per_s, gpu,
                      sm, nics_per_island, amd_cpu);
  }
  Tier widest() const;  // that its messages cross
};
GroupShape shape_of(const Reach& reach, std::span<const topology::GpuRef> ranks);

// The same group with all its ranks as near as `tier` allows: what it would be without crossing a wider one. kNode and
// kNvlink: all in one island.
GroupShape packed(GroupShape shape, Tier tier);

// Whose collectives, and from which kind of knowledge.
enum class Collectives : uint8_t {
  kAuto,       // Lane's or NCCL's: of those known best, the faster
  kNccl,       // NCCL: measured, else its model
  kLane,       // Lane's own: measured, else alpha-beta of its schedules
  kMeasured,   // the fastest library of the tables; Error{kInvalidArgument} where they say nothing
  kAlphaBeta,  // Lane's schedules, from the links alone
};
std::string_view name_of(Collectives collectives);  // "auto", "nccl", "lane", "measured", "alpha-beta"
std::optional<Collectives> collectives_of(std::string_view name);

struct CollectiveCost {
  Estimate total;
  std::string algorithm;  // "nccl tree/ll", "lane hier:two_shot/recursive_doubling"
  ByTier by_tier = {};    // of total.seconds: a round counts for the widest tier that its messages cross
};

// Keeps what it was asked before. Not for several threads.
class CollectiveTimes {
 public:
  explicit CollectiveTimes(Collectives from = Collectives::kAuto) : from_(from) {}
  const CollectiveCost& all_reduce(const GroupShape& shape, int64_t bytes);

 private:
  Collectives from_;
  std::map<std::pair<decltype(GroupShape().key()), int64_t>, CollectiveCost> known_;
};

// One message from a GPU to another, all NICs of its host at hand: what a pipeline's stages send each other.
CollectiveCost message_time(const Reach& reach, topology::GpuRef from, topology::GpuRef to, int64_t bytes);

// Closed formulas of plan::cost() for Lane's schedules on groups of even islands, with a kernel's start on top; see
// schedule_names(). Nothing for names that have none here.
std::optional<ByTier> alpha_beta_by_tier(std::string_view schedule, const GroupShape& shape, int64_t bytes);
std::optional<CollectiveCost> alpha_beta(std::string_view schedule, const GroupShape& shape, int64_t bytes);
NcclGroup nccl_group(const GroupShape& shape);

// What an empty kernel takes in a CUDA graph on H200: the "floor" of docs/performance/results/allreduce_h200.
inline constexpr double kKernelStart = 0.9e-6;

// Measured over modelled: from the lowest to the highest that was found. How an estimate gets its interval.
struct Spread {
  double low = 1, high = 1;
};
Spread nccl_model_spread();         // inside a node, by the model alone: 5th and 95th percentile of the tables
Spread nccl_calibrated_spread();    // ... scaled at fewer ranks: 8 GPUs from 4
Spread nccl_between_nodes();        // published runs on several nodes; docs/planning.md lists them
Spread alpha_beta_spread();         // Lane's kernels inside a node against Lane's tables
Spread alpha_beta_between_nodes();  // a message over the network against measured ones

}  // namespace lane::plan
