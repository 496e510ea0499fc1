#include "lane/plan/cost.h"

#include <algorithm>

#include "lane/base/error.h"
#include "lane/base/units.h"
#include "lane/plan/messages.h"

namespace lane::plan {
namespace {

// What goes through a port in one direction in one round.
struct Load {
  double share = 0;      // of the vector
  int num_messages = 0;  // of the sender with the most; for what comes in 1, since it is the sender who is charged
};

struct Ports {
  Load out, in;
};

// What a round has to do, by rank, node and rack.
struct Round {
  std::vector<Ports> local, remote, uplink;
  int num_local = 0, num_remote = 0;
};

class Loads {
 public:
  Loads(const Schedule& schedule, Collective collective, const Fabric& fabric, double partial_scale)
      : fabric_(fabric),
        nodes_(fabric.layout.ranks_by_node()),
        share_of_(schedule, collective, fabric.layout, partial_scale) {
    const int n = schedule.num_ranks();
    ensure(fabric.layout.num_ranks() == n, "a schedule is priced on a fabric for as many ranks");
    ensure(fabric.rack_of_node.empty() || fabric.rack_of_node.size() == nodes_.size(), "each node is in a rack");
    for (const int rack : fabric.rack_of_node) num_racks_ = std::max(num_racks_, rack + 1);
  }

  Round operator()(const std::vector<Message>& messages) const {
    Round round{std::vector<Ports>(fabric_.layout.num_ranks()), std::vector<Ports>(nodes_.size()),
                std::vector<Ports>(num_racks_)};
    std::vector<int> num_remote(fabric_.layout.num_ranks(), 0), num_far = num_remote;
    const auto pass = [](double share, Ports& from, Ports& to) {
      from.out.share += share;
      to.in.share += share;
      to.in.num_messages = 1;
    };
    const auto at_least = [](int& most, int count) { most = std::max(most, count); };
    for (const Message& message : messages) {
      const double share = share_of_(message);
      const int from = message.from, home = fabric_.layout.node_of[from];
      const int there = message.to < 0 ? home : fabric_.layout.node_of[message.to];
      ++(there == home ? round.num_local : round.num_remote);
      if (message.to < 0) {
        const double out = round.local[from].out.share;
        for (const int other : nodes_[home])
          if (other != from) pass(share, round.local[from], round.local[other]);
        round.local[from].out.share = out + share;  // one copy, whoever takes it
        ++round.local[from].out.num_messages;
      } else if (there == home) {
        pass(share, round.local[from], round.local[message.to]);
        ++round.local[from].out.num_messages;
      } else {
        pass(share, round.remote[home], round.remote[there]);
        at_least(round.remote[home].out.num_messages, ++num_remote[from]);
        if (fabric_.rack_of_node.empty()) continue;
        const int rack = fabric_.rack_of_node[home], other_rack = fabric_.rack_of_node[there];
        if (rack == other_rack) continue;
        pass(share, round.uplink[rack], round.uplink[other_rack]);
        at_least(round.uplink[rack].out.num_messages, ++num_far[from]);
      }
    }
    return round;
  }

 private:
  const Fabric& fabric_;
  std::vector<std::vector<int>> nodes_;
  MessageShares share_of_;
  int num_racks_ = 1;
};

}  // namespace

double Cost::at(int64_t bytes) const {
  double sum_s = 0;
  for (int round = 0; round < num_rounds(); ++round) sum_s += of_round(round, bytes);
  return sum_s;
}

double Cost::of_round(int round, int64_t bytes) const {
  double busiest_s = 0;
  for (const Line& port : rounds_[round])
    busiest_s = std::max(busiest_s, port.fixed_s + port.s_per_byte * static_cast<double>(bytes));
  return busiest_s;
}

// The upper envelope for sizes from 0 on: by slope ascending, each line is the busiest from where it crosses the one
// before it to where the next crosses it.
void Cost::add_round(std::vector<Line> ports) {
  std::sort(ports.begin(), ports.end(), [](const Line& a, const Line& b) {
    return a.fixed_s != b.fixed_s ? a.fixed_s > b.fixed_s : a.s_per_byte > b.s_per_byte;
  });
  std::vector<Line> kept;
  const auto crossing = [](const Line& a, const Line& b) {
    return (a.fixed_s - b.fixed_s) / (b.s_per_byte - a.s_per_byte);
  };
  for (const Line& line : ports) {
    if (!kept.empty() && line.s_per_byte <= kept.back().s_per_byte) continue;
    while (kept.size() >= 2 && crossing(kept.back(), line) <= crossing(kept[kept.size() - 2], kept.back()))
      kept.pop_back();
    kept.push_back(line);
  }
  rounds_.push_back(std::move(kept));
}

Cost cost(const Schedule& schedule, Collective collective, const Fabric& fabric, double partial_scale) {
  const Loads loads(schedule, collective, fabric, partial_scale);
  Cost total;
  for (const auto& messages : messages_by_round(schedule)) {
    const Round round = loads(messages);
    std::vector<Cost::Line> lines;
    const auto add = [&](const std::vector<Ports>& ports, const Link& link, double extra_latency_s = 0) {
      for (const Ports& port : ports)
        for (const Load& load : {port.out, port.in})
          if (load.num_messages > 0)
            lines.push_back({extra_latency_s + link.latency_s + (load.num_messages - 1) * link.message_s,
                             load.share / link.bytes_per_s});
    };
    add(round.local, fabric.local);
    add(round.remote, fabric.remote);
    add(round.uplink, fabric.uplink, fabric.remote.latency_s);
    total.add_round(std::move(lines));
  }
  return total;
}

std::vector<Traffic> traffic(const Schedule& schedule, Collective collective, const Fabric& fabric,
                             double partial_scale) {
  const Loads loads(schedule, collective, fabric, partial_scale);
  std::vector<Traffic> rounds;
  for (const auto& messages : messages_by_round(schedule)) {
    const Round round = loads(messages);
    const auto busiest = [](const std::vector<Ports>& ports) {
      double share = 0;
      for (const Ports& port : ports) share = std::max({share, port.out.share, port.in.share});
      return share;
    };
    rounds.push_back({.num_local = round.num_local,
                      .num_remote = round.num_remote,
                      .local_share = busiest(round.local),
                      .remote_share = busiest(round.remote),
                      .uplink_share = busiest(round.uplink)});
  }
  return rounds;
}

int cheapest(const std::vector<Candidate>& candidates, int64_t bytes) {
  ensure(!candidates.empty(), "there is something to choose from");
  int best = 0;
  double best_s = candidates[0].cost.at(bytes);
  for (int i = 1; i < static_cast<int>(candidates.size()); ++i)
    if (const double s = candidates[i].cost.at(bytes); s < best_s) best = i, best_s = s;
  return best;
}

std::string explain(const std::vector<Candidate>& candidates, int64_t bytes) {
  const int best = cheapest(candidates, bytes);
  const double best_s = candidates[best].cost.at(bytes);
  std::string text = candidates[best].name + " (" + format_duration(best_s) + " expected)";
  for (int i = 0; i < static_cast<int>(candidates.size()); ++i) {
    if (i == best) continue;
    const double s = candidates[i].cost.at(bytes);
    text += "; " + candidates[i].name + ": " +
            (s > best_s ? format_duration(s - best_s) + " more" : std::string("the same, but later in the list"));
  }
  return text;
}

}  // namespace lane::plan
