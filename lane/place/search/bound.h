// Private to lane/place: what no placement can be cheaper than.
#pragma once
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
  // Of one group by how many of its GPUs an island holds.
  struct Shape {
    int of_island = 0, longest_run = 0;
    double near_s = 0, far_s = 0;  // an all-reduce in one leaf, over several; infinite: impossible
    double hop_island_s = 0, hop_leaf_s = 0, hop_far_s = 0;
  };

  void find_containers();
  void find_shapes();
  plan::Link fastest_inside(const Unit& unit, bool spans_hosts) const;
  double far_price(const plan::Fabric& near);
  // With at least `num_small` groups of fewer than `small` GPUs an island, `num_far` groups on several leaves, and (if
  // asked) leaves crossed at all.
  double replica(int small, int num_small, int num_far, bool crosses);

  const Cluster& cluster_;
  Pricer& pricer_;
  const Job& job_;
  std::vector<int> container_;  // by leaf: leaves that share an island are one
  int num_containers_ = 0, min_far_level_ = 0;
  std::vector<Shape> shapes_;
  std::vector<double> rest_;
  std::map<std::vector<int>, double> known_;
};

}  // namespace lane::place
