#include "lane/net/measurement.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lane::net {

double Measurement::uncertainty() const {
  return num_samples >= 6 && median_s > 0 ? (high_s - low_s) / 2 / median_s : 1;
}

double percentile_of_sorted(const std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0;
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

// The number of samples below the median is binomial (n, 1/2). The interval leaves out k samples at each end, the most
// for which both tails together, 2 P(at most k - 1 below), stay within 5 %.
OrderInterval median_interval(int num_samples) {
  const int n = num_samples;
  double log_choose = 0, tail = 0;  // of the first term, n over 0
  int leave_out = 0;
  for (int k = 0; k < n / 2; ++k) {
    tail += std::exp(log_choose - n * std::log(2.0));
    if (2 * tail > 0.05) break;
    leave_out = k + 1;
    log_choose += std::log(static_cast<double>(n - k) / (k + 1));
  }
  const int low = std::max(leave_out - 1, 0);
  return {low, std::max(n - 1 - low, 0)};
}

Measurement measure(std::vector<double> samples_s) {
  Measurement result;
  if (samples_s.empty()) return result;
  std::sort(samples_s.begin(), samples_s.end());
  result.num_samples = static_cast<int>(samples_s.size());
  result.median_s = percentile_of_sorted(samples_s, 0.5);
  result.p10_s = percentile_of_sorted(samples_s, 0.1);
  result.p99_s = percentile_of_sorted(samples_s, 0.99);
  result.mean_s = std::accumulate(samples_s.begin(), samples_s.end(), 0.0) / result.num_samples;
  const OrderInterval interval = median_interval(result.num_samples);
  result.low_s = samples_s[static_cast<size_t>(interval.low)];
  result.high_s = samples_s[static_cast<size_t>(interval.high)];
  return result;
}

Json to_json(const Measurement& m) {
  return {{"num_samples", m.num_samples}, {"median_s", m.median_s}, {"p10_s", m.p10_s},  {"p99_s", m.p99_s},
          {"mean_s", m.mean_s},           {"low_s", m.low_s},       {"high_s", m.high_s}};
}

}  // namespace lane::net
