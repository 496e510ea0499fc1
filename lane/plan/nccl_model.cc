// The constants are facts of NCCL 2.30.7, src/graph/tuning.cc: microseconds and GB/s. Only what a user of sockets,
// InfiniBand or NVLink without SHARP meets is here: CollNet is left out.
#include "lane/plan/nccl_model.h"

#include <algorithm>
#include <array>
#include <bit>

#include "lane/base/error.h"

namespace lane::plan {
namespace {

using enum NcclAlgorithm;
using enum NcclProtocol;

constexpr int kNumAlgorithms = 5;
using ByProtocol = std::array<double, 3>;                  // LL, LL128, Simple
using Latencies = std::array<ByProtocol, kNumAlgorithms>;  // Tree, Ring, NVLS, NVLSTree, PAT

constexpr Latencies kBase = {{{6.8, 14.0, 8.4}, {6.6, 14.0, 8.4}, {0, 0, 0}, {0, 0, 0}, {8.0, 8.0, 8.0}}};
constexpr Latencies kNvlinkHop = {{{0.6, 1.25, 4.0}, {0.6, 1.9, 3.4}, {0, 0, 25}, {0, 0, 25}, {0, 0, 4.0}}};
constexpr Latencies kPcieHop = {{{1.0, 1.9, 4.0}, {1.0, 2.5, 5.7}, {0, 0, 0}, {0, 0, 0}, {0, 0, 4.0}}};
constexpr Latencies kNetworkHop = {{{5.0, 8.5, 14}, {2.7, 4.0, 14.0}, {0, 0, 18}, {0, 0, 20.9}, {0, 0, 14}}};

// Rows: Volta, Ampere, Hopper, Blackwell. Columns: one node, two, more.
using ByGeneration = std::array<std::array<double, 3>, 4>;
constexpr ByGeneration kRingLl128PerChannel = {{{20, 20, 20}, {20, 20, 20}, {36.7, 36.7, 36.7}, {40, 40, 40}}};
constexpr ByGeneration kTreeLl128PerChannel = {{{20, 20, 20}, {20, 20, 20}, {36.7, 36.7, 29}, {55.6, 31.67, 20}}};
constexpr ByGeneration kTreePerChannel = {{{26.5, 18.5, 10}, {24, 23.6, 17.8}, {38.7, 41.4, 36}, {70, 42.8, 24}}};
constexpr ByGeneration kNvlsTreePerChannel = {{{26.5, 18.5, 10}, {24, 23.6, 17.8}, {0, 57.7, 45.5}, {0, 96, 80}}};
constexpr std::array<double, 4> kNvlsEfficiency = {0, 0, 0.85, 0.74};
// LL's limit: by GPU on one node; by CPU between nodes (Intel and others, AMD).
constexpr std::array<double, 4> kLlOneNode = {39, 87.7, 141, 282};
constexpr double kLlBetween[2][2] = {{39, 20.4}, {22.5, 19}};  // [AMD][more than two nodes]

// What is left of a tree's bandwidth at 64 B, 128 B, 256 B, ...
constexpr std::array<std::array<double, 24>, 3> kTreeCorrection = {{
    {1, 1, 1, 1, .9, .8, .7, .7, .7, .7, .6, .5, .4, .4, .5, .6, .7, .8, .9, 1, 1, 1, 1, 1},
    {1, 1, 1, 1, 1, .9, .8, .8, .8, .7, .6, .6, .6, .6, .6, .6, .8, .9, .9, .9, .9, 1, 1, 1},
    {.9, .9, .9, .9, .9, .9, .9, .8, .7, .6, .6, .5, .5, .5, .5, .6, .7, .8, .7, .7, .8, .9, .9, .9},
}};
constexpr int kBatchedOperations = 8;  // whose latency a tree pays once: 1 KiB of work items of 128 bytes

int index(NcclAlgorithm algorithm) { return static_cast<int>(algorithm); }
int index(NcclProtocol protocol) { return static_cast<int>(protocol); }
int floor_log2(int64_t n) { return n < 1 ? -1 : std::bit_width(static_cast<uint64_t>(n)) - 1; }

int generation(int sm) { return sm >= 100 ? 3 : sm >= 90 ? 2 : sm >= 80 ? 1 : 0; }
int column(const NcclGroup& group) { return std::min(group.num_nodes, 3) - 1; }
double ranks_per_node(const NcclGroup& group) { return static_cast<double>(group.num_ranks) / group.num_nodes; }

int num_steps(const NcclGroup& group, Collective collective) {
  const int n = group.num_ranks;
  return collective == Collective::kAllReduce ? 2 * (n - 1) : collective == Collective::kBroadcast ? n : n - 1;
}

bool is_used(const NcclGroup& group, Collective collective, NcclAlgorithm algorithm, NcclProtocol protocol) {
  const bool all_reduce = collective == Collective::kAllReduce;
  switch (algorithm) {
    case kRing:
      return true;
    case kTree:
      return all_reduce;
    case kNvls:
      return group.nvls && group.num_nodes == 1 && protocol == kSimple && collective != Collective::kBroadcast;
    case kNvlsTree:
      return group.nvls && group.num_nodes > 1 && protocol == kSimple && all_reduce;
    case kPat:
      return !all_reduce && collective != Collective::kBroadcast && protocol == kSimple &&
             group.num_nodes == group.num_ranks;
  }
  return false;
}

// Of what all channels move together ("bus bandwidth").
double bus_bandwidth(const NcclGroup& group, Collective collective, NcclAlgorithm algorithm, NcclProtocol protocol) {
  const int era = generation(group.sm), nodes = column(group), channels = group.channels;
  const double of_one = group.num_nodes <= 2 ? group.intra_gb_per_s : group.inter_gb_per_s;
  double busiest = channels * of_one;
  const double ll_limit =
      group.num_nodes == 1 ? kLlOneNode[era] : kLlBetween[group.amd_cpu ? 1 : 0][group.num_nodes > 2 ? 1 : 0];
  if (algorithm == kNvls || algorithm == kNvlsTree) {
    if (channels < 2) return 0;
    double inside = group.intra_gb_per_s * kNvlsEfficiency[era] * (channels - 1) / channels;
    const double n = ranks_per_node(group);
    inside *= collective == Collective::kAllReduce ? 2 : (n - 1) / n;
    if (algorithm == kNvls) return channels * std::min(inside, group.inter_gb_per_s);
    const double outside = group.inter_gb_per_s * (group.num_nodes <= 2 ? 2 : 1);
    return channels * std::min({inside, outside, kNvlsTreePerChannel[era][nodes]});
  }
  if (algorithm == kPat) return busiest * 0.75;
  if (algorithm == kRing) {
    if (protocol == kLl) return std::min(ll_limit, busiest * 0.5);
    if (protocol == kLl128) return std::min(busiest * 0.92, channels * kRingLl128PerChannel[era][nodes]);
    return busiest;
  }
  busiest = std::min(busiest * 0.92, channels * kTreePerChannel[era][nodes]);
  if (protocol == kLl) busiest = std::min(busiest / 3.8, ll_limit);
  if (protocol == kLl128)
    busiest =
        std::min(busiest * (group.num_nodes == 1 ? 7.0 / 9 : 120.0 / 128), channels * kTreeLl128PerChannel[era][nodes]);
  return group.one_nic ? busiest * 0.85 : busiest;
}

}  // namespace

std::string_view name_of(NcclAlgorithm algorithm) {
  constexpr std::string_view kNames[] = {"tree", "ring", "nvls", "nvls_tree", "pat"};
  return kNames[index(algorithm)];
}

std::string_view name_of(NcclProtocol protocol) {
  constexpr std::string_view kNames[] = {"ll", "ll128", "simple"};
  return kNames[index(protocol)];
}

NcclGroup typical_channels(NcclGroup group, int nics_per_node, double nic_gb_per_s) {
  // 18 links of Hopper and Blackwell, 12 of Ampere; NCCL prints 24 channels on DGX H100 and A100, 32 on B200.
  const double links = group.sm >= 90 ? 18 : 12;
  const double of_link = group.sm >= 100 ? 40.1 : group.sm >= 90 ? 20.6 : 20;
  const double together = group.nvlink ? links * of_link : group.sm >= 90 ? 48 : 24;
  group.channels = group.nvlink ? (group.sm >= 100 ? 32 : 24) : 2;
  group.intra_gb_per_s = together / group.channels;
  group.one_nic = group.num_nodes > 1 && nics_per_node <= 1;
  if (group.num_nodes > 1) {
    // Fewer GPUs of a node than it has NICs use one each.
    const double used = std::min<double>(nics_per_node, std::max(1.0, ranks_per_node(group)));
    group.inter_gb_per_s = std::min(together, used * nic_gb_per_s) / group.channels;
    group.intra_gb_per_s = std::min(group.intra_gb_per_s, group.inter_gb_per_s);  // one rate all the way
  } else {
    group.inter_gb_per_s = group.intra_gb_per_s;
  }
  return group;
}

double nccl_bandwidth_gb_per_s(const NcclGroup& group, Collective collective, NcclAlgorithm algorithm,
                               NcclProtocol protocol) {
  if (!is_used(group, collective, algorithm, protocol)) return 0;
  const double bus = bus_bandwidth(group, collective, algorithm, protocol);
  const bool gathers = collective == Collective::kAllGather || collective == Collective::kReduceScatter;
  if (algorithm != kRing && gathers) return bus;
  const double ratio = static_cast<double>(group.num_ranks) / num_steps(group, collective);
  return bus * (algorithm == kTree || algorithm == kPat ? 0.5 : ratio);
}

double nccl_latency_us(const NcclGroup& group, Collective collective, NcclAlgorithm algorithm, NcclProtocol protocol) {
  const int a = index(algorithm), p = index(protocol), nodes = group.num_nodes;
  const double base = kBase[a][p];
  double inside = (group.nvlink ? kNvlinkHop : kPcieHop)[a][p];
  // A rank with a node for itself pays the network in full.
  double outside = kNetworkHop[ranks_per_node(group) == 1 ? index(kTree) : a][p] + group.net_latency_us;
  if (protocol == kSimple) outside += group.net_latency_us;  // the flush
  const int log_nodes = floor_log2(nodes), chain = group.num_ranks / nodes - 1;
  switch (algorithm) {
    case kTree:
      return base + 2 * (chain * inside + log_nodes * outside);
    case kNvls:
      return inside + (nodes > 1 ? outside : 0);
    case kNvlsTree:
      return base + inside + 2 * log_nodes * outside;
    case kPat:
      return base + log_nodes * (outside / 3.5) + group.num_ranks * 2.8;
    case kRing:
      break;
  }
  if (collective == Collective::kBroadcast) return base + (nodes == 1 ? inside : kNetworkHop[a][p]);
  if (nodes > 1) inside = std::max(inside, (group.amd_cpu ? 2.0 : 1.0) * (protocol == kSimple ? 3 : 1));
  const int between = (collective == Collective::kAllReduce ? 2 : 1) * (nodes - 1);
  return base + (num_steps(group, collective) - between) * inside + between * outside;
}

double nccl_time_us(const NcclGroup& group, Collective collective, NcclAlgorithm algorithm, NcclProtocol protocol,
                    int64_t bytes, int pipelined) {
  ensure(group.num_ranks >= 2 && group.num_nodes >= 1 && group.num_nodes <= group.num_ranks,
         "a group of NCCL's has two ranks or more, and no more nodes than ranks");
  double bandwidth = nccl_bandwidth_gb_per_s(group, collective, algorithm, protocol);
  if (bandwidth <= 0) return -1;
  const bool all_reduce = collective == Collective::kAllReduce;
  const int log_size = floor_log2(bytes >> 6);
  if (algorithm == kTree && all_reduce && log_size >= 0 && log_size < 23)
    bandwidth *= kTreeCorrection[index(protocol)][log_size];
  if (algorithm == kNvlsTree && all_reduce && log_size >= 0 && log_size < 24 && group.sm >= 100)
    bandwidth *= kTreeCorrection[index(protocol)][log_size];
  double latency = nccl_latency_us(group, collective, algorithm, protocol);
  if (algorithm == kRing && protocol == kSimple && group.num_nodes > 1 && all_reduce &&
      bytes / (int64_t{group.channels} * group.num_ranks) >= 64)
    latency *= group.sm < 80 ? 1.9 : 1.4;  // the plateau of rings
  const int paid = algorithm == kRing ? pipelined : (pipelined + kBatchedOperations - 1) / kBatchedOperations;
  return latency * paid + static_cast<double>(bytes) / (1000 * bandwidth);
}

std::vector<NcclChoice> nccl_choices(const NcclGroup& group, Collective collective, int64_t bytes) {
  std::vector<NcclChoice> choices;
  for (const NcclAlgorithm algorithm : {kTree, kRing, kNvls, kNvlsTree, kPat})
    for (const NcclProtocol protocol : {kLl, kLl128, kSimple})
      if (const double us = nccl_time_us(group, collective, algorithm, protocol, bytes); us >= 0)
        choices.push_back({algorithm, protocol, us, group.channels});
  std::stable_sort(choices.begin(), choices.end(),
                   [](const NcclChoice& a, const NcclChoice& b) { return a.microseconds < b.microseconds; });
  return choices;
}

}  // namespace lane::plan
