// Private to lane/place: what no placement can be cheaper than.
#pragma once
#include <compare>
#include <map>
#include <vector>

#include "lane/place/search/greedy.h"

namespace lane::place {

// Lower bounds on the slowest replica's cost. They hold because
//   - a group on several islands costs at least as much as the cheapest one of its shape on the best hardware: a fabric
//     takes the slowest link of each kind;
//   - groups that take q or more GPUs of each of their islands find room for at most sum(floor(free / q) q) ranks, and
//   at
//     most sum(floor(free / tensor)) groups fit into single leaves: some replica has its share of the others;
//   - stages that pass data inside an island use it together: no more of them follow each other than it has room for.
class Bound {
 public:
  Bound(const Cluster& cluster, Pricer& pricer);

  // Of the slowest of `num_replicas` on what is free. Infinite if they cannot all fit.
  double at(const Free& free, int num_replicas);
  double rest_of_replica(int stage) const { return rest_[stage]; }  // of the stages from this one on, at least

 private:
  // Leaves that switches up to a level join, and those that share an island.
  struct Zones {
    std::vector<int> of_leaf;
    int count = 0, level_between = 0;  // the lowest level over which two of them reach each other
  };
  // One group by how many of its GPUs an island holds. `beyond`: over several zones, by their level.
  struct Shape {
    int of_island = 0, longest_run = 0;
    double leaf_s = 0;  // an all-reduce in one zone of the first level; infinite: impossible
    double hop_island_s = 0, hop_leaf_s = 0;
    std::vector<double> beyond_s, hop_beyond_s;
  };
  // What some replica must have: groups of fewer than `small` GPUs an island, groups over several zones, and that it
  // leaves a zone at all.
  struct Demand {
    int small = 0, num_small = 0, zones = 0, num_beyond = 0;
    bool leaves_zone = false;
    auto operator<=>(const Demand&) const = default;
  };

  void find_zones();
  void find_shapes();
  Shape shape_of(int of_island, int most_units, int most_free, const std::vector<int>& fitting_of_zone);
  plan::Link fastest_inside(const Unit& unit, bool spans_hosts) const;
  double price_beyond(const plan::Fabric& near, int level);
  double replica(const Demand& demand);

  const Cluster& cluster_;
  Pricer& pricer_;
  const Job& job_;
  std::vector<Zones> zones_;  // by level, from the leaves on; at least one
  std::vector<Shape> shapes_;
  std::vector<double> rest_;
  std::map<Demand, double> known_;
};

}  // namespace lane::place
