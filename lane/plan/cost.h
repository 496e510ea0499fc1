#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lane/plan/schedule.h"

namespace lane::plan {

// A way for messages: alpha-beta with a charge per message (Hockney 1994; the charge is LogP's overhead o).
struct Link {
  double latency_s = 0;    // from the start of a send until the first byte can be used
  double bytes_per_s = 1;  // of one port in one direction, the ranks' own work on the bytes included
  double message_s = 0;    // of a rank's time for each message beyond the first that it sends in a round
  bool operator==(const Link&) const = default;
};

// What a group's ranks are joined by. Each rank has a port to the others of its node; each node has one to the other
// nodes, which its ranks share; racks, if given, have one that their nodes share.
struct Fabric {
  Layout layout;
  Link local, remote;
  std::vector<int> rack_of_node = {};  // empty: all nodes on one switch
  Link uplink = {};                    // of a rack; its latency comes on top of remote's
  static Fabric one_node(int num_ranks, Link link) { return {Layout::one_node(num_ranks), link, {}}; }
};

// What a collective costs as a function of its vector's size: rounds follow each other, and a round lasts as long as
// its busiest port, which may be another for small vectors than for large ones.
class Cost {
 public:
  struct Line {
    double fixed_s = 0, s_per_byte = 0;
  };
  double at(int64_t bytes) const;
  double of_round(int round, int64_t bytes) const;
  void add_round(std::vector<Line> ports);  // keeps those that are the busiest for some size
  int num_rounds() const { return static_cast<int>(rounds_.size()); }

 private:
  std::vector<std::vector<Line>> rounds_;
};

// `partial_scale`: how much larger a chunk is while it is partly summed (2 for 16-bit types, which travel as float32
// then). kAllToAll: the vector is what one rank starts with.
Cost cost(const Schedule& schedule, Collective collective, const Fabric& fabric, double partial_scale = 1);

// What a round sends, without times.
struct Traffic {
  int num_local = 0, num_remote = 0;                           // messages
  double local_share = 0, remote_share = 0, uplink_share = 0;  // of the vector, through the busiest port of a kind
};
std::vector<Traffic> traffic(const Schedule& schedule, Collective collective, const Fabric& fabric,
                             double partial_scale = 1);

struct Candidate {
  std::string name;
  Cost cost;
};

// The index of the cheapest candidate; of equal ones the first. And why, with what the others would cost.
int cheapest(const std::vector<Candidate>& candidates, int64_t bytes);
std::string explain(const std::vector<Candidate>& candidates, int64_t bytes);

}  // namespace lane::plan
