#include "lane/net/all_reduce_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "lane/comm/tuning.h"
#include "lane/net/chart.h"
#include "lane/net/vectors.h"

namespace lane::net {
namespace {

std::string hosts_text(const RunInfo& info) {
  if (info.ranks_per_node.size() == 1) return fmt::format("{} ranks on 1 host", info.num_ranks);
  return fmt::format("{} ranks on {} hosts ({})", info.num_ranks, info.ranks_per_node.size(),
                     fmt::join(info.ranks_per_node, " + "));
}

// Names for several hosts are made of two.
int name_width(const RunInfo& info) { return info.ranks_per_node.size() > 1 ? 50 : 34; }

std::string name_in_table(const AllReduceRow& row) {
  return row.algorithm == "auto" ? "auto: " + row.runs : row.algorithm;
}

}  // namespace

RunInfo describe_run(const Communicator& group, const AllReduceOptions& options, bool own_cores) {
  RunInfo info{.num_ranks = group.size(),
               .own_cores = own_cores,
               .ranks_per_node = shape_of(group.fabric().layout),
               .hardware = group.hardware(),
               .options = options};
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  info.hostname = name.data();
  return info;
}

std::string header_text(const RunInfo& info) {
  std::string text =
      fmt::format("# lane {}, allreduce among {} by {}\n", info.version, hosts_text(info), info.hardware.transport);
  text += fmt::format("# {}: {}, {} CPUs; {}\n", info.hostname, info.hardware.cpu_model, info.hardware.num_cpus,
                      info.own_cores ? "each rank on a core of its own" : "ranks bound as the launcher left them");
  text += fmt::format("# {} batches of back-to-back calls, {}; time: median of the slowest rank's batches\n",
                      info.options.num_batches, info.options.in_place ? "in place" : "out of place");
  text += "# busbw = algbw * 2 (n-1) / n; expected: by the cost model; xauto: time over that of auto\n";
  text += fmt::format("# {:>10} {:>11} {:>9} {:>5}  {:<{}} {:>9} {:>9} {:>9} {:>7} {:>7} {:>6} {:>9} {:>6}\n", "size",
                      "count", "type", "redop", "algorithm", name_width(info), "time", "p10", "p99", "algbw", "busbw",
                      "#wrong", "expected", "xauto");
  text += fmt::format("# {:>10} {:>11} {:>9} {:>5}  {:<{}} {:>9} {:>9} {:>9} {:>7} {:>7} {:>6} {:>9} {:>6}\n", "(B)",
                      "(elements)", "", "", "", name_width(info), "(us)", "(us)", "(us)", "(GB/s)", "(GB/s)", "",
                      "(us)", "");
  return text;
}

std::string row_text(const RunInfo& info, const AllReduceRow& row) {
  if (!row.why_not.empty())
    return fmt::format("# {:>10} {:>11} {:>9} {:>5}  {}: {}\n", row.bytes, row.count, lane::name_of(row.dtype),
                       net::name_of(row.op), row.algorithm, row.why_not);
  const auto us = [](double seconds) { return fmt::format("{:.2f}", seconds * 1e6); };
  std::string line = fmt::format(
      "  {:>10} {:>11} {:>9} {:>5}  {:<{}} {:>9} {:>9} {:>9} {:>7.2f} {:>7.2f} {:>6} {:>9} {:>6}", row.bytes,
      row.is_ping_pong ? "" : fmt::format("{}", row.count), row.is_ping_pong ? "" : lane::name_of(row.dtype),
      row.is_ping_pong ? "" : net::name_of(row.op), name_in_table(row), name_width(info), us(row.time.median_s),
      us(row.time.p10_s), us(row.time.p99_s), row.algbw * 1e-9, row.busbw * 1e-9,
      row.num_wrong < 0 ? "N/A" : fmt::format("{}", row.num_wrong), row.expected_s > 0 ? us(row.expected_s) : "",
      row.of_auto > 0 ? fmt::format("{:.2f}", row.of_auto) : "");
  if (!row.same_bits) line += "  the ranks' bits differ";
  return line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
}

int count_bad(const std::vector<AllReduceRow>& rows) {
  return static_cast<int>(std::count_if(rows.begin(), rows.end(), [](const AllReduceRow& row) {
    return !row.is_peer && (row.num_wrong > 0 || !row.same_bits);
  }));
}

std::string footer_text(const std::vector<AllReduceRow>& rows) {
  double sum = 0;
  int count = 0;
  for (const AllReduceRow& row : rows)
    if (row.algorithm == "auto" && row.why_not.empty()) sum += row.busbw, ++count;
  const int bad = count_bad(rows);
  std::string text = fmt::format("# Out of bounds values : {} {}\n", bad, bad == 0 ? "OK" : "FAILED");
  if (count > 0) text += fmt::format("# Avg bus bandwidth    : {:.4g} (auto)\n", sum / count * 1e-9);
  return text;
}

Json run_to_json(const RunInfo& info, const std::vector<AllReduceRow>& rows) {
  Json json{{"version", info.version},
            {"command", info.command},
            {"hostname", info.hostname},
            {"cpu_model", info.hardware.cpu_model},
            {"num_cpus", info.hardware.num_cpus},
            {"transport", info.hardware.transport},
            {"num_ranks", info.num_ranks},
            {"ranks_per_node", info.ranks_per_node},
            {"own_cores", info.own_cores},
            {"in_place", info.options.in_place},
            {"num_batches", info.options.num_batches},
            {"rows", Json::array()}};
  for (const AllReduceRow& row : rows) json["rows"].push_back(to_json(row));
  return json;
}

std::string chart_of_runs(const Json& runs) {
  std::vector<Curve> curves;
  const auto first = [&](const char* field) {
    for (const Json& run : runs)
      for (const Json& row : run.at("rows"))
        if (row.at("kind") != "ping_pong") return row.value(field, std::string());
    return std::string();
  };
  // One chart for one kind of sum; on GPUs, measured one way with nothing between the calls.
  const std::string type = first("type"), op = first("redop"), mode = first("mode");
  std::string title;
  for (const Json& run : runs) {
    std::vector<std::string> known;  // from runs before this one
    for (const Curve& curve : curves) known.push_back(curve.name);
    title = fmt::format("all-reduce ({}) of {} among {} ranks by {}", op, type, run.at("num_ranks").get<int>(),
                        run.at("transport").get<std::string>());
    for (const Json& row : run.at("rows")) {
      const std::string name = row.at("algorithm").get<std::string>();
      const bool is_ours = row.at("kind") == "lane", is_floor = row.at("kind") == "ping_pong";
      if (!row.contains("time") || std::find(known.begin(), known.end(), name) != known.end()) continue;
      if (!is_floor && (row.at("type") != type || row.at("redop") != op)) continue;
      if (row.value("mode", "") != mode || row.value("setting", "") != "" || row.contains("hidden")) continue;
      const auto at = std::find_if(curves.begin(), curves.end(), [&](const Curve& c) { return c.name == name; });
      Curve& curve = at != curves.end() ? *at : curves.emplace_back(Curve{name, {}, !is_ours});
      const auto bytes = static_cast<double>(row.at("bytes").get<int64_t>());
      if (!curve.points.empty() && curve.points.back().first >= bytes) continue;  // the floor, in the next type's turn
      curve.points.emplace_back(bytes, row.at("time").at("median_s").get<double>());
    }
  }
  for (Curve& curve : curves)
    if (curve.name == "auto" || !curve.is_other) curve.name = curve.name == "auto" ? "lane" : "lane " + curve.name;
  return latency_chart(title, curves);
}

}  // namespace lane::net
