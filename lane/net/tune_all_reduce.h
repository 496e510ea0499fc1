#pragma once
#include <functional>
#include <string>
#include <vector>

#include "lane/comm/communicator.h"
#include "lane/net/link_fit.h"

namespace lane::net {

struct TuneOptions {
  std::vector<int64_t> sizes;  // ascending
  std::vector<DType> dtypes;   // of 32-bit and 16-bit types one each is enough
  double confidence = 0.05;    // half the width of the median's 95 % interval, as a share of it
  double limit_s = 1;          // for one candidate at one size, however wide that still is
};

// What was found at one size.
struct TuneLine {
  int64_t bytes = 0;
  DType dtype = DType::kF32;
  std::string winner, of_model;               // what the cost model would have run
  double winner_s = 0, of_model_s = 0;        // both measured; of_model_s 0: not measured, it was hopeless
  double uncertainty = 0;                     // of the winner's time
  int num_measured = 0, num_passed_over = 0;  // candidates
};

struct TuneResult {
  TuningEntry entry;
  std::vector<TuneLine> lines;
  LinkFit fit;
};

// Measures all all-reduce algorithms that there are for this group, in turns, at each size. One that is hopeless, by
// the model (4 times the best) and by what it took at the size before (3 times), is passed over. All ranks call it
// alike and get the same. `on_step` is told how far it is.
TuneResult tune_all_reduce(Communicator& group, const TuneOptions& options,
                           const std::function<void(int64_t done, int64_t total)>& on_step);

}  // namespace lane::net
