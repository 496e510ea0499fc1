// Private to lane/place: a topology as the search sees it.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "lane/place/place.h"

namespace lane::place {

// The GPUs of one host that belong to one island (see plan::Reach). The search counts free GPUs of units; which ones
// they are is decided at the end.
struct Unit {
  int host = 0, island = 0, leaf = 0, rack = 0;
  int hardware = 0;       // units with the same number have the same links
  std::vector<int> gpus;  // places in the host's list: all of them, those joined by NVLink together
  std::vector<int> free;  // of these, the free ones, ascending
};

// A group as the search makes it: `per_unit` GPUs of each unit.
struct UnitGroup {
  std::vector<int> units;  // in the order of ranks
  int per_unit = 0;
  int num_ranks() const { return per_unit * static_cast<int>(units.size()); }
};

struct UnitReplica {
  std::vector<UnitGroup> stages;
  double seconds = 0;
};

class Cluster {
 public:
  // Units with free GPUs on hosts that the job may use.
  Cluster(const plan::Reach& reach, const Job& job);

  const plan::Reach& reach() const { return reach_; }
  const std::vector<Unit>& units() const { return units_; }
  int num_islands() const { return num_islands_; }
  int num_leaves() const { return num_leaves_; }
  int num_hardware() const { return static_cast<int>(hardware_host_.size()); }
  int unit_of_hardware(int hardware) const { return hardware_host_[hardware]; }  // a unit that has it
  int top_level() const { return top_level_; }
  int level(int leaf_a, int leaf_b) const;  // of switches that join them; 1 for the same leaf
  // Sorted as ranks go: leaves with most units first, an island's units together.
  void sort(std::vector<int>& units) const;
  // Whether the GPUs of a host may differ in how they reach each other; then a count does not say all.
  bool has_uneven_hosts() const { return has_uneven_hosts_; }

 private:
  void add_host(int host, bool is_allowed);

  const plan::Reach& reach_;
  std::vector<Unit> units_;
  std::vector<int> hardware_host_;
  std::vector<int> leaf_host_;              // a host of each leaf
  mutable std::vector<signed char> level_;  // [leaf][leaf]; 0: not looked up yet
  int num_islands_ = 0, num_leaves_ = 0, top_level_ = 1;
  bool has_uneven_hosts_ = false;
};

// GPUs of the host that are the best `count` of `candidates` (places, ascending): joined by NVLink, and leaving the
// fewest of a joined set alone.
std::vector<int> choose_gpus(const plan::Reach& reach, const Unit& unit, std::vector<int> candidates, int count);

}  // namespace lane::place
