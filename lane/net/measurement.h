#pragma once
#include <string>
#include <vector>

#include "lane/base/json.h"

namespace lane::net {

// What repeated timings say, in seconds. [low_s, high_s] holds the true median with 95 % confidence, whatever the
// distribution: both are samples, chosen by their place in the order (Le Boudec: Performance Evaluation of Computer and
// Communication Systems, 2010, section 2.2.2). Fewer than six samples cannot say as much: then it is all of them.
struct Measurement {
  int num_samples = 0;
  double median_s = 0, p10_s = 0, p99_s = 0, mean_s = 0, low_s = 0, high_s = 0;

  // Half the width of the confidence interval, as a share of the median. 1 where it is not known.
  double uncertainty() const;
};

Measurement measure(std::vector<double> samples_s);

// The value below which `share` (0..1) of the sorted samples lie, by linear interpolation.
double percentile_of_sorted(const std::vector<double>& sorted, double share);

// The places (from 0) of the two ends of the 95 % confidence interval of the median among sorted samples.
struct OrderInterval {
  int low, high;
};
OrderInterval median_interval(int num_samples);

Json to_json(const Measurement& measurement);

}  // namespace lane::net
