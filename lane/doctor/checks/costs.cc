#include "lane/doctor/checks/costs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "lane/base/units.h"
#include "lane/doctor/checks/check.h"
#include "lane/plan/layout.h"

namespace lane::doctor {
namespace {

// Groups up to this many ranks are priced; schedules of larger ones take seconds to make.
constexpr int kMaxRanks = 128;

// One round between GPUs of a host: the fit of TensorRT-LLM's one-shot all-reduce on 2 to 8 H100 (AIConfigurator's
// measurements) starts at 2.8 to 3.2 µs.
constexpr double kLocalLatencyS = 3.0e-6;
// NCCL's own rates of a link (src/graph/topo.h of 2.30): bytes/s of one NVLink by compute capability, and of PCIe 3
// x16.
constexpr double kNvlinkSm80 = 20e9, kNvlinkSm90 = 20.6e9, kNvlinkSm100 = 40.1e9;
constexpr double kPcie3x16 = 12e9, kPcie3GtPerS = 8;
// A message between hosts: Slingshot-11 between GPUs, fitted to osu_latency of EESSI (2026); else AIConfigurator's
// value for point-to-point messages.
constexpr double kSlingshotLatencyS = 3.37e-6, kOtherLatencyS = 10e-6;

// NCCL all-reduce on 8 GPUs, µs (AIConfigurator's measurements, Apache-2.0; NCCL 2.29.2, on L40S 2.27.3).
struct Measured {
  double bytes, h100_us, l40s_us;
};
constexpr std::array kEightGpus = {
    Measured{512, 15.6, 22.6},     Measured{4096, 16.0, 25.8},       Measured{16384, 19.0, 41.7},
    Measured{65536, 18.7, 164.5},  Measured{131072, 19.0, 279.9},    Measured{262144, 19.1, 426.0},
    Measured{524288, 20.1, 502.6}, Measured{1048576, 25.4, 863.2},   Measured{2097152, 38.2, 2618},
    Measured{4194304, 50.5, 5149}, Measured{16777216, 121.9, 19376}, Measured{67108864, 324.5, 55412}};

double between(double x, double x0, double x1, double y0, double y1) {  // a line in both logarithms
  const double t = std::log(x / x0) / std::log(x1 / x0);
  return y0 * std::pow(y1 / y0, t);
}

double nvlink_bytes_per_s(const topology::Gpu& gpu) {
  if (gpu.sm >= 100) return kNvlinkSm100;
  return gpu.sm >= 90 || gpu.sm == 0 ? kNvlinkSm90 : kNvlinkSm80;
}

}  // namespace

Costs::Costs(const topology::Host& host, const Workload& workload)
    : num_gpus_(std::max<int>(1, static_cast<int>(host.gpus.size()))),
      tensor_(workload.plan.tensor),
      num_all_reduces_(workload.plan.tensor > 1 ? 2 * workload.shape.num_layers : 0),
      bytes_(workload.batch * workload.shape.hidden_size * 2) {
  num_hosts_ = (tensor_ + num_gpus_ - 1) / num_gpus_;
  double network_gbit_per_s = 0;
  bool slingshot = false;
  for (const topology::Nic& nic : host.nics) {
    if (!is_compute(nic)) continue;
    slingshot |= nic.kind == topology::NicKind::kSlingshot;
    double rate = 0;
    for (const topology::NicPort& port : nic.ports) rate = std::max(rate, port.gbit_per_s);
    network_gbit_per_s += rate;
  }
  remote_ = {slingshot ? kSlingshotLatencyS : kOtherLatencyS, network_gbit_per_s / 8 * 1e9};
  int num_nvlinks = 0;
  for (const topology::Gpu& gpu : host.gpus) {
    num_nvlinks = std::max(num_nvlinks, gpu.num_nvlinks);
    const double pcie = kPcie3x16 * (gpu.pcie.max_gt_per_s / kPcie3GtPerS) * (gpu.pcie.max_width / 16.0);
    if (pcie > 0) pcie_bytes_per_s_ = pcie;
  }
  has_nvlink_ = num_nvlinks > 0;
  local_ = {kLocalLatencyS, has_nvlink_ ? num_nvlinks * nvlink_bytes_per_s(host.gpus.front()) : pcie_bytes_per_s_};
}

std::string Costs::words() const {
  const std::string hosts = num_hosts_ == 1 ? "one host" : fmt::format("{} hosts", num_hosts_);
  return fmt::format("{} all-reduces of {} over {} GPUs in {}", num_all_reduces_,
                     format_bytes(static_cast<double>(bytes_)), tensor_, hosts);
}

double Costs::all_reduce_us(double local_share, double remote_share) const {
  plan::Fabric fabric;
  std::vector<int> sizes(num_hosts_, num_gpus_);
  sizes.back() = tensor_ - (num_hosts_ - 1) * num_gpus_;
  fabric.layout = plan::Layout::of_sizes(sizes);
  fabric.local = {local_.latency_s, local_.bytes_per_s * local_share};
  fabric.remote = {remote_.latency_s, std::max(1.0, remote_.bytes_per_s * remote_share)};
  std::vector<plan::Candidate> candidates;
  for (const std::string& name : plan::schedule_names(plan::Collective::kAllReduce, fabric.layout))
    candidates.push_back({name, plan::cost(plan::make_schedule(name, plan::Collective::kAllReduce, fabric.layout),
                                           plan::Collective::kAllReduce, fabric)});
  return candidates[plan::cheapest(candidates, bytes_)].cost.at(bytes_) * 1e6;
}

Price Costs::network_at(double share) const {
  if (num_all_reduces_ == 0) return {0, "nothing: without tensor parallelism there are no all-reduces"};
  if (num_hosts_ == 1)
    return {0, fmt::format("nothing while tensor parallelism over {} GPUs stays in this host; ask with a larger --tp",
                           tensor_)};
  if (tensor_ > kMaxRanks) return unknown(fmt::format("groups of more than {} GPUs are not priced here", kMaxRanks));
  if (remote_.bytes_per_s <= 0 || local_.bytes_per_s <= 0) return unknown("the rates of the links are not known");
  const double good = all_reduce_us(1, 1), bad = all_reduce_us(1, share);
  return {
      num_all_reduces_ * (bad - good),
      fmt::format("{}; the slowest rank sets the pace: {:.1f} instead of {:.1f} µs each (alpha-beta model, {} a host)",
                  words(), bad, good, format_rate(remote_.bytes_per_s))};
}

Price Costs::local_at(double share) const {
  if (num_all_reduces_ == 0) return {0, "nothing: without tensor parallelism there are no all-reduces"};
  if (tensor_ > kMaxRanks) return unknown(fmt::format("groups of more than {} GPUs are not priced here", kMaxRanks));
  if (local_.bytes_per_s <= 0 || (num_hosts_ > 1 && remote_.bytes_per_s <= 0))
    return unknown("the rates of the links are not known");
  if (share <= 0) return unknown("how NCCL goes round a GPU without links depends on its version");
  const double good = all_reduce_us(1, 1), bad = all_reduce_us(share, 1);
  return {
      num_all_reduces_ * (bad - good),
      fmt::format("{}; the slowest rank sets the pace: {:.1f} instead of {:.1f} µs each (alpha-beta model, {} a GPU)",
                  words(), bad, good, format_rate(local_.bytes_per_s))};
}

Price Costs::host_copies() const {
  if (num_all_reduces_ == 0) return {0, "nothing: without tensor parallelism there are no all-reduces"};
  if (num_hosts_ == 1)
    return {0, fmt::format("nothing while tensor parallelism over {} GPUs stays in this host; ask with a larger --tp",
                           tensor_)};
  if (pcie_bytes_per_s_ <= 0) return unknown("the PCIe rate of the GPUs is not known");
  const int rounds = static_cast<int>(std::ceil(std::log2(num_hosts_)));
  const double each_us = static_cast<double>(bytes_) / num_gpus_ / pcie_bytes_per_s_ * 1e6;
  return {num_all_reduces_ * rounds * 2 * each_us,
          fmt::format("at least: {}; each has {} round{} between hosts, whose {} a GPU take two more copies at {}; the "
                      "copies' latency comes on top and is not published",
                      words(), rounds, rounds == 1 ? "" : "s", format_bytes(static_cast<double>(bytes_) / num_gpus_),
                      format_rate(pcie_bytes_per_s_))};
}

Price Costs::pcie_instead_of_nvlink() const {
  if (num_all_reduces_ == 0) return {0, "nothing: without tensor parallelism there are no all-reduces"};
  const double bytes = static_cast<double>(bytes_);
  if (bytes < kEightGpus.front().bytes || bytes > kEightGpus.back().bytes)
    return unknown("the measurements end at 64 MiB");
  for (size_t i = 1; i < kEightGpus.size(); ++i) {
    const Measured &low = kEightGpus[i - 1], &high = kEightGpus[i];
    if (bytes > high.bytes) continue;
    const double nvlink = between(bytes, low.bytes, high.bytes, low.h100_us, high.h100_us);
    const double pcie = between(bytes, low.bytes, high.bytes, low.l40s_us, high.l40s_us);
    return {num_all_reduces_ * (pcie - nvlink),
            fmt::format("{} all-reduces of {}: {:.0f} µs each were measured on 8 L40S (PCIe, no peer-to-peer) where 8 "
                        "H100 with NVLink take {:.0f}: expect {:.0f} times as long",
                        num_all_reduces_, format_bytes(bytes), pcie, nvlink, pcie / nvlink)};
  }
  return unknown("the measurements end at 64 MiB");
}

}  // namespace lane::doctor
