// Private to lane/place: good placements, fast.
#pragma once
#include <optional>
#include <vector>

#include "lane/place/search/pricer.h"

namespace lane::place {

// How many GPUs are free, by unit.
using Free = std::vector<int>;

inline void take(const UnitReplica& replica, Free& free, int sign = 1) {
  for (const UnitGroup& group : replica.stages)
    for (const int unit : group.units) free[unit] -= sign * group.per_unit;
}
inline void give_back(const UnitReplica& replica, Free& free) { take(replica, free, -1); }

// Replica by replica, in the smallest part of the cluster (a host, an island, a leaf, ...) that holds one at the least
// cost; parts are filled so that little is left over. Then the slowest replicas are tried elsewhere, alone and in turn
// with others.
class Greedy {
 public:
  Greedy(const Cluster& cluster, Pricer& pricer);

  // As many of the job's replicas as found room. `floor_s`: what a replica costs at least, so that a wider search is
  // vain.
  std::vector<UnitReplica> run(double floor_s);
  // Lowers the cost of the slowest replica as long as it finds a way.
  void improve(std::vector<UnitReplica>& replicas, double floor_s);
  // The same by exchanging groups: one bad group for each replica is better than all of them for one.
  void exchange(std::vector<UnitReplica>& replicas, double floor_s);

 private:
  struct Zone {
    std::vector<int> units;
    bool is_stale = true;
    std::optional<UnitReplica> best;
    double waste = 0;  // GPUs that are left over on the units of `best`
  };
  struct Choice;

  void add_zones(const std::vector<int>& key_of_unit, int num_keys);
  void find_zones();
  void refresh(Zone& zone, Free& free);
  std::optional<UnitReplica> best_replica(Free& free, double floor_s);
  void mark_stale(const UnitReplica& replica);
  std::optional<UnitGroup> pick_group(const std::vector<int>& zone, const Free& free, const UnitGroup* before,
                                      int stage);
  void offer_single(const std::vector<int>& zone, const Free& free, Choice& choice) const;
  void offer_split(const std::vector<int>& zone, const Free& free, int per_unit, Choice& choice) const;
  void offer(UnitGroup group, const Free& free, Choice& choice) const;
  std::vector<double> preference(const UnitReplica& replica) const;
  void count(const UnitReplica& replica, int sign);
  bool swap_stage(UnitReplica& slow, UnitReplica& other);
  bool in_one_rack(const UnitReplica& replica) const;

  const Cluster& cluster_;
  Pricer& pricer_;
  const Job& job_;
  std::vector<std::vector<Zone>> levels_;                   // the smallest zones first
  std::vector<std::vector<std::pair<int, int>>> zones_of_;  // by unit: level and index
  std::vector<int> leaf_uses_, unit_uses_, leaf_free_;      // replicas on a leaf, on a unit; GPUs
};

std::vector<int> divisors_descending(int number);

}  // namespace lane::place
