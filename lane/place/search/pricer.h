// Private to lane/place: what groups and hops cost. Remembers what it has seen.
#pragma once
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "lane/place/search/cluster.h"

namespace lane::place {

class Pricer {
 public:
  struct Price {
    double seconds = 0;
    std::string algorithm;
  };

  Pricer(const plan::Reach& reach, const Job& job);

  const Job& job() const { return job_; }
  // One all-reduce of the job's message.
  const Price& all_reduce(const plan::Fabric& fabric);
  const Price& all_reduce(std::span<const topology::GpuRef> gpus) { return all_reduce(reach_.fabric(gpus)); }
  // Of the whole message from each rank to its counterpart of the next stage.
  double hop(std::span<const topology::GpuRef> from, std::span<const topology::GpuRef> to) const;
  double network_hop(int host_a, int host_b, int level) const;
  double island_hop(topology::GpuRef from, topology::GpuRef to) const;

  // The same by units; a lookup instead of a fabric.
  double all_reduce(const Cluster& cluster, const UnitGroup& group);
  double hop(const Cluster& cluster, const UnitGroup& from, const UnitGroup& to) const;
  // Of a stage's all-reduces.
  double stage(const Cluster& cluster, const UnitGroup& group, int stage) {
    return num_all_reduces(stage) * all_reduce(cluster, group);
  }
  double replica(const Cluster& cluster, const std::vector<UnitGroup>& stages);
  int num_all_reduces(int stage) const { return num_all_reduces_[stage]; }

 private:
  const plan::Reach& reach_;
  const Job& job_;
  int64_t bytes_;
  std::vector<int> num_all_reduces_;                     // by stage
  std::vector<plan::Link> network_;                      // of one GPU, by host
  std::unordered_map<std::string, Price> prices_;        // by fabric
  std::unordered_map<std::string, double> unit_prices_;  // by group
};

}  // namespace lane::place
