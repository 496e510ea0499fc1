#pragma once
#include <string>

#include "lane/doctor/doctor.h"
#include "lane/plan/cost.h"
#include "lane/topology/topology.h"

namespace lane::doctor {

// What a fault costs a decode step, and why; 0 µs if it costs nothing or cannot be told: `why` says which.
struct Price {
  double us = 0;
  std::string why;
};

// Prices of faults for a model whose tensor-parallel group fills hosts like this one. A step does two all-reduces a
// layer of batch x hidden x 2 bytes; the group goes as fast as its slowest rank, so one bad device slows all of them.
class Costs {
 public:
  Costs(const topology::Topology& topology, const Workload& workload);  // of the topology's first host

  int num_hosts() const { return num_hosts_; }  // that the tensor-parallel group spans
  std::string words() const;                    // "160 all-reduces of 256 KiB over 2 hosts of 8 GPUs"

  Price network_at(double share) const;  // some GPU keeps this share of its rate to the network
  Price local_at(double share) const;    // some GPU keeps this share of its rate to the others of its host
  Price host_copies() const;             // messages between hosts pass through host memory on both sides
  Price pcie_instead_of_nvlink() const;  // GPUs of this host without NVLink or peer-to-peer, beside a host with NVLink
  Price unknown(const std::string& why) const { return {0, "cannot be told: " + why}; }

 private:
  double all_reduce_us(double local_share, double remote_share) const;
  std::string nothing() const;          // why a fault costs nothing at all; empty: it may
  std::string nothing_outside() const;  // why a fault of the network costs nothing or cannot be told; empty: it may

  int num_gpus_ = 1, num_hosts_ = 1, tensor_ = 1, num_all_reduces_ = 0;
  int64_t bytes_ = 0;     // of a vector
  bool is_rack_ = false;  // NVLink reaches other hosts
  plan::Link local_, remote_, pcie_;
};

}  // namespace lane::doctor
