#include "lane/plan/fair_share.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "lane/base/error.h"

namespace lane::plan {

FairShare::FairShare(std::vector<double> capacities) {
  for (const double capacity : capacities) {
    ensure(capacity > 0, "a link carries something");
    links_.push_back({.capacity = capacity});
  }
}

void FairShare::touch(int link) { touched_.push_back(link); }

int FairShare::add(std::span<const Hop> hops) {
  int id = static_cast<int>(flows_.size());
  if (free_.empty()) {
    flows_.emplace_back();
  } else {
    id = free_.back();
    free_.pop_back();
  }
  Flow& flow = flows_[id];
  flow.rate = 0;
  flow.hops.clear();
  flow.places.clear();
  for (const Hop& hop : hops) {
    Link& link = links_[hop.link];
    if (std::isinf(link.capacity)) continue;
    flow.places.push_back(static_cast<int>(link.members.size()));
    link.members.push_back({id, static_cast<int>(flow.hops.size())});
    flow.hops.push_back(hop);
    touch(hop.link);
  }
  if (flow.hops.empty()) free_running_.push_back(id);
  return id;
}

void FairShare::remove(int flow) {
  Flow& gone = flows_[flow];
  for (size_t i = 0; i < gone.hops.size(); ++i) {
    const int index = gone.hops[i].link;
    std::vector<Member>& members = links_[index].members;
    const Member moved = members.back();
    members[gone.places[i]] = moved;
    flows_[moved.flow].places[moved.hop] = gone.places[i];
    members.pop_back();
    touch(index);
  }
  gone.hops.clear();
  std::erase(free_running_, flow);
  free_.push_back(flow);
}

// All links and flows that a chain of shared links joins to this link.
void FairShare::find_set(int link) {
  set_links_.assign(1, link);
  set_flows_.clear();
  links_[link].seen = now_;
  for (size_t i = 0; i < set_links_.size(); ++i) {
    Link& one = links_[set_links_[i]];
    one.left = one.capacity;
    one.open = one.settled_now = 0;
    for (const Member& member : one.members) {
      Flow& flow = flows_[member.flow];
      one.open += flow.hops[member.hop].count;
      if (flow.seen == now_) continue;
      flow.seen = now_;
      flow.is_settled = false;
      set_flows_.push_back(member.flow);
      for (const Hop& hop : flow.hops) {
        if (links_[hop.link].seen == now_) continue;
        links_[hop.link].seen = now_;
        set_links_.push_back(hop.link);
      }
    }
  }
}

void FairShare::settle(int link, double level) {
  for (const Member& member : links_[link].members) {
    Flow& flow = flows_[member.flow];
    if (flow.is_settled) continue;
    flow.is_settled = true;
    flow.next_rate = level;
    for (const Hop& hop : flow.hops) {
      Link& other = links_[hop.link];
      if (other.settled_now == 0) settling_.push_back(hop.link);
      other.settled_now += hop.count;
    }
  }
}

// A link's level, its share for each open flow, only rises as others settle at or below it, so an entry of the heap
// that is out of date is too low: it goes back with its present level. All links of one level settle at once, and a
// link gives up (number of flows) x level in one multiplication: so flows that are alike get the same bits whether they
// are there one by one or as one with a count.
void FairShare::fill() {
  heap_.clear();
  for (const int link : set_links_)
    if (links_[link].open > 0) heap_.emplace_back(links_[link].level(), link);
  const auto above = std::greater<>();
  std::make_heap(heap_.begin(), heap_.end(), above);
  const auto pop = [&] {
    std::pop_heap(heap_.begin(), heap_.end(), above);
    const auto top = heap_.back();
    heap_.pop_back();
    return top;
  };
  while (!heap_.empty()) {
    const auto [level, link] = pop();
    if (links_[link].open == 0) continue;
    if (const double present = links_[link].level(); present > level) {
      heap_.emplace_back(present, link);
      std::push_heap(heap_.begin(), heap_.end(), above);
      continue;
    }
    settling_.clear();
    settle(link, level);
    while (!heap_.empty() && heap_.front().first == level) {
      const int other = pop().second;
      if (links_[other].open == 0) continue;
      if (links_[other].level() == level) {
        settle(other, level);
      } else {
        heap_.emplace_back(links_[other].level(), other);
        std::push_heap(heap_.begin(), heap_.end(), above);
      }
    }
    for (const int touched : settling_) {
      Link& one = links_[touched];
      one.left = std::max(0.0, one.left - static_cast<double>(one.settled_now) * level);
      one.open -= one.settled_now;
      one.settled_now = 0;
    }
  }
}

const std::vector<int>& FairShare::solve() {
  changed_.clear();
  ++now_;
  for (const int flow : free_running_) {
    flows_[flow].rate = std::numeric_limits<double>::infinity();
    changed_.push_back(flow);
  }
  free_running_.clear();
  for (const int link : touched_) {
    if (links_[link].seen == now_) continue;
    find_set(link);
    fill();
    for (const int id : set_flows_) {
      Flow& flow = flows_[id];
      if (flow.next_rate == flow.rate) continue;
      flow.rate = flow.next_rate;
      changed_.push_back(id);
    }
  }
  touched_.clear();
  return changed_;
}

}  // namespace lane::plan
