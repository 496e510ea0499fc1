#include "lane/net/link_fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "lane/base/error.h"
#include "lane/plan/schedule.h"

namespace lane::net {
namespace {

constexpr double kEndless = 1e300;  // bytes per second that cost nothing
constexpr int kNumConstants = 6;    // latency, seconds per byte and per message, of the local link and the remote one
using Constants = std::array<double, kNumConstants>;

// How often each constant goes into the cost of an algorithm. The cost is the sum over rounds of the busiest port;
// taking the constants one at a time counts both kinds of ports of a round, of which one would hide the other.
// That is exact where the busy ones of a round are of one kind.
Constants counts_of(const FitSample& sample, const plan::Fabric& fabric) {
  const auto schedule = plan::make_schedule(sample.algorithm, plan::Collective::kAllReduce, fabric.layout);
  Constants counts{};
  for (int i = 0; i < kNumConstants; ++i) {
    plan::Fabric one = fabric;
    one.rack_of_node.clear();
    one.local = one.remote = {.latency_s = 0, .bytes_per_s = kEndless, .message_s = 0};
    plan::Link& link = i < 3 ? one.local : one.remote;
    if (i % 3 == 0) link.latency_s = 1;
    if (i % 3 == 1) link.bytes_per_s = 1;
    if (i % 3 == 2) link.message_s = 1;
    const plan::Cost cost = plan::cost(schedule, plan::Collective::kAllReduce, one, sample.partial_scale);
    const double count = cost.at(i % 3 == 1 ? 1 : 0);
    counts[i] = count > 1 / std::sqrt(kEndless) ? count : 0;  // not what the other link costs at an endless rate
  }
  return counts;
}

// Weighted least squares without negative constants, by one constant at a time.
Constants solve(const std::vector<Constants>& rows, const std::vector<double>& weights) {
  std::array<Constants, kNumConstants> normal{};
  Constants target{}, x{};
  for (size_t s = 0; s < rows.size(); ++s)
    for (int i = 0; i < kNumConstants; ++i) {
      target[i] += weights[s] * rows[s][i];
      for (int j = 0; j < kNumConstants; ++j) normal[i][j] += weights[s] * rows[s][i] * rows[s][j];
    }
  for (int pass = 0; pass < 5000; ++pass)
    for (int i = 0; i < kNumConstants; ++i) {
      if (normal[i][i] <= 0) continue;
      double left = target[i];
      for (int j = 0; j < kNumConstants; ++j)
        if (j != i) left -= normal[i][j] * x[j];
      x[i] = std::max(0.0, left / normal[i][i]);
    }
  return x;
}

}  // namespace

LinkFit fit_links(const plan::Fabric& fabric, const std::vector<FitSample>& samples) {
  ensure(!samples.empty(), "a fit needs measurements");
  std::map<std::pair<std::string, int>, Constants> known;
  std::vector<Constants>
      rows;  // of each sample: the share that each constant, times its count, has in what was measured
  for (const FitSample& sample : samples) {
    const auto [at, is_new] = known.try_emplace({sample.algorithm, sample.partial_scale});
    if (is_new) at->second = counts_of(sample, fabric);
    Constants row = at->second;
    for (int i = 0; i < kNumConstants; ++i)
      row[i] *= (i % 3 == 1 ? static_cast<double>(sample.bytes) : 1.0) / sample.seconds;
    rows.push_back(row);
  }
  // Units in which the constants are near one, so that the passes converge.
  Constants scale{};
  for (const Constants& row : rows)
    for (int i = 0; i < kNumConstants; ++i) scale[i] = std::max(scale[i], row[i]);
  for (Constants& row : rows)
    for (int i = 0; i < kNumConstants; ++i) row[i] = scale[i] > 0 ? row[i] / scale[i] : 0;

  // Reweighting makes it the least absolute deviation: a size at which caches end must not bend all others.
  std::vector<double> weights(rows.size(), 1), errors(rows.size());
  Constants x{};
  for (int round = 0; round < 12; ++round) {
    x = solve(rows, weights);
    for (size_t s = 0; s < rows.size(); ++s) {
      double sum = -1;
      for (int i = 0; i < kNumConstants; ++i) sum += rows[s][i] * x[i];
      errors[s] = std::abs(sum);
      weights[s] = 1 / std::max(errors[s], 0.02);
    }
  }
  for (int i = 0; i < kNumConstants; ++i) x[i] = scale[i] > 0 ? x[i] / scale[i] : 0;
  const auto link = [&](int first, const plan::Link& unused) {
    constexpr double kFastest = 1e13;
    if (scale[first] == 0) return unused;  // no message went this way
    return plan::Link{.latency_s = x[first],
                      .bytes_per_s = x[first + 1] > 1 / kFastest ? 1 / x[first + 1] : kFastest,
                      .message_s = x[first + 2]};
  };
  std::nth_element(errors.begin(), errors.begin() + static_cast<int64_t>(errors.size() / 2), errors.end());
  return {{link(0, fabric.local), link(3, fabric.remote)}, errors[errors.size() / 2]};
}

}  // namespace lane::net
