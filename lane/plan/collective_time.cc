#include "lane/plan/collective_time.h"

#include <algorithm>
#include <bit>
#include <map>
#include <set>

#include "lane/base/error.h"
#include "lane/plan/measured_times.h"

namespace lane::plan {
namespace {

using topology::GpuRef;
using topology::Host;

constexpr std::array<std::string_view, 5> kNames = {"auto", "nccl", "lane", "measured", "alpha-beta"};
constexpr const char* kFlat[] = {"one_shot", "two_shot", "ring", "recursive_doubling", "halving_doubling"};

size_t index(Tier tier) { return static_cast<size_t>(tier); }

int largest(const std::map<int, int>& counts) {
  int most = 0;
  for (const auto& [group, count] : counts) most = std::max(most, count);
  return most;
}

// How many of these hosts' islands the largest set of hosts holds that reach each other below `level`.
int islands_below(const Reach& reach, const std::vector<int>& first_host, int level) {
  std::vector<int> heads;
  std::map<int, int> counts;
  for (const int host : first_host) {
    auto head = std::find_if(heads.begin(), heads.end(),
                             [&](int other) { return other == host || reach.switch_level(host, other) <= level; });
    if (head == heads.end()) head = heads.insert(heads.end(), host);
    ++counts[static_cast<int>(head - heads.begin())];
  }
  return largest(counts);
}

CollectiveCost in_one_tier(Estimate total, std::string algorithm, Tier tier) {
  CollectiveCost cost{std::move(total), std::move(algorithm)};
  cost.by_tier[index(tier)] = cost.total.seconds;
  return cost;
}

bool has_slingshot(const Host& host) {
  return std::any_of(host.nics.begin(), host.nics.end(),
                     [](const topology::Nic& nic) { return nic.kind == topology::NicKind::kSlingshot; });
}

// Through all NICs of the host at once, as the tables have it through one; from the faster library to the slower.
CollectiveCost over_slingshot(const Reach& reach, int host, int64_t bytes, double switches_s, Tier tier) {
  const int64_t of_nic = (bytes + reach.num_nics(host) - 1) / reach.num_nics(host);
  double fast_s = 1e9, slow_s = 0;
  for (const MeasuredCurve& curve : slingshot_curves()) {
    fast_s = std::min(fast_s, curve.at(of_nic));
    slow_s = std::max(slow_s, curve.at(of_nic));
  }
  const double error = measured_errors().in_size, more_s = kKernelStart + switches_s;
  return in_one_tier({fast_s + more_s, fast_s * (1 - error) + more_s, slow_s * (1 + error) + more_s,
                      Basis::kInterpolated, "osu_latency over Slingshot-11"},
                     "message", tier);
}

// A library's time from the tables, for a group that one island holds.
std::optional<CollectiveCost> from_tables(std::string_view library, const GroupShape& shape, int64_t bytes) {
  if (shape.num_islands > 1 || shape.gpu.empty()) return std::nullopt;
  auto found = measured_all_reduce(library, shape.gpu, shape.num_ranks, bytes);
  if (!found) return std::nullopt;
  return in_one_tier(std::move(*found), std::string(library), shape.inside);
}

// The part of NCCL's latency that its messages between nodes take, by tier. NCCL itself knows no tiers: what switches
// above a leaf add comes on top of it.
ByTier nccl_latency_by_tier(const GroupShape& shape, const NcclGroup& group, const NcclChoice& choice) {
  ByTier by_tier = {};
  const double all_us = nccl_latency_us(group, Collective::kAllReduce, choice.algorithm, choice.protocol);
  by_tier[index(shape.inside)] = all_us * 1e-6;
  if (shape.num_islands == 1) return by_tier;
  NcclGroup alone = group;  // the same without its network
  alone.num_nodes = 1;
  alone.num_ranks = group.num_ranks / group.num_nodes;
  double inside_us = 0;
  int crossings = 0;  // messages one after the other
  if (choice.algorithm == NcclAlgorithm::kRing) {
    crossings = 2 * (group.num_nodes - 1);
    alone.num_ranks = group.num_ranks - group.num_nodes + 1;  // as many steps inside
    inside_us = nccl_latency_us(alone, Collective::kAllReduce, choice.algorithm, choice.protocol);
  } else {
    crossings = 2 * (std::bit_width(static_cast<unsigned>(group.num_nodes)) - 1);
    inside_us = nccl_latency_us(alone, Collective::kAllReduce, choice.algorithm, choice.protocol);
  }
  inside_us = std::min(inside_us, all_us);
  by_tier[index(shape.inside)] = inside_us * 1e-6;
  const double each_s = crossings == 0 ? 0 : (all_us - inside_us) * 1e-6 / crossings;
  const auto& within = shape.islands_within;
  for (int i = 0; i < crossings; ++i) {
    // A tree's levels span 2, 4, 8, ... and at last all nodes; once in a round trip a ring's message closes the ring.
    const bool is_ring = choice.algorithm == NcclAlgorithm::kRing;
    const bool widest = is_ring ? i % group.num_nodes == 0 : i + 2 >= crossings;
    const int span = widest ? group.num_nodes : is_ring ? 2 : 2 << (i / 2);
    const int tier = span <= within[0] ? 0 : span <= within[1] ? 1 : 2;
    by_tier[index(Tier::kLeaf) + tier] += each_s + shape.switches_s[tier];
  }
  return by_tier;
}

CollectiveCost nccl_from_model(const GroupShape& shape, int64_t bytes) {
  const NcclGroup group = nccl_group(shape);
  const NcclChoice choice = nccl_choices(group, Collective::kAllReduce, bytes).front();
  CollectiveCost cost;
  cost.algorithm = "nccl " + std::string(name_of(choice.algorithm)) + "/" + std::string(name_of(choice.protocol));
  cost.by_tier = nccl_latency_by_tier(shape, group, choice);
  double latency_s = 0;
  for (const double seconds : cost.by_tier) latency_s += seconds;
  const double model_s = choice.microseconds * 1e-6;
  const double plain_us = nccl_latency_us(group, Collective::kAllReduce, choice.algorithm, choice.protocol);
  const double bytes_s = std::max(0.0, model_s - plain_us * 1e-6);
  cost.by_tier[index(shape.num_islands > 1 ? Tier::kLeaf : shape.inside)] += bytes_s;
  double sum_s = latency_s + bytes_s;
  // NCCL does not know how thin a leaf's uplink is: at least 2 (n-1)/n of the vector go out through it.
  if (shape.num_islands > shape.islands_within[0]) {
    const double uplink_s = 2.0 * (shape.num_ranks - 1) / shape.num_ranks * double(bytes) / shape.uplink.bytes_per_s;
    if (uplink_s > bytes_s) cost.by_tier[index(shape.widest())] += uplink_s - bytes_s, sum_s += uplink_s - bytes_s;
  }
  Spread spread = shape.num_islands > 1 ? nccl_between_nodes() : nccl_model_spread();
  std::string source = "NCCL's model";
  const MeasuredCurve* most = nullptr;
  if (shape.num_islands == 1)
    for (const MeasuredCurve& curve : all_reduce_curves())
      if (curve.library == "nccl" && curve.gpu == shape.gpu && curve.num_ranks < shape.num_ranks)
        if (most == nullptr || curve.num_ranks >= most->num_ranks) most = &curve;
  if (most != nullptr) {
    GroupShape fewer = shape;
    fewer.num_ranks = fewer.ranks_per_island = most->num_ranks;
    const double there_us = nccl_choices(nccl_group(fewer), Collective::kAllReduce, bytes).front().microseconds;
    const double scale = most->at(bytes) / (there_us * 1e-6);
    for (double& seconds : cost.by_tier) seconds *= scale;
    sum_s *= scale;
    spread = nccl_calibrated_spread();
    source += ", scaled to " + std::to_string(most->num_ranks) + " " + shape.gpu + " as measured";
  }
  cost.total = {sum_s, sum_s * spread.low, sum_s * spread.high, Basis::kExtrapolated, source};
  return cost;
}

CollectiveCost of_nccl(const GroupShape& shape, int64_t bytes) {
  auto found = from_tables("nccl", shape, bytes);
  return found ? std::move(*found) : nccl_from_model(shape, bytes);
}

CollectiveCost cheapest_schedule(const GroupShape& shape, int64_t bytes) {
  std::optional<CollectiveCost> best;
  const bool hierarchical = shape.num_islands > 1 && shape.ranks_per_island > 1;
  for (const char* name : kFlat) {
    auto one = alpha_beta(hierarchical ? std::string("hier:two_shot/") + name : name, shape, bytes);
    if (one && (!best || one->total.seconds < best->total.seconds)) best = std::move(one);
  }
  return *best;
}

CollectiveCost of_lane(const GroupShape& shape, int64_t bytes) {
  auto found = from_tables("lane", shape, bytes);
  return found ? std::move(*found) : cheapest_schedule(shape, bytes);
}

CollectiveCost of_tables(const GroupShape& shape, int64_t bytes) {
  std::optional<CollectiveCost> best;
  for (const char* library : {"nccl", "lane", "trtllm", "vllm", "flashinfer"}) {
    auto one = from_tables(library, shape, bytes);
    if (one && (!best || one->total.seconds < best->total.seconds)) best = std::move(one);
  }
  if (best) return std::move(*best);
  throw Error(ErrorCode::kInvalidArgument,
              "--collectives measured: no table has an all-reduce of " + std::to_string(shape.num_ranks) + " " +
                  (shape.gpu.empty() ? "GPUs of this kind" : shape.gpu) +
                  (shape.num_islands > 1 ? " on several nodes" : "") + "; use auto, nccl, lane or alpha-beta");
}

}  // namespace

std::string_view name_of(Collectives collectives) { return kNames[static_cast<size_t>(collectives)]; }

std::optional<Collectives> collectives_of(std::string_view name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<Collectives>(found - kNames.begin());
}

Tier GroupShape::widest() const {
  if (num_ranks == 1) return Tier::kSelf;
  if (num_islands == 1) return inside;
  return num_islands <= islands_within[0] ? Tier::kLeaf : num_islands <= islands_within[1] ? Tier::kSpine : Tier::kCore;
}

GroupShape shape_of(const Reach& reach, std::span<const GpuRef> ranks) {
  const Fabric fabric = reach.fabric(ranks);
  const Host& host = reach.topology().hosts[ranks.front().host];
  const topology::Gpu& gpu = host.gpus[ranks.front().gpu];
  GroupShape shape{.num_ranks = static_cast<int>(ranks.size()), .num_islands = fabric.layout.num_nodes()};
  std::map<int, int> of_island;
  std::vector<int> first_host(shape.num_islands, -1);
  std::vector<std::set<int>> hosts(shape.num_islands);
  for (size_t i = 0; i < ranks.size(); ++i) {
    const int node = fabric.layout.node_of[i];
    ++of_island[node];
    if (first_host[node] < 0) first_host[node] = ranks[i].host;
    hosts[node].insert(ranks[i].host);
    if (ranks[i].host == ranks.front().host && ranks[i] != ranks.front() &&
        reach.tier(ranks[i], ranks.front()) == Tier::kNode)
      shape.inside = Tier::kNode;
  }
  shape.ranks_per_island = largest(of_island);
  shape.local = fabric.local;
  shape.remote = fabric.remote;
  shape.gpu = gpu_kind(gpu.name);
  shape.sm = gpu.sm > 0 ? gpu.sm : 90;
  const int num_nics = reach.num_nics(ranks.front().host);
  shape.nics_per_island = num_nics * static_cast<int>(hosts[0].size());
  shape.nic_bytes_per_s = reach.network(ranks.front().host).bytes_per_s / std::max(1, num_nics);
  shape.amd_cpu = host.machine.cpu_model.find("AMD") != std::string::npos;
  shape.islands_within = {shape.num_islands, shape.num_islands, shape.num_islands};
  if (shape.num_islands == 1) return shape;
  if (!fabric.rack_of_node.empty()) shape.uplink = fabric.uplink;
  for (int level = 1; level <= 2; ++level) shape.islands_within[level - 1] = islands_below(reach, first_host, level);
  shape.switches_s = {0, reach.switch_latency_s(2), reach.switch_latency_s(3)};
  return shape;
}

GroupShape packed(GroupShape shape, Tier tier) {
  if (tier >= Tier::kCore || shape.num_islands == 1) return shape;
  if (tier >= Tier::kLeaf) {
    shape.islands_within[0] = tier == Tier::kLeaf ? shape.num_islands : shape.islands_within[0];
    shape.islands_within[1] = shape.num_islands;
    return shape;
  }
  shape.ranks_per_island = shape.num_ranks;
  shape.num_islands = 1;
  shape.islands_within = {1, 1, 1};
  return shape;
}

NcclGroup nccl_group(const GroupShape& shape) {
  NcclGroup group{.num_ranks = shape.num_ranks,
                  .num_nodes = shape.num_islands,
                  .sm = shape.sm,
                  .nvlink = shape.inside == Tier::kNvlink,
                  .amd_cpu = shape.amd_cpu};
  group = typical_channels(group, std::max(1, shape.nics_per_island), shape.nic_bytes_per_s / 1e9);
  // NVLink SHARP: Hopper's NVSwitch and later; NCCL uses it from five GPUs of a node on.
  group.nvls = group.nvlink && shape.sm >= 90 && shape.ranks_per_island > 4;
  return group;
}

const CollectiveCost& CollectiveTimes::all_reduce(const GroupShape& shape, int64_t bytes) {
  const auto [found, is_new] = known_.try_emplace({shape.key(), bytes});
  if (!is_new) return found->second;
  CollectiveCost& cost = found->second;
  if (shape.num_ranks == 1) return cost;
  switch (from_) {
    case Collectives::kNccl:
      return cost = of_nccl(shape, bytes);
    case Collectives::kLane:
      return cost = of_lane(shape, bytes);
    case Collectives::kMeasured:
      return cost = of_tables(shape, bytes);
    case Collectives::kAlphaBeta:
      return cost = cheapest_schedule(shape, bytes);
    case Collectives::kAuto:
      break;
  }
  CollectiveCost nccl = of_nccl(shape, bytes), lane = of_lane(shape, bytes);
  // Measured against interpolated is no difference of knowledge; a table against a model is.
  const auto is_known = [](const CollectiveCost& one) { return one.total.basis <= Basis::kInterpolated; };
  const bool take_lane = is_known(nccl) == is_known(lane) ? lane.total.seconds < nccl.total.seconds : is_known(lane);
  return cost = std::move(take_lane ? lane : nccl);
}

CollectiveCost message_time(const Reach& reach, GpuRef from, GpuRef to, int64_t bytes) {
  const Tier tier = reach.tier(from, to);
  if (tier == Tier::kSelf) return {};
  const double size = static_cast<double>(bytes);
  if (tier <= Tier::kNode) {
    const Link link = tier == Tier::kNvlink ? reach.nvlink(from) : reach.pcie(from);
    const double seconds = kKernelStart + link.latency_s + size / link.bytes_per_s;
    const Spread spread = alpha_beta_spread();
    return in_one_tier(
        {seconds, seconds * spread.low, seconds * spread.high, Basis::kExtrapolated, "alpha-beta of a message"},
        "message", tier);
  }
  const double switches_s = reach.switch_latency_s(reach.switch_level(from.host, to.host));
  if (has_slingshot(reach.topology().hosts[from.host]))
    return over_slingshot(reach, from.host, bytes, switches_s, tier);
  Link link = reach.network(from.host);
  link.bytes_per_s = std::min(link.bytes_per_s, reach.network(to.host).bytes_per_s);
  const double seconds = kKernelStart + link.latency_s + switches_s + size / link.bytes_per_s;
  const Spread spread = alpha_beta_between_nodes();
  return in_one_tier(
      {seconds, seconds * spread.low, seconds * spread.high, Basis::kExtrapolated, "alpha-beta of a message"},
      "message", tier);
}

}  // namespace lane::plan
