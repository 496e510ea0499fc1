#include "lane/base/trace.h"

#include <gtest/gtest.h>

#include <thread>

namespace lane {
namespace {

TEST(Trace, OffItRecordsNothing) {
  std::thread([] {  // each thread has a log of its own, off at first
    { const TraceSpan span("x", TraceKind::kMatmul, 8); }
    EXPECT_EQ(trace_log.totals()[0].op_ns[0], 0);
    EXPECT_TRUE(trace_log.events().empty());
  })
      .join();
}

TEST(Trace, SpansAddUpByPhaseAndKind) {
  std::thread([] {
    trace_log.start(10);
    trace_log.phase = TracePhase::kDecode;
    {
      const TraceSpan step("step", TraceKind::kStep);
      const TraceSpan op("all_reduce", TraceKind::kCommunication, 64);
    }
    const PhaseTotals& decode = trace_log.totals()[static_cast<size_t>(TracePhase::kDecode)];
    EXPECT_EQ(decode.num_steps, 1);
    ASSERT_EQ(trace_log.events().size(), 2u);
    const TraceEvent& op = trace_log.events()[0];
    const TraceEvent& step = trace_log.events()[1];
    EXPECT_STREQ(op.name, "all_reduce");
    EXPECT_EQ(op.bytes, 64);
    EXPECT_LE(step.start_ns, op.start_ns);
    EXPECT_LE(op.end_ns, step.end_ns);
    EXPECT_EQ(decode.op_ns[static_cast<size_t>(TraceKind::kCommunication)], op.end_ns - op.start_ns);
    EXPECT_EQ(trace_log.totals()[0].num_steps, 0);
  }).join();
}

TEST(Trace, BeyondItsCapacityItCountsWhatItDrops) {
  std::thread([] {
    trace_log.start(2);
    for (int i = 0; i < 5; ++i) trace_log.push({"x", TraceKind::kOther, TracePhase::kPrefill, i, i + 1, 0});
    EXPECT_EQ(trace_log.events().size(), 2u);
    EXPECT_EQ(trace_log.num_dropped(), 3);
    EXPECT_EQ(trace_log.totals()[0].op_ns[static_cast<size_t>(TraceKind::kOther)], 5);
  }).join();
}

TEST(Trace, LaunchesSayWhetherTheyCameAfterARest) {
  std::thread([] {
    trace_log.start(0, 3);
    for (const TracePhase phase : {TracePhase::kPrefill, TracePhase::kDecode}) {
      trace_log.phase = phase;
      trace_log.launch();
    }
    trace_log.at_rest = true;
    for (int i = 0; i < 2; ++i) trace_log.launch();  // the second one has no room
    ASSERT_EQ(trace_log.launches().size(), 3u);
    EXPECT_TRUE(trace_log.launches()[0].from_rest);
    EXPECT_FALSE(trace_log.launches()[1].from_rest);
    EXPECT_TRUE(trace_log.launches()[2].from_rest);
    EXPECT_EQ(trace_log.launches()[0].phase, TracePhase::kPrefill);
    EXPECT_EQ(trace_log.launches()[1].phase, TracePhase::kDecode);
    EXPECT_LE(trace_log.launches()[0].launch_ns, trace_log.launches()[1].launch_ns);
    trace_log.restart();
    EXPECT_TRUE(trace_log.launches().empty());
    trace_log.launch();
    EXPECT_EQ(trace_log.launches().size(), 1u);
  }).join();
}

}  // namespace
}  // namespace lane
