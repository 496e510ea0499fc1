#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lane/comm/tuning.h"

namespace lane::net {

struct FitSample {
  std::string algorithm;
  int partial_scale = 1;
  int64_t bytes = 0;
  double seconds = 0;
};

struct LinkFit {
  TuningLinks links;
  double typical_error = 0;  // half of the samples are nearer to the model than this share of them
};

// The constants of the cost model that come closest, in proportion, to all-reduces measured on `fabric`, whose own
// constants stay where nothing was sent: for local links if each node has one rank. Pure.
LinkFit fit_links(const plan::Fabric& fabric, const std::vector<FitSample>& samples);

}  // namespace lane::net
