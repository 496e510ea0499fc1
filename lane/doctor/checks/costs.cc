#include "lane/doctor/checks/costs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "lane/base/units.h"
#include "lane/doctor/checks/check.h"
#include "lane/plan/layout.h"
#include "lane/plan/reach.h"

namespace lane::doctor {
namespace {

// Groups up to this many ranks are priced; schedules of larger ones take seconds to make.
constexpr int kMaxRanks = 128;

// GPUs of an NVLink domain that spans hosts (GB200 NVL72).
constexpr int kRackGpus = 72;

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

}  // namespace

Costs::Costs(const topology::Topology& topology, const Workload& workload)
    : tensor_(workload.plan.tensor),
      num_all_reduces_(workload.plan.tensor > 1 ? 2 * workload.shape.num_layers : 0),
      bytes_(workload.batch * workload.shape.hidden_size * 2) {
  if (topology.hosts.empty() || topology.hosts.front().gpus.empty()) {
    num_all_reduces_ = 0;
    return;
  }
  const topology::Host& host = topology.hosts.front();
  num_gpus_ = static_cast<int>(host.gpus.size());
  num_hosts_ = (tensor_ + num_gpus_ - 1) / num_gpus_;
  const plan::Reach reach(topology);
  const bool has_nvlink =
      std::any_of(host.gpus.begin(), host.gpus.end(), [](const Gpu& gpu) { return gpu.num_nvlinks > 0; });
  is_rack_ = std::any_of(host.gpus.begin(), host.gpus.end(), [](const Gpu& gpu) { return !gpu.nvlink_domain.empty(); });
  pcie_ = reach.pcie({0, 0});
  // The healthiest GPU shows what all should have.
  local_ = has_nvlink ? reach.nvlink({0, 0}) : pcie_;
  for (int gpu = 0; has_nvlink && gpu < num_gpus_; ++gpu)
    if (reach.nvlink({0, gpu}).bytes_per_s > local_.bytes_per_s) local_ = reach.nvlink({0, gpu});
  remote_ = reach.network(0);
}

std::string Costs::words() const {
  const std::string hosts = num_hosts_ == 1 ? "one host" : fmt::format("{} hosts", num_hosts_);
  return fmt::format("{} all-reduces of {} over {} GPUs in {}", num_all_reduces_,
                     format_bytes(static_cast<double>(bytes_)), tensor_, hosts);
}

double Costs::all_reduce_us(double local_share, double remote_share) const {
  std::vector<int> sizes(num_hosts_, num_gpus_);
  sizes.back() = tensor_ - (num_hosts_ - 1) * num_gpus_;
  plan::Fabric fabric{.layout = plan::Layout::of_sizes(sizes), .local = local_, .remote = remote_};
  fabric.local.bytes_per_s *= local_share;
  fabric.remote.bytes_per_s *= remote_share;
  std::vector<plan::Candidate> candidates;
  for (const std::string& name : plan::schedule_names(plan::Collective::kAllReduce, fabric.layout))
    candidates.push_back({name, plan::cost(plan::make_schedule(name, plan::Collective::kAllReduce, fabric.layout),
                                           plan::Collective::kAllReduce, fabric)});
  return candidates[plan::cheapest(candidates, bytes_)].cost.at(bytes_) * 1e6;
}

std::string Costs::nothing() const {
  return num_all_reduces_ == 0 ? "nothing: without tensor parallelism there are no all-reduces" : "";
}

std::string Costs::nothing_outside() const {
  if (!nothing().empty()) return nothing();
  if (num_hosts_ == 1)
    return fmt::format("nothing while tensor parallelism over {} GPUs stays in this host; ask with a larger --tp",
                       tensor_);
  if (is_rack_)
    return tensor_ <= kRackGpus
               ? fmt::format("nothing while tensor parallelism over {} GPUs stays in the NVLink domain", tensor_)
               : "cannot be told: groups over several NVLink domains are not priced here";
  return "";
}

Price Costs::network_at(double share) const {
  if (const std::string why = nothing_outside(); !why.empty()) return {0, why};
  if (tensor_ > kMaxRanks) return unknown(fmt::format("groups of more than {} GPUs are not priced here", kMaxRanks));
  const double good = all_reduce_us(1, 1), bad = all_reduce_us(1, share);
  return {
      num_all_reduces_ * (bad - good),
      fmt::format("{}; the slowest rank sets the pace: {:.1f} instead of {:.1f} µs each (alpha-beta model, {} a host)",
                  words(), bad, good, format_rate(remote_.bytes_per_s))};
}

Price Costs::local_at(double share) const {
  if (const std::string why = nothing(); !why.empty()) return {0, why};
  if (tensor_ > kMaxRanks) return unknown(fmt::format("groups of more than {} GPUs are not priced here", kMaxRanks));
  if (share <= 0) return unknown("how NCCL goes round a GPU without links depends on its version");
  const double good = all_reduce_us(1, 1), bad = all_reduce_us(share, 1);
  return {
      num_all_reduces_ * (bad - good),
      fmt::format("{}; the slowest rank sets the pace: {:.1f} instead of {:.1f} µs each (alpha-beta model, {} a GPU)",
                  words(), bad, good, format_rate(local_.bytes_per_s))};
}

// Between hosts the halves of a recursive doubling take ceil(log2 hosts) rounds, each with a GPU's share of the vector.
Price Costs::host_copies() const {
  if (const std::string why = nothing_outside(); !why.empty()) return {0, why};
  const int rounds = static_cast<int>(std::ceil(std::log2(num_hosts_)));
  const double bytes = static_cast<double>(bytes_) / num_gpus_, each_us = bytes / pcie_.bytes_per_s * 1e6;
  return {num_all_reduces_ * rounds * 2 * each_us,
          fmt::format("at least: {}; each has {} round{} between hosts, whose {} a GPU take two more copies at {}; the "
                      "copies' latency comes on top and is not published",
                      words(), rounds, rounds == 1 ? "" : "s", format_bytes(bytes), format_rate(pcie_.bytes_per_s))};
}

Price Costs::pcie_instead_of_nvlink() const {
  constexpr int kMeasuredGpus = 8;
  if (const std::string why = nothing(); !why.empty()) return {0, why};
  if (tensor_ < kMeasuredGpus) return unknown(fmt::format("measurements are of {} GPUs", kMeasuredGpus));
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
