#include "lane/profile/export.h"

#include <gtest/gtest.h>

#include "lane/base/error.h"
#include "lane/base/json.h"

namespace lane::profile {
namespace {

TEST(TraceFile, HasATrackARankAndTimesFromTheFirstEvent) {
  TraceLog first, second;
  first.start(8);
  second.start(1);
  first.push({"matmul", TraceKind::kMatmul, TracePhase::kPrefill, 5000, 9000, 123});
  second.push({"all \"reduce\"", TraceKind::kCommunication, TracePhase::kDecode, 7000, 8000, 64});
  second.push({"dropped", TraceKind::kOther, TracePhase::kDecode, 7000, 8000, 64});
  const std::string ranks[] = {events_to_text(first), events_to_text(second)};
  const Json file = parse_json(make_trace_file(ranks), "trace");
  const Json& events = file.at("traceEvents");
  ASSERT_EQ(events.size(), 6u);  // name and labels of each rank, one event each
  EXPECT_EQ(events[2]["name"], "matmul");
  EXPECT_EQ(events[2]["pid"], 0);
  EXPECT_EQ(events[2]["ts"], 0.0);
  EXPECT_EQ(events[2]["dur"], 4.0);
  EXPECT_EQ(events[2]["args"]["bytes"], 123);
  EXPECT_EQ(events[5]["name"], "all \"reduce\"");
  EXPECT_EQ(events[5]["pid"], 1);
  EXPECT_EQ(events[5]["ts"], 2.0);
  EXPECT_EQ(events[5]["args"]["phase"], "decode");
  EXPECT_EQ(events[4]["args"]["labels"], "1 events dropped");
}

TEST(TraceFile, GarbageFromARankIsAnError) {
  const std::string ranks[] = {std::string("not cbor at all")};
  EXPECT_THROW(make_trace_file(ranks), Error);
}

}  // namespace
}  // namespace lane::profile
