#include "lane/net/device_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "lane/net/vectors.h"

namespace lane::net {
namespace {

std::string column_of(const AllReduceRow& row) {
  return row.is_peer || row.is_floor ? row.algorithm : "lane " + row.algorithm;
}

size_t width_of(const std::string& column) { return std::max<size_t>(column.size(), 8); }

// Rows that were measured one way, in the order in which they came.
std::vector<std::vector<const AllReduceRow*>> by_way(const std::vector<AllReduceRow>& rows) {
  std::vector<std::vector<const AllReduceRow*>> ways;
  for (const AllReduceRow& row : rows) {
    const bool is_new = ways.empty() || ways.back()[0]->mode != row.mode || ways.back()[0]->setting != row.setting;
    if (is_new) ways.emplace_back();
    ways.back().push_back(&row);
  }
  return ways;
}

std::string way_of(const AllReduceRow& row) { return row.setting.empty() ? row.mode : row.mode + " " + row.setting; }

const AllReduceRow* fastest(const std::vector<const AllReduceRow*>& rows, bool is_peer, bool alone) {
  const AllReduceRow* best = nullptr;
  const auto seconds = [alone](const AllReduceRow& row) { return alone ? row.alone.median_s : row.time.median_s; };
  for (const AllReduceRow* row : rows) {
    if (row->is_floor || row->is_peer != is_peer || !row->why_not.empty() || seconds(*row) <= 0) continue;
    if (best == nullptr || seconds(*row) < seconds(*best)) best = row;
  }
  return best;
}

// What Lane is judged by: auto, or the best of those that were asked for without it.
const AllReduceRow* lane_of(const std::vector<const AllReduceRow*>& rows, bool alone) {
  for (const AllReduceRow* row : rows)
    if (!row->is_peer && row->algorithm == "auto" && row->why_not.empty()) return row;
  return fastest(rows, false, alone);
}

}  // namespace

std::string device_header_text(const DeviceRunInfo& info) {
  const DeviceBenchOptions& options = info.options;
  std::string text =
      fmt::format("# lane {}, allreduce on GPUs: {} ranks on {} host{} ({})\n", info.run.version, info.run.num_ranks,
                  info.run.ranks_per_node.size(), info.run.ranks_per_node.size() == 1 ? "" : "s",
                  fmt::join(info.run.ranks_per_node, " + "));
  text += fmt::format("# {}: {}; {}\n", info.run.hostname, info.machine.driver, info.machine.fabric);
  for (size_t rank = 0; rank < info.machine.gpus.size(); ++rank)
    text += fmt::format("# rank {}: {}\n", rank, info.machine.gpus[rank]);
  for (const std::string& peer : info.machine.peers) text += fmt::format("# {}\n", peer);
  text += "# Times in us, of the slowest rank. ";
  if (options.graph)
    text += fmt::format("p50: of {} calls in one graph, per call; p50/1, p99/1: of calls alone in their graph. ",
                        options.calls_per_graph);
  text += options.eager ? "eager: without graphs. " : "";
  text += "peer/lane: the best peer's p50 over Lane's\n";
  if (options.skew_us > 0)
    text += fmt::format("# skew: ranks come up to {} us apart; counted from when the last one came\n", options.skew_us);
  return text;
}

std::string DeviceTable::line_of(const std::vector<const AllReduceRow*>& rows, bool alone) const {
  const AllReduceRow& first = *rows[0];
  const std::string size =
      first.hidden > 0 ? fmt::format("{}x{}", first.hidden, first.num_tokens) : fmt::format("{}", first.bytes);
  const auto us = [](double seconds) { return fmt::format("{:.2f}", seconds * 1e6); };
  const auto line = [&](const char* what, const auto& time_of) {
    std::string text = fmt::format("  {:>11} {:>9} {:>5}  {:<11} {:<6}", size, lane::name_of(first.dtype),
                                   net::name_of(first.op), way_of(first), what);
    for (const AllReduceRow* row : rows)
      text += fmt::format(" {:>{}}", row->why_not.empty() ? us(time_of(*row)) : "-", width_of(column_of(*row)));
    const AllReduceRow *peer = fastest(rows, true, alone), *lane = lane_of(rows, alone);
    if (peer != nullptr && lane != nullptr && time_of(*lane) > 0)
      text += fmt::format(" {:>9.2f}  {}", time_of(*peer) / time_of(*lane), peer->algorithm);
    return text + "\n";
  };
  if (!alone) return line("p50", [](const AllReduceRow& row) { return row.time.median_s; });
  return line("p50/1", [](const AllReduceRow& row) { return row.alone.median_s; }) +
         line("p99/1", [](const AllReduceRow& row) { return row.alone.p99_s; });
}

std::string DeviceTable::text_of(const std::vector<AllReduceRow>& rows) {
  std::string text;
  for (const AllReduceRow& row : rows)
    if (!row.why_not.empty() && reasons_.insert(column_of(row) + ": " + row.why_not).second)
      text += fmt::format("# {}: {}\n", column_of(row), row.why_not);
  for (const std::vector<const AllReduceRow*>& way : by_way(rows)) {
    std::vector<std::string> columns;
    for (const AllReduceRow* row : way) columns.push_back(column_of(*row));
    if (columns != columns_) {
      text += fmt::format("# {:>11} {:>9} {:>5}  {:<11} {:<6}", way[0]->hidden > 0 ? "hidden x n" : "size (B)", "type",
                          "redop", "measured", "");
      for (const std::string& column : columns) text += fmt::format(" {:>{}}", column, width_of(column));
      text += fmt::format(" {:>9}\n", "peer/lane");
      columns_ = columns;
    }
    text += line_of(way, false);
    if (way[0]->mode == "graph") text += line_of(way, true);
    if (way[0]->mode != rows[0].mode || way[0]->setting != rows[0].setting) continue;  // results are looked at once
    for (const AllReduceRow* row : way)
      if (row->num_wrong > 0 || !row->same_bits)
        text += fmt::format("# {}: {} elements are wrong{}\n", column_of(*row), std::max<int64_t>(row->num_wrong, 0),
                            row->same_bits ? "" : ", and the ranks' bits differ");
  }
  return text;
}

Json device_run_to_json(const DeviceRunInfo& info, const std::vector<AllReduceRow>& rows) {
  Json json{{"version", info.run.version},
            {"command", info.run.command},
            {"hostname", info.run.hostname},
            {"device", "cuda"},
            {"gpus", info.machine.gpus},
            {"driver", info.machine.driver},
            {"peers", info.machine.peers},
            {"transport", info.machine.fabric},
            {"num_ranks", info.run.num_ranks},
            {"ranks_per_node", info.run.ranks_per_node},
            {"calls_per_graph", info.options.calls_per_graph},
            {"num_samples", info.options.num_samples},
            {"skew_us", info.options.skew_us},
            {"rows", Json::array()}};
  for (const AllReduceRow& row : rows) json["rows"].push_back(to_json(row));
  return json;
}

}  // namespace lane::net
