// `lane tune collectives --device cuda`: which all-reduce is the fastest on the GPUs at hand.
#pragma once
#include <functional>
#include <vector>

#include "lane/net/device_bench.h"
#include "lane/net/tune_all_reduce.h"

namespace lane::net {

struct DeviceTuneOptions {
  std::vector<int64_t> sizes;  // ascending
  std::vector<DType> dtypes;   // of 32-bit and 16-bit types one each is enough
};

// Measures all that there are for this group, in CUDA graphs, at each size. All ranks call it alike and get the same;
// results are not compared with right ones, that is the benchmark's. `on_machine` comes first, once: with the GPUs
// opened, so that the group can be asked what it would choose. Of the result, `of_model` is what was chosen so far, and
// there is no fit. Throws Error{kUnsupported} where Lane was built without CUDA or there is no GPU.
TuneResult tune_device_all_reduce(Communicator& group, const DeviceTuneOptions& options,
                                  const std::function<void(const DeviceMachine&)>& on_machine,
                                  const std::function<void(int64_t done, int64_t total)>& on_step);

// What the benchmark measured at one size, added to a result.
void add_measured(const std::vector<AllReduceRow>& rows, TuneResult& result);

}  // namespace lane::net
