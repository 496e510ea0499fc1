#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "lane/plan/estimate.h"
#include "lane/plan/schedule.h"

namespace lane::plan {

enum class NcclAlgorithm : uint8_t { kTree, kRing, kNvls, kNvlsTree, kPat };
enum class NcclProtocol : uint8_t { kLl, kLl128, kSimple };
std::string_view name_of(NcclAlgorithm algorithm);  // "tree", "ring", "nvls", "nvls_tree", "pat": as its tuner's CSV
std::string_view name_of(NcclProtocol protocol);    // "ll", "ll128", "simple"

// What NCCL knows of a communicator when it chooses. The result of its search for rings and trees is not computed here:
// `channels` and the rates of one are those that NCCL prints ("nChannels 24, bw 15.0/15.0"), or what typical_channels()
// says. They decide large vectors; small ones are latency and depend on the rest alone.
struct NcclGroup {
  int num_ranks = 2, num_nodes = 1;  // nodes: hosts, or NVLink domains that span hosts
  int sm = 90;
  bool nvlink = true;    // between a node's GPUs; else PCIe
  bool amd_cpu = false;  // an x86 host of AMD; Intel and Arm are alike to NCCL
  int channels = 1;
  double intra_gb_per_s = 1, inter_gb_per_s = 1;  // of one channel
  bool nvls = false;                              // NVLink multicast works; its channels are `channels`
  bool one_nic = false;                           // trees of one way ("pattern tree"): a NIC a node
  double net_latency_us = 0;                      // that a net plugin reports of itself
};

// What the search ends with on nodes whose `nics_per_node` NICs of `nic_gb_per_s` each feed all GPUs: what NVLink or
// PCIe gives together (topo.h: 20 GB/s a link on Ampere, 20.6 on Hopper, 40.1 on Blackwell; 12 GB/s PCIe Gen3 x16), cut
// to the NICs between nodes.
NcclGroup typical_channels(NcclGroup group, int nics_per_node, double nic_gb_per_s);

struct NcclChoice {
  NcclAlgorithm algorithm = NcclAlgorithm::kRing;
  NcclProtocol protocol = NcclProtocol::kLl;
  double microseconds = 0;
  int channels = 1;
};

// NCCL 2.30.7's own model of time (its src/graph/tuning.cc), which it uses to choose: latency + bytes / bandwidth.
// `pipelined`: operations of one group call. Negative if NCCL would not use the pair. It predicts too little: use it to
// rank, and see docs/planning.md for by how much. kAllReduce, kReduceScatter, kAllGather, kBroadcast.
double nccl_latency_us(const NcclGroup& group, Collective collective, NcclAlgorithm algorithm, NcclProtocol protocol);
double nccl_bandwidth_gb_per_s(const NcclGroup& group, Collective collective, NcclAlgorithm algorithm,
                               NcclProtocol protocol);
double nccl_time_us(const NcclGroup& group, Collective collective, NcclAlgorithm algorithm, NcclProtocol protocol,
                    int64_t bytes, int pipelined = 1);

// All that NCCL would consider, cheapest first: front() is what it takes.
std::vector<NcclChoice> nccl_choices(const NcclGroup& group, Collective collective, int64_t bytes);

}  // namespace lane::plan
