#include "lane/profile/roofline.h"

#include <gtest/gtest.h>

namespace lane::profile {
namespace {

TEST(ReadBandwidth, IsBetweenWhatAnyMachineHasAndWhatNoneHas) {
  ThreadPool threads(2);
  const double rate = measure_read_bandwidth(threads, int64_t{32} << 20, 0);
  EXPECT_GT(rate, 1e7);
  EXPECT_LT(rate, 1e14);
}

}  // namespace
}  // namespace lane::profile
