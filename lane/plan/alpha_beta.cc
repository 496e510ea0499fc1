// Closed formulas (Thakur, Rabenseifner and Gropp 2005; NVRAR, arXiv 2511.09557) for what plan::cost() counts from the
// steps of a schedule: 1,024 ranks cost as much as two.
#include <algorithm>
#include <bit>
#include <vector>

#include "lane/base/error.h"
#include "lane/plan/collective_time.h"

namespace lane::plan {
namespace {

struct Round {
  double share = 0;         // of the vector, through the busiest port
  int messages = 1;         // of a rank
  double uplink_share = 0;  // through a leaf's uplink
  int far_messages = 0;     // of a rank, through it
  Tier tier = Tier::kNvlink;
};

// Members of a group that have a port each: the ranks of an island, or the islands of a network.
struct Ports {
  int n;
  bool network;
  const GroupShape& shape;

  int in_leaf() const { return network ? std::min(n, shape.islands_within[0]) : n; }
  // Of messages between members up to `span` places apart.
  Tier tier(int span) const {
    if (!network) return shape.inside;
    if (span <= shape.islands_within[0]) return Tier::kLeaf;
    return span <= shape.islands_within[1] ? Tier::kSpine : Tier::kCore;
  }
  // All members send `share` to others that are `span` places apart.
  Round exchange(double share, int span) const {
    const bool leaves = network && span > in_leaf();
    return {share, 1, leaves ? in_leaf() * share : 0, leaves ? 1 : 0, tier(span)};
  }
  // Everybody sends 1/parts of the vector to everybody.
  Round all_to_all(double parts) const {
    const int far = network ? n - in_leaf() : 0;
    return {(n - 1) / parts, n - 1, in_leaf() * double(far) / parts, far, tier(n)};
  }
};

std::optional<std::vector<Round>> rounds_of(std::string_view name, const Ports& ports) {
  std::vector<Round> rounds;
  const int n = ports.n, core = static_cast<int>(std::bit_floor(static_cast<unsigned>(n)));
  if (n == 1) return rounds;
  const auto fold = [&] {  // members beyond a power of two lend a neighbour their vector
    if (core < n) rounds.push_back(ports.exchange(1, n));
  };
  if (name == "one_shot") {
    rounds.push_back(ports.all_to_all(1));
  } else if (name == "two_shot") {
    rounds.assign(2, ports.all_to_all(n));
  } else if (name == "ring") {
    const bool leaves = ports.network && n > ports.in_leaf();
    const Round round{1.0 / n, 1, leaves ? 1.0 / n : 0, leaves ? 1 : 0, ports.tier(n)};
    rounds.assign(static_cast<size_t>(2 * (n - 1)), round);
  } else if (name == "recursive_doubling") {
    fold();
    for (int distance = 1; distance < core; distance *= 2) rounds.push_back(ports.exchange(1, 2 * distance));
    fold();
  } else if (name == "halving_doubling") {
    fold();
    for (int distance = 1; distance < core; distance *= 2)
      rounds.insert(rounds.end(), 2, ports.exchange(double(distance) / core, 2 * distance));
    fold();
  } else {
    return std::nullopt;
  }
  return rounds;
}

double seconds_of(const Round& round, const GroupShape& shape, int64_t bytes) {
  const bool network = round.tier >= Tier::kLeaf;
  const Link& link = network ? shape.remote : shape.local;
  const double size = static_cast<double>(bytes);
  double seconds = link.latency_s + (round.messages - 1) * link.message_s + round.share * size / link.bytes_per_s;
  if (round.uplink_share > 0) {
    const double switches_s = shape.switches_s[static_cast<size_t>(round.tier) - static_cast<size_t>(Tier::kLeaf)];
    seconds = std::max(seconds, link.latency_s + switches_s + (round.far_messages - 1) * shape.uplink.message_s +
                                    round.uplink_share * size / shape.uplink.bytes_per_s);
  }
  return seconds;
}

}  // namespace

std::optional<ByTier> alpha_beta_by_tier(std::string_view schedule, const GroupShape& shape, int64_t bytes) {
  const Ports islands{shape.num_islands, true, shape}, ranks{shape.ranks_per_island, false, shape};
  const bool hierarchical = schedule.starts_with("hier:two_shot/");
  if (hierarchical != (shape.num_islands > 1 && shape.ranks_per_island > 1)) return std::nullopt;
  const std::string_view name = hierarchical ? schedule.substr(schedule.find('/') + 1) : schedule;
  const auto rounds = rounds_of(name, shape.num_islands > 1 ? islands : ranks);
  if (!rounds) return std::nullopt;
  ByTier by_tier = {};
  const auto add = [&](const Round& round) {
    by_tier[static_cast<size_t>(round.tier)] += seconds_of(round, shape, bytes);
  };
  if (hierarchical) {  // reduce-scatter before, all-gather behind: each sends every other rank of the island its part
    const Round inside = ranks.all_to_all(shape.ranks_per_island);
    add(inside);
    add(inside);
  }
  for (const Round& round : *rounds) add(round);
  if (shape.num_ranks > 1)
    by_tier[static_cast<size_t>(shape.ranks_per_island > 1 ? shape.inside : shape.widest())] += kKernelStart;
  return by_tier;
}

std::optional<CollectiveCost> alpha_beta(std::string_view schedule, const GroupShape& shape, int64_t bytes) {
  const auto by_tier = alpha_beta_by_tier(schedule, shape, bytes);
  if (!by_tier) return std::nullopt;
  CollectiveCost cost;
  cost.algorithm = "lane " + std::string(schedule);
  cost.by_tier = *by_tier;
  const Spread inside = alpha_beta_spread(), between = alpha_beta_between_nodes();
  cost.total = {0, 0, 0, Basis::kExtrapolated, "alpha-beta of " + std::string(schedule)};
  for (int tier = 0; tier < kNumTiers; ++tier) {
    const Spread& spread = tier < static_cast<int>(Tier::kLeaf) ? inside : between;
    cost.total.seconds += (*by_tier)[tier];
    cost.total.low_s += (*by_tier)[tier] * spread.low;
    cost.total.high_s += (*by_tier)[tier] * spread.high;
  }
  return cost;
}

}  // namespace lane::plan
