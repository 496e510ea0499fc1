// Private to lane/place: branch and bound over what is free.
#pragma once
#include <set>
#include <vector>

#include "lane/place/search/bound.h"

namespace lane::place {

// Finds the placement whose slowest replica costs least. Units that differ in nothing that matters are tried once, and
// so are states of what is free. Depth first, the cheapest groups first.
class Exact {
 public:
  Exact(const Cluster& cluster, Pricer& pricer, Bound& bound, int64_t max_nodes);

  // Improves on `best_s`; empty if nothing does.
  std::vector<UnitReplica> run(double best_s);
  bool is_complete() const { return num_nodes_ < max_nodes_; }  // else the tree was left unfinished
  int64_t num_nodes() const { return num_nodes_; }

 private:
  struct Candidate {
    UnitGroup group;
    double seconds = 0;  // of the replica up to here
  };

  bool place_replica();
  bool place_stage(UnitReplica& replica);
  void find_candidates(const UnitReplica& replica, std::vector<Candidate>& found);
  void extend(const UnitReplica& replica, UnitGroup& group, size_t from, std::vector<Candidate>& found);
  bool is_even(const UnitGroup& group) const;
  std::vector<int> state() const;

  const Cluster& cluster_;
  Pricer& pricer_;
  Bound& bound_;
  const Job& job_;
  int64_t max_nodes_, num_nodes_ = 0;
  double best_s_ = 0;
  Free free_;
  std::vector<int> sibling_;  // by leaf: leaves with the same number are as far from all others
  std::vector<int> island_size_;
  std::vector<UnitReplica> placed_, best_;
  std::set<std::vector<int>> known_;  // states that cannot be completed for less than best_s_
};

}  // namespace lane::place
