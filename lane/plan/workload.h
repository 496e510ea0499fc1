#pragma once
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "lane/plan/fair_share.h"
#include "lane/plan/network.h"
#include "lane/plan/schedule.h"

namespace lane::plan {

// One message of an exchange.
struct Parcel {
  int round = 0, from = 0;
  std::vector<int> to;  // several by multicast
  double bytes = 0;
  double wait_s = 0;     // from when the sender may send until it does: it has others of this round to start before
  double latency_s = 0;  // from when the last byte has left until it can be used
  std::vector<Hop> hops;
};

// Messages that ranks send each other when they come to it: a collective of all groups that run it side by side, or
// what stages of a pipeline hand on. A rank's round of it begins when all that the round before brought is there and
// all that it sent has left; ranks do not wait for others beyond that.
struct Exchange {
  std::string name;
  std::vector<Parcel> parcels;
  bool holds_sender = true;  // false: a sender goes on at once, and the message follows the one before on its way
  // Larger messages leave only when their receivers have come to the round, as with rendezvous protocols or where no
  // more fits into a ring. By default all leave when the sender comes to it.
  double eager_bytes = std::numeric_limits<double>::infinity();
};

// What a rank does next: compute for some time, or its part of an exchange.
struct Op {
  int label = 0;     // of Workload::labels
  int exchange = 0;  // -1: it computes
  double compute_s = 0;
};

// What is to be simulated: programs for ranks, and the links that their messages go over. An exchange that occurs
// several times in programs happens as often: a message of a sender's n-th time is for its receivers' n-th time.
struct Workload {
  std::vector<double> capacities;  // of links, bytes/s
  std::vector<std::string> labels;
  std::vector<Exchange> exchanges;
  std::vector<std::vector<Op>> programs;
  std::vector<int> program_of;   // by rank
  std::vector<double> slowness;  // by rank: its computing takes this many times as long

  int num_ranks() const { return static_cast<int>(program_of.size()); }
  int label(const std::string& name);  // its index; added if new
};

// Nobody does anything yet. Of `network`, the links.
Workload idle_workload(const Network& network);

// The messages of a collective of vectors of `bytes` between the schedule's ranks, without a way yet. `layout` and
// `partial_scale` as for cost().
Exchange exchange_of(const Schedule& schedule, Collective collective, const Layout& layout, double bytes,
                     double partial_scale = 1);

// Adds `pattern` to `exchange` for one group, with its ways through the network: the pattern's rank i is ranks[i].
void add_group(Exchange& exchange, const Exchange& pattern, std::span<const int> ranks, const Network& network);

// One exchange between all ranks of a network, from an idle start.
Workload workload_of(const Exchange& pattern, const Network& network);

// Ranks and links that behave alike as one: of each class the workload keeps one rank, of each class of links one link.
//
// Classes are found by colour refinement (Berkholz, Bonsma, Grohe: Tight lower and upper bounds for the complexity of
// canonical colour refinement, 2017). Ranks start with the colour of their program and slowness, links with that of
// their capacity; then a message's colour is made from what it is and the colours of its sender, receivers and links, a
// rank's and a link's from its old one and those of its messages, until no class splits any more. What comes out is an
// equitable partition: all members of a class send, receive or carry the same numbers of messages of each class.
//
// The folded workload gives the very same times. By induction over the events: if up to now all members of a class were
// in the same state, then on links of a class equal numbers of flows of each class compete for equal capacities, hence
// progressive filling, which reads nothing but these, gives all flows of a class one rate; they end together, and what
// waits for them goes on together. Nothing is assumed of the topology: where it is lopsided, classes are small, and a
// single slow rank leaves together only those that it cannot affect in different ways.
//
// Colours are 64-bit hashes: that two differ in truth and not as hashes has a chance of n^2 / 2^65 for n messages and
// links, 1e-9 for 200,000.
struct Folded {
  Workload workload;
  std::vector<int> class_of_rank, class_of_link;
};
Folded fold(const Workload& workload);

}  // namespace lane::plan
