#pragma once
#include <cstdint>

#include "lane/base/thread_pool.h"
#include "lane/device/stream.h"

namespace lane::profile {

// Bytes per second that `threads` read from main memory together: the best of several sweeps over a buffer of
// `bytes`, which should be much larger than the last-level cache. This is the ceiling of decoding at batch 1, where
// every step reads every weight once.
double measure_read_bandwidth(ThreadPool& threads, int64_t bytes = int64_t{512} << 20, double seconds = 0.5);

// The same of a GPU's memory, by a kernel that does nothing but read, over 8 GiB or three quarters of what is free. 0:
// not even eight times the L2 cache is free, so nothing can be said.
double measure_read_bandwidth(Device gpu);

}  // namespace lane::profile
