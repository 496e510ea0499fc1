#include "lane/profile/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <string_view>
#include <utility>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/profile/breakdown.h"

namespace lane::profile {
namespace {

constexpr std::string_view kTrackNames[] = {"matmul", "communication", "attention", "other", "step"};

}  // namespace

std::string events_to_text(const TraceLog& log, const GpuProfile& gpu) {
  Json events = Json::array(), slices = Json::array();
  for (const TraceEvent& event : log.events())
    events.push_back({event.name, static_cast<int>(event.kind), static_cast<int>(event.phase), event.start_ns,
                      event.end_ns, event.bytes});
  for (const GpuSlice& slice : gpu.slices)
    slices.push_back({slice.name, static_cast<int>(slice.kind), static_cast<int>(slice.phase), slice.start_ns,
                      slice.end_ns, slice.bytes});
  const Json all{{"events", std::move(events)},
                 {"gpu_names", gpu.slice_names},
                 {"gpu_slices", std::move(slices)},
                 {"dropped", log.num_dropped() + gpu.num_dropped + gpu.num_slices_dropped}};
  const std::vector<uint8_t> packed = Json::to_cbor(all);
  return {packed.begin(), packed.end()};
}

std::string make_trace_file(std::span<const std::string> ranks) {
  std::vector<Json> logs;
  int64_t origin_ns = std::numeric_limits<int64_t>::max();
  for (const std::string& text : ranks) {
    try {
      logs.push_back(Json::from_cbor(text));
      for (const char* list : {"events", "gpu_slices"})
        for (const Json& event : logs.back().at(list)) origin_ns = std::min(origin_ns, event.at(3).get<int64_t>());
    } catch (const Json::exception& error) {
      throw Error(ErrorCode::kCorruptData, fmt::format("trace of rank {}: {}", logs.size(), error.what()));
    }
  }
  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  const auto to = std::back_inserter(text);
  const auto add = [&](const Json& event, const std::string& name, size_t rank, int track) {
    const int64_t start = event.at(3).get<int64_t>(), end = event.at(4).get<int64_t>();
    fmt::format_to(to,
                   ",\n{{\"ph\":\"X\",\"name\":{},\"cat\":\"{}\",\"pid\":{},\"tid\":{},\"ts\":{:.3f},\"dur\":{:.3f},"
                   "\"args\":{{\"phase\":\"{}\",\"bytes\":{}}}}}",
                   name, kTrackNames[event.at(1).get<size_t>()], rank, track,
                   static_cast<double>(start - origin_ns) * 1e-3, static_cast<double>(end - start) * 1e-3,
                   kPhaseNames[event.at(2).get<size_t>()], event.at(5).get<int64_t>());
  };
  for (size_t rank = 0; rank < logs.size(); ++rank) {
    const Json& log = logs[rank];
    fmt::format_to(to, "{}\n{{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":{},\"args\":{{\"name\":\"rank {}\"}}}}",
                   rank == 0 ? "" : ",", rank, rank);
    fmt::format_to(
        to, ",\n{{\"ph\":\"M\",\"name\":\"process_labels\",\"pid\":{},\"args\":{{\"labels\":\"{} events dropped\"}}}}",
        rank, log.at("dropped").get<int64_t>());
    for (const Json& event : log.at("events")) add(event, event.at(0).dump(), rank, 0);
    if (log.at("gpu_slices").empty()) continue;
    for (const auto& [track, name] : {std::pair(0, "host"), std::pair(1, "GPU")})
      fmt::format_to(to,
                     ",\n{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":{},\"tid\":{},\"args\":{{\"name\":\"{}\"}}}}",
                     rank, track, name);
    for (const Json& slice : log.at("gpu_slices")) {
      const int64_t name = slice.at(0).get<int64_t>();
      add(slice, name < 0 ? "\"step\"" : log.at("gpu_names").at(static_cast<size_t>(name)).dump(), rank, 1);
    }
  }
  return text + "\n]}\n";
}

}  // namespace lane::profile
