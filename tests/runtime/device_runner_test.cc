// What happens when a graph cannot be recorded, on one rank or on all.
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>

#include "lane/device/device_info.h"
#include "lane/device/memory_error.h"
#include "tests/runtime/device_rig.h"
#include "tests/support/rank_group.h"

namespace lane {
namespace {

using Tokens = std::vector<std::vector<int32_t>>;

// The tokens of twelve steps on a rank for each GPU, which all must agree on.
Tokens run(int num_ranks, const DeviceRunnerOptions& options,
           const std::function<void(int rank)>& while_recording = {}) {
  Tokens tokens;
  std::mutex mutex;
  run_ranks(num_ranks, [&](Communicator& group) {
    Stream stream({DeviceKind::kCuda, group.rank() % num_gpus()});
    DeviceRunnerOptions mine = options;
    if (while_recording) mine.while_recording = [&](int64_t) { while_recording(group.rank()); };
    Tokens these = DeviceRig(group, stream, mine).steps(12);
    const std::lock_guard lock(mutex);
    if (tokens.empty()) tokens = these;
    EXPECT_EQ(these, tokens) << "rank " << group.rank();
  });
  return tokens;
}

class DeviceRunner : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (num_gpus() < GetParam()) GTEST_SKIP() << "needs " << GetParam() << " GPUs; here are " << num_gpus();
  }
};

TEST_P(DeviceRunner, GoesOnWithoutAGraphThatFindsNoMemory) {
  const Tokens expected = run(GetParam(), {.use_graphs = false});
  std::atomic<int> num_recorded{0};
  EXPECT_EQ(run(GetParam(), {}, [&](int) { ++num_recorded; }), expected);
  EXPECT_EQ(num_recorded, GetParam());

  for (const bool on_all : {true, false}) {  // or on the last rank alone, while the others launch graphs
    testing::internal::CaptureStderr();
    const Tokens got = run(GetParam(), {}, [&](int rank) {
      if (on_all || rank == GetParam() - 1) throw DeviceMemoryError("none left, on purpose");
    });
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_EQ(got, expected) << (on_all ? "on all ranks" : "on one rank");
    EXPECT_NE(log.find("graph for 4 sequences of up to 128 tokens: none"), std::string::npos) << log;
    size_t num_warnings = 0;
    for (size_t at = 0; (at = log.find("on purpose", at)) != std::string::npos; ++at) ++num_warnings;
    EXPECT_EQ(num_warnings, on_all ? static_cast<size_t>(GetParam()) : 1u) << log;
  }
}

TEST_P(DeviceRunner, TellsAllRanksOfAnythingElse) {
  try {
    run(GetParam(), {}, [&](int rank) {
      if (rank == GetParam() - 1) throw Error(ErrorCode::kDevice, "on purpose");
    });
    ADD_FAILURE() << "the error was lost";
  } catch (const Error& error) {
    EXPECT_TRUE(error.code() == ErrorCode::kDevice || error.code() == ErrorCode::kPeerLost) << error.what();
  }
  EXPECT_EQ(run(GetParam(), {}), run(GetParam(), {.use_graphs = false})) << "the GPU is of no use afterwards";
}

INSTANTIATE_TEST_SUITE_P(Ranks, DeviceRunner, testing::Values(1, 2, 4));

}  // namespace
}  // namespace lane
