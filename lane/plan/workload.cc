#include "lane/plan/workload.h"

#include <algorithm>
#include <limits>

#include "lane/plan/messages.h"

namespace lane::plan {

int Workload::label(const std::string& name) {
  const auto found = std::find(labels.begin(), labels.end(), name);
  if (found == labels.end()) return labels.push_back(name), static_cast<int>(labels.size()) - 1;
  return static_cast<int>(found - labels.begin());
}

Workload idle_workload(const Network& network) {
  Workload workload;
  for (const NetworkLink& link : network.links())
    workload.capacities.push_back(link.can_limit ? link.bytes_per_s : std::numeric_limits<double>::infinity());
  workload.programs.emplace_back();
  workload.program_of.assign(network.num_ranks(), 0);
  workload.slowness.assign(network.num_ranks(), 1);
  return workload;
}

Exchange exchange_of(const Schedule& schedule, Collective collective, const Layout& layout, double bytes,
                     double partial_scale) {
  Exchange exchange{.name = std::string(name_of(collective))};
  const MessageShares share_of(schedule, collective, layout, partial_scale);
  const auto nodes = layout.ranks_by_node();
  const auto rounds = messages_by_round(schedule);
  for (int round = 0; round < static_cast<int>(rounds.size()); ++round)
    for (const Message& message : rounds[round]) {
      Parcel parcel{.round = round, .from = message.from, .bytes = share_of(message) * bytes};
      if (message.to >= 0) parcel.to = {message.to};
      if (message.to < 0)
        for (const int rank : nodes[layout.node_of[message.from]])
          if (rank != message.from) parcel.to.push_back(rank);
      exchange.parcels.push_back(std::move(parcel));
    }
  return exchange;
}

void add_group(Exchange& exchange, const Exchange& pattern, std::span<const int> ranks, const Network& network) {
  struct Started {  // by a rank in a round: what it sends inside its island and beyond are started side by side
    int round = -1, num_local = 0, num_remote = 0;
  };
  std::vector<Started> started(ranks.size());
  for (const Parcel& one : pattern.parcels) {
    Parcel parcel{.round = one.round, .from = ranks[one.from], .bytes = one.bytes};
    for (const int to : one.to) parcel.to.push_back(ranks[to]);
    const Route route =
        one.to.size() == 1 ? network.route(parcel.from, parcel.to[0]) : network.multicast(parcel.from, parcel.to);
    Started& before = started[one.from];
    if (before.round != one.round) before = {.round = one.round};
    int& earlier = route.is_local ? before.num_local : before.num_remote;
    parcel.wait_s = earlier++ * route.message_s;
    parcel.latency_s = route.latency_s;
    for (const int link : route.links) parcel.hops.push_back({link, 1});
    exchange.parcels.push_back(std::move(parcel));
  }
}

Workload workload_of(const Exchange& pattern, const Network& network) {
  Workload workload = idle_workload(network);
  std::vector<int> ranks;
  for (int rank = 0; rank < network.num_ranks(); ++rank) ranks.push_back(rank);
  Exchange exchange{.name = pattern.name};
  add_group(exchange, pattern, ranks, network);
  workload.programs[0].push_back({.label = workload.label(exchange.name), .exchange = 0});
  workload.exchanges.push_back(std::move(exchange));
  return workload;
}

}  // namespace lane::plan
