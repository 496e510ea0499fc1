// What Lane itself writes: `lane bench allreduce --json`, and `lane bench import --json`.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lane/base/error.h"
#include "lane/net/import/readers.h"

namespace lane::net {
namespace {

const Json& list_of(const Json& object, const char* field, const std::string& where) {
  if (!object.is_object() || !object.contains(field) || !object[field].is_array())
    throw Error(ErrorCode::kCorruptData, fmt::format("{}: expected a list \"{}\"", where, field));
  return object[field];
}

std::vector<double> numbers_of(const Json& object, const char* field, const std::string& where) {
  std::vector<double> numbers;
  if (!object.contains(field)) return numbers;
  for (const Json& each : list_of(object, field, where)) {
    if (!each.is_number() || !(each.get<double>() > 0))
      throw Error(ErrorCode::kCorruptData,
                  fmt::format("{}: \"{}\" holds something else than numbers above 0", where, field));
    numbers.push_back(each.get<double>());
  }
  return numbers;
}

int count_of(const Json& object, const char* field, const std::string& where) {
  return static_cast<int>(std::clamp<int64_t>(json_int(object, field, 0, where), 0, 1 << 24));
}

// A row of `lane bench allreduce`; empty text if it is taken, else why not. Rows without a time are left out.
std::string take_bench_row(ImportedRun& run, const Json& row, int number, bool in_place, const std::string& where) {
  if (!row.is_object() || !row.contains("time") || json_string(row, "kind", "", where) == "floor") return "";
  const Json& time = row["time"];
  const bool is_ping_pong = json_string(row, "kind", "", where) == "ping_pong";
  ImportedRow out{.test = is_ping_pong ? "ping_pong" : "all_reduce",
                  .type = json_string(row, "type", "", where),
                  .redop = json_string(row, "redop", "", where),
                  .bytes = json_int(row, "bytes", 0, where),
                  .count = json_int(row, "count", 0, where),
                  .in_place = in_place,
                  .time_us = 1e6 * json_number(time, "median_s", 0, where),
                  .p99_us = 1e6 * json_number(time, "p99_s", 0, where),
                  .num_wrong = json_int(row, "num_wrong", -1, where),
                  .variant = json_string(row, "algorithm", "", where),
                  .line = number};
  for (const char* field : {"mode", "setting"})
    if (const std::string word = json_string(row, field, "", where); !word.empty()) out.variant += " " + word;
  if (!(out.time_us > 0) || out.bytes < 0) return "its time is not above 0";
  out.algbw_gb_per_s = static_cast<double>(out.bytes) / out.time_us * 1e-3;
  out.busbw_gb_per_s = out.algbw_gb_per_s * bus_factor(out.test, run.num_ranks);
  const double printed = json_number(row, "algbw_bytes_per_s", 0, where) * 1e-9;
  if (printed > 0 && std::abs(printed - out.algbw_gb_per_s) > 0.02 * out.algbw_gb_per_s)
    return fmt::format("algbw {:.6g} GB/s, but {} B in {:.6g} us are {:.6g} GB/s", printed, out.bytes, out.time_us,
                       out.algbw_gb_per_s);
  run.rows.push_back(std::move(out));
  return "";
}

Json row_to_json(const ImportedRow& row) {
  Json json{{"test", row.test}, {"bytes", row.bytes}, {"in_place", row.in_place}, {"line", row.line}};
  const auto add_text = [&](const char* field, const std::string& text) {
    if (!text.empty()) json[field] = text;
  };
  const auto add = [&](const char* field, double value) {
    if (value > 0) json[field] = value;
  };
  add_text("type", row.type), add_text("redop", row.redop), add_text("variant", row.variant);
  if (row.count > 0) json["count"] = row.count;
  add("time_us", row.time_us), add("min_us", row.min_us), add("p50_us", row.p50_us), add("p95_us", row.p95_us);
  add("p99_us", row.p99_us), add("max_us", row.max_us);
  add("algbw_gb_per_s", row.algbw_gb_per_s), add("busbw_gb_per_s", row.busbw_gb_per_s);
  if (!row.samples_us.empty()) json["samples_us"] = row.samples_us;
  if (row.num_wrong >= 0) json["num_wrong"] = row.num_wrong;
  return json;
}

ImportedRow row_from_json(const Json& json, const std::string& where) {
  ImportedRow row{.test = json_string(json, "test", "", where),
                  .type = json_string(json, "type", "", where),
                  .redop = json_string(json, "redop", "", where),
                  .bytes = json_int(json, "bytes", 0, where),
                  .count = json_int(json, "count", 0, where),
                  .in_place = json_bool(json, "in_place", false, where),
                  .time_us = json_number(json, "time_us", 0, where),
                  .algbw_gb_per_s = json_number(json, "algbw_gb_per_s", 0, where),
                  .busbw_gb_per_s = json_number(json, "busbw_gb_per_s", 0, where),
                  .min_us = json_number(json, "min_us", 0, where),
                  .p50_us = json_number(json, "p50_us", 0, where),
                  .p95_us = json_number(json, "p95_us", 0, where),
                  .p99_us = json_number(json, "p99_us", 0, where),
                  .max_us = json_number(json, "max_us", 0, where),
                  .samples_us = numbers_of(json, "samples_us", where),
                  .num_wrong = json_int(json, "num_wrong", -1, where),
                  .variant = json_string(json, "variant", "", where),
                  .line = count_of(json, "line", where)};
  return row;
}

}  // namespace

std::vector<ImportedRun> read_lane_bench(std::string_view text, const std::string& where) {
  const Json root = parse_json(text, where);
  std::vector<ImportedRun> runs;
  for (const Json& json : list_of(root, "runs", where)) {
    ImportedRun run{.source = where,
                    .tool = "lane",
                    .version = json_string(json, "version", "", where),
                    .num_ranks = count_of(json, "num_ranks", where)};
    if (json.contains("ranks_per_node"))
      run.num_nodes = static_cast<int>(list_of(json, "ranks_per_node", where).size());
    const bool in_place = json_bool(json, "in_place", false, where);
    int number = 0;
    for (const Json& row : list_of(json, "rows", where))
      if (const std::string reason = take_bench_row(run, row, ++number, in_place, where); !reason.empty())
        run.rejected.push_back({number, reason});
    runs.push_back(std::move(run));
  }
  return runs;
}

Json to_json(const std::vector<ImportedRun>& runs) {
  Json list = Json::array();
  for (const ImportedRun& run : runs) {
    Json json{{"source", run.source},       {"tool", run.tool},       {"num_ranks", run.num_ranks},
              {"num_nodes", run.num_nodes}, {"gpus", run.gpus},       {"environment", run.environment},
              {"failures", run.failures},   {"notes", run.notes},     {"rows", Json::array()},
              {"rejected", Json::array()},  {"chosen", Json::array()}};
    if (!run.version.empty()) json["version"] = run.version;
    if (!run.nccl_version.empty()) json["nccl_version"] = run.nccl_version;
    if (!run.memory.empty()) json["memory"] = run.memory;
    for (const ImportedRow& row : run.rows) json["rows"].push_back(row_to_json(row));
    for (const RejectedRow& row : run.rejected)
      json["rejected"].push_back({{"line", row.line}, {"reason", row.reason}});
    for (const ChosenAlgorithm& chosen : run.chosen)
      json["chosen"].push_back({{"collective", chosen.collective},
                                {"bytes", chosen.bytes},
                                {"algorithm", chosen.algorithm},
                                {"protocol", chosen.protocol},
                                {"num_channels", chosen.num_channels}});
    list.push_back(std::move(json));
  }
  return {{"schema", 1}, {"kind", "lane bench import"}, {"runs", list}};
}

std::vector<ImportedRun> read_lane_import(std::string_view text, const std::string& where) {
  const Json root = parse_json(text, where);
  if (json_int(root, "schema", 0, where) != 1)
    throw Error(ErrorCode::kCorruptData, where + ": \"schema\" is not 1: a newer Lane wrote this file");
  std::vector<ImportedRun> runs;
  for (const Json& json : list_of(root, "runs", where)) {
    ImportedRun run{.source = where,
                    .tool = json_string(json, "tool", "", where),
                    .version = json_string(json, "version", "", where),
                    .nccl_version = json_string(json, "nccl_version", "", where),
                    .num_ranks = count_of(json, "num_ranks", where),
                    .num_nodes = count_of(json, "num_nodes", where),
                    .memory = json_string(json, "memory", "", where)};
    if (json.contains("gpus"))
      for (const Json& gpu : list_of(json, "gpus", where))
        if (gpu.is_string()) run.gpus.push_back(gpu.get<std::string>());
    if (json.contains("environment") && json["environment"].is_object())
      for (const auto& [name, value] : json["environment"].items())
        if (value.is_string() && is_kept_variable(name)) run.environment[name] = value.get<std::string>();
    if (json.contains("chosen"))
      for (const Json& chosen : list_of(json, "chosen", where))
        run.chosen.push_back({.collective = json_string(chosen, "collective", "", where),
                              .algorithm = json_string(chosen, "algorithm", "", where),
                              .protocol = json_string(chosen, "protocol", "", where),
                              .bytes = json_int(chosen, "bytes", 0, where),
                              .num_channels = count_of(chosen, "num_channels", where)});
    for (const Json& row : list_of(json, "rows", where)) run.rows.push_back(row_from_json(row, where));
    runs.push_back(std::move(run));
  }
  return runs;
}

}  // namespace lane::net
