// A GPU that fails in the middle of decoding: its rank says so, and so does every other, in time.
#include <gtest/gtest.h>

#include "tests/comm/cuda/forked.h"
#include "tests/runtime/cuda/fault.h"
#include "tests/runtime/device_rig.h"

namespace lane::forked {
namespace {

constexpr milliseconds kTimeout{5000};

// Steps until there is an error, which has to come in time.
std::string error_of(DeviceRig& rig, const Shared& shared) {
  try {
    for (int i = 0; i < 100; ++i) rig.step();
  } catch (const Error& error) {
    const auto took = Clock::now() - Clock::time_point(std::chrono::nanoseconds(shared.fault_ns));
    require(took < kTimeout, "the error came too late: " + std::string(error.what()));
    return error.what();
  }
  throw std::runtime_error("a hundred steps went well");
}

void check_fault(int ranks, bool use_graphs) {
  if (ranks > count_gpus()) GTEST_SKIP() << "needs " << ranks << " GPUs; here are " << count_gpus();
  expect_good({.ranks = ranks, .timeout = kTimeout}, [&](Rank& rank) {
    const int victim = ranks - 1;
    {
      DeviceRig rig(rank.group, rank.stream, {.use_graphs = use_graphs});
      rig.steps(5);
      rank.meet();
      if (rank.rank == victim) {
        rank.shared.fault_ns = Clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
        test::write_nowhere(rank.stream);
      }
      rank.meet();
      const std::string error = error_of(rig, rank.shared);
      require(error.find("a kernel failed on ") != std::string::npos, "unclear: " + error);
      if (rank.rank == victim)
        rank.group.abort(error);
      else
        require(error.find(fmt::format("rank {}", victim)) != std::string::npos, "nobody is named: " + error);
    }  // what is destroyed now belongs to a lost GPU: that neither throws nor waits
    const auto since = Clock::now() - Clock::time_point(std::chrono::nanoseconds(rank.shared.fault_ns));
    require(since < kTimeout, "cleaning up took too long");
  });
}

TEST(DeviceFault, IsToldByARankAlone) { check_fault(1, true); }
TEST(DeviceFault, IsToldToAllRanks) { check_fault(2, true); }
TEST(DeviceFault, IsToldToAllRanksWithoutGraphs) { check_fault(2, false); }
TEST(DeviceFault, IsToldToFourRanks) { check_fault(4, true); }

}  // namespace
}  // namespace lane::forked
