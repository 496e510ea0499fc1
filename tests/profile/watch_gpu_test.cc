// What is watched of a GPU, on one. Skipped where there is none, or no profiling library.
#include <gtest/gtest.h>

#include <optional>

#include "lane/base/error.h"
#include "lane/device/activity.h"
#include "lane/device/device_info.h"
#include "lane/profile/gpu_profile.h"
#include "lane/profile/roofline.h"
#include "lane/runtime/session.h"

namespace lane::profile {
namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};
constexpr auto kPrefill = static_cast<size_t>(TracePhase::kPrefill), kDecode = static_cast<size_t>(TracePhase::kDecode);
constexpr int64_t kNumTokens = 24;

void generate(Session& session, int64_t first_id) {
  for (int64_t i = 0; i < 3; ++i) {
    Request request{.id = first_id + i, .prompt = {}, .sampling = {}};
    for (int64_t token = 0; token < 40; ++token)
      request.prompt.push_back(static_cast<int32_t>((7 * token + 13 * request.id) % 200));
    request.sampling.max_tokens = kNumTokens;
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    session.engine().add(std::move(request));
  }
  while (!session.engine().idle()) session.engine().step();
}

class WatchedGpu : public testing::TestWithParam<bool> {};

TEST_P(WatchedGpu, ShowsEveryStepWithItsKernelsAndNoWaits) {
  if (num_gpus() == 0) GTEST_SKIP() << "no GPU";
  std::optional<ActivityRecorder> recorder;
  try {
    recorder.emplace(kGpu);
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  Communicator group;
  const bool eager = GetParam();
  Session session({.model = LANE_SOURCE_DIR "/models/demo", .device = kGpu, .enforce_eager = eager}, &group);
  generate(session, 0);  // records graphs

  trace_log.start(0, 1000);
  recorder->start(1 << 20);
  generate(session, 100);
  const int64_t before_ns = trace_log.launches().front().launch_ns, after_ns = now_ns();
  const GpuActivities activities = recorder->stop();
  const GpuProfile profile = profile_gpu(activities, trace_log.launches(), 1 << 20);
  ASSERT_EQ(profile.why_not, "");
  EXPECT_EQ(profile.num_steps_missing, 0);
  EXPECT_EQ(profile.num_dropped, 0);
  EXPECT_GE(profile.totals[kPrefill].num_steps, 1);
  EXPECT_GE(profile.totals[kDecode].num_steps, kNumTokens - 1);
  EXPECT_EQ(profile.totals[kPrefill].num_steps + profile.totals[kDecode].num_steps,
            static_cast<int64_t>(trace_log.launches().size()));
  for (const size_t phase : {kPrefill, kDecode}) {
    const PhaseTotals& totals = profile.totals[phase];
    int64_t busy_ns = 0;
    for (const int64_t ns : totals.op_ns) busy_ns += ns;
    EXPECT_LE(busy_ns, totals.step_ns);
    EXPECT_GT(totals.op_ns[static_cast<size_t>(TraceKind::kMatmul)], 0) << phase;
    EXPECT_GT(totals.op_ns[static_cast<size_t>(TraceKind::kAttention)], 0) << phase;
    EXPECT_GT(totals.op_ns[static_cast<size_t>(TraceKind::kOther)], 0) << phase;
  }
  EXPECT_EQ(profile.num_host_waits[kDecode], 0) << format_kernels(profile);
  // A product of each of four matrices a layer and the head, at least.
  int64_t num_products = 0;
  for (const KernelTotals& kernel : profile.kernels[kDecode])
    if (kernel.kind == TraceKind::kMatmul) num_products += kernel.num_calls;
  EXPECT_GE(num_products, profile.totals[kDecode].num_steps * (4 * session.config().shape.num_layers + 1));
  // One clock: within the time that the host saw, up to its error.
  constexpr int64_t kError_ns = 200'000;
  for (const GpuSlice& slice : profile.slices) {
    EXPECT_GE(slice.start_ns, before_ns - kError_ns);
    EXPECT_LE(slice.end_ns, after_ns + kError_ns);
  }
}
INSTANTIATE_TEST_SUITE_P(, WatchedGpu, testing::Values(false, true),
                         [](const auto& name) { return name.param ? "Eager" : "Graphs"; });

TEST(GpuReadBandwidth, IsBetweenWhatAnyGpuHasAndWhatNoneHas) {
  if (num_gpus() == 0) GTEST_SKIP() << "no GPU";
  const double rate = measure_read_bandwidth(kGpu);
  EXPECT_GT(rate, 1e11);
  EXPECT_LT(rate, 2e13);
}

}  // namespace
}  // namespace lane::profile
