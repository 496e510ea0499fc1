#include "lane/profile/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <string_view>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/profile/breakdown.h"

namespace lane::profile {
namespace {

constexpr std::string_view kTrackNames[] = {"matmul", "communication", "attention", "other", "step"};

}  // namespace

std::string events_to_text(const TraceLog& log) {
  Json events = Json::array();
  for (const TraceEvent& event : log.events())
    events.push_back({event.name, static_cast<int>(event.kind), static_cast<int>(event.phase), event.start_ns,
                      event.end_ns, event.bytes});
  const Json all{{"events", std::move(events)}, {"dropped", log.num_dropped()}};
  const std::vector<uint8_t> packed = Json::to_cbor(all);
  return {packed.begin(), packed.end()};
}

std::string make_trace_file(std::span<const std::string> ranks) {
  std::vector<Json> logs;
  int64_t origin_ns = std::numeric_limits<int64_t>::max();
  for (const std::string& text : ranks) {
    try {
      logs.push_back(Json::from_cbor(text));
      for (const Json& event : logs.back().at("events")) origin_ns = std::min(origin_ns, event.at(3).get<int64_t>());
    } catch (const Json::exception& error) {
      throw Error(ErrorCode::kCorruptData, fmt::format("trace of rank {}: {}", logs.size(), error.what()));
    }
  }
  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  for (size_t rank = 0; rank < logs.size(); ++rank) {
    fmt::format_to(std::back_inserter(text),
                   "{}\n{{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":{},\"args\":{{\"name\":\"rank {}\"}}}}",
                   rank == 0 ? "" : ",", rank, rank);
    fmt::format_to(
        std::back_inserter(text),
        ",\n{{\"ph\":\"M\",\"name\":\"process_labels\",\"pid\":{},\"args\":{{\"labels\":\"{} events dropped\"}}}}",
        rank, logs[rank].at("dropped").get<int64_t>());
    for (const Json& event : logs[rank].at("events")) {
      const auto kind = event.at(1).get<size_t>();
      const int64_t start = event.at(3).get<int64_t>(), end = event.at(4).get<int64_t>();
      fmt::format_to(std::back_inserter(text),
                     ",\n{{\"ph\":\"X\",\"name\":{},\"cat\":\"{}\",\"pid\":{},\"tid\":0,\"ts\":{:.3f},\"dur\":{:.3f},"
                     "\"args\":{{\"phase\":\"{}\",\"bytes\":{}}}}}",
                     event.at(0).dump(), kTrackNames[kind], rank, static_cast<double>(start - origin_ns) * 1e-3,
                     static_cast<double>(end - start) * 1e-3, kPhaseNames[event.at(2).get<size_t>()],
                     event.at(5).get<int64_t>());
    }
  }
  return text + "\n]}\n";
}

}  // namespace lane::profile
