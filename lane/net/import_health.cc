#include "lane/net/import_health.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "lane/base/error.h"
#include "lane/base/units.h"
#include "lane/net/measurement.h"

namespace lane::net {
namespace {

constexpr const char* kMetrics[] = {
    "busbw_gb_per_s", "busbw_gb_per_s_per_nic", "bandwidth_gbit_per_s", "bandwidth_gb_per_s", "time_us", "p99_us"};
constexpr const char* kForcing[] = {"NCCL_ALGO", "NCCL_PROTO", "NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE"};

std::map<std::string, std::string> text_map(const Json& json, const std::string& at) {
  std::map<std::string, std::string> map;
  if (!json.is_object()) throw Error(ErrorCode::kCorruptData, at + ": expected an object of strings");
  for (const auto& [name, value] : json.items()) {
    if (!value.is_string()) throw Error(ErrorCode::kCorruptData, at + ": \"" + name + "\": expected a string");
    map[name] = value.get<std::string>();
  }
  return map;
}

Threshold parse_threshold(const Json& json, const std::string& at) {
  static const char* kFields[] = {"platform", "title",       "test",      "metric",    "nodes",
                                  "ranks",    "bytes",       "min_bytes", "max_bytes", "algorithm",
                                  "memory",   "environment", "at_least",  "at_most",   "source"};
  if (!json.is_object()) throw Error(ErrorCode::kCorruptData, at + ": expected an object");
  for (const auto& [name, value] : json.items())
    if (std::find(std::begin(kFields), std::end(kFields), name) == std::end(kFields))
      throw Error(ErrorCode::kCorruptData, fmt::format("{}: \"{}\" is no field of a threshold; there are {}", at, name,
                                                       fmt::join(kFields, ", ")));
  Threshold threshold{.platform = json_string(json, "platform", "", at),
                      .title = json_string(json, "title", "", at),
                      .test = json_string(json, "test", "", at),
                      .metric = json_string(json, "metric", "", at),
                      .num_nodes = static_cast<int>(json_int(json, "nodes", 0, at)),
                      .num_ranks = static_cast<int>(json_int(json, "ranks", 0, at)),
                      .min_bytes = json_int(json, "min_bytes", 0, at),
                      .max_bytes = json_int(json, "max_bytes", 0, at),
                      .algorithm = json_string(json, "algorithm", "", at),
                      .memory = json_string(json, "memory", "", at),
                      .at_least = json_number(json, "at_least", 0, at),
                      .at_most = json_number(json, "at_most", 0, at),
                      .source = json_string(json, "source", "", at)};
  if (json.contains("bytes")) threshold.min_bytes = threshold.max_bytes = json_int(json, "bytes", 0, at);
  if (json.contains("environment")) threshold.environment = text_map(json["environment"], at + ": \"environment\"");
  for (const auto& [name, value] :
       {std::pair("platform", &threshold.platform), {"test", &threshold.test}, {"source", &threshold.source}})
    if (value->empty()) throw Error(ErrorCode::kCorruptData, fmt::format("{}: \"{}\" is missing", at, name));
  if (std::find(std::begin(kMetrics), std::end(kMetrics), threshold.metric) == std::end(kMetrics))
    throw Error(ErrorCode::kCorruptData, fmt::format("{}: \"metric\" is {}; expected one of {}", at,
                                                     in_quotes(threshold.metric), fmt::join(kMetrics, ", ")));
  if ((threshold.at_least > 0) == (threshold.at_most > 0))
    throw Error(ErrorCode::kCorruptData, at + ": expected one of \"at_least\" and \"at_most\", above 0");
  return threshold;
}

double value_of(const ImportedRow& row, const Threshold& threshold, int num_nics) {
  const std::string& metric = threshold.metric;
  if (metric == "busbw_gb_per_s") return row.busbw_gb_per_s;
  if (metric == "busbw_gb_per_s_per_nic") return num_nics > 0 ? row.busbw_gb_per_s / num_nics : 0;
  if (metric == "bandwidth_gbit_per_s") return row.algbw_gb_per_s * 8;
  if (metric == "bandwidth_gb_per_s") return row.algbw_gb_per_s;
  return metric == "time_us" ? row.time_us : row.p99_us;
}

bool environment_fits(const ImportedRun& run, const Threshold& threshold) {
  for (const auto& [name, value] : threshold.environment) {
    const auto at = run.environment.find(name);
    if (at == run.environment.end() || at->second != value) return false;
  }
  for (const char* name : kForcing)
    if (run.environment.count(name) > 0 && threshold.environment.count(name) == 0) return false;
  return true;
}

bool size_fits(const ImportedRow& row, const Threshold& threshold) {
  return row.test == threshold.test && row.bytes >= threshold.min_bytes &&
         (threshold.max_bytes == 0 || row.bytes <= threshold.max_bytes);
}

// What NCCL's log says ran at this size; nothing if the log is not there.
std::optional<std::string> proven_algorithm(const ImportedRun& run, const ImportedRow& row) {
  for (const ChosenAlgorithm& chosen : run.chosen)
    if (chosen.bytes == row.bytes && (chosen.collective.empty() || chosen.collective == row.test))
      return chosen.algorithm;
  return std::nullopt;
}

// Why a row that fits otherwise cannot be judged; empty if it can. `fits` false: it is something else.
std::string why_unknown(const ImportedRun& run, const ImportedRow& row, const Threshold& threshold, int num_nics,
                        bool* fits) {
  *fits = true;
  if (threshold.num_nodes > 0 && run.num_nodes == 0) return "how many nodes there were is not known; give --nodes";
  if (threshold.num_ranks > 0 && run.num_ranks == 0) return "how many ranks there were is not known; give --ranks";
  *fits = (threshold.num_nodes == 0 || run.num_nodes == threshold.num_nodes) &&
          (threshold.num_ranks == 0 || run.num_ranks == threshold.num_ranks) &&
          (threshold.memory.empty() || run.memory == threshold.memory ||
           (threshold.memory == "host" && run.memory.empty()));
  if (!*fits) return "";
  if (!threshold.algorithm.empty()) {
    const std::optional<std::string> proven = proven_algorithm(run, row);
    *fits = !proven || *proven == threshold.algorithm;
    if (!proven)
      return fmt::format("it is for {}; what ran is not in the log: run with NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=TUNING",
                         threshold.algorithm);
  }
  if (threshold.metric == "busbw_gb_per_s_per_nic" && num_nics == 0)
    return "the NICs of a node are not known; give --nics";
  if (value_of(row, threshold, num_nics) <= 0) return "the file does not hold this figure";
  return "";
}

HealthCheck check_one(const std::vector<ImportedRun>& runs, const Threshold& threshold, int num_nics) {
  HealthCheck check{.threshold = threshold};
  std::map<int64_t, std::map<std::string, std::vector<double>>> values;  // by size, by cell
  for (const ImportedRun& run : runs) {
    if (!environment_fits(run, threshold)) continue;
    for (const ImportedRow& row : run.rows) {
      if (!size_fits(row, threshold)) continue;
      bool fits = false;
      const std::string why = why_unknown(run, row, threshold, num_nics, &fits);
      if (!fits) continue;
      if (why.empty())
        values[row.bytes][row.variant].push_back(value_of(row, threshold, num_nics));
      else if (check.why.empty())
        check.why = why;
    }
  }
  if (values.empty()) {
    check.health = check.why.empty() ? Health::kNotMeasured : Health::kUnknown;
    return check;
  }
  check.why.clear();
  check.bytes = values.rbegin()->first;
  bool is_first = true;
  for (auto& [variant, repeats] : values.rbegin()->second) {
    std::sort(repeats.begin(), repeats.end());
    const double median = percentile_of_sorted(repeats, 0.5);
    if (!is_first && (threshold.at_least > 0 ? median >= check.measured : median <= check.measured)) continue;
    check.measured = median, check.variant = variant, is_first = false;
  }
  const bool passes =
      threshold.at_least > 0 ? check.measured >= threshold.at_least : check.measured <= threshold.at_most;
  check.health = passes ? Health::kPass : Health::kFail;
  return check;
}

}  // namespace

std::vector<Threshold> parse_thresholds(std::string_view text, const std::string& where) {
  const Json root = parse_json(text, where);
  if (json_int(root, "schema", 0, where) != 1) throw Error(ErrorCode::kCorruptData, where + ": \"schema\": expected 1");
  if (!root.contains("thresholds") || !root["thresholds"].is_array())
    throw Error(ErrorCode::kCorruptData, where + ": expected a list \"thresholds\"");
  std::vector<Threshold> thresholds;
  for (const Json& json : root["thresholds"])
    thresholds.push_back(parse_threshold(json, fmt::format("{}: threshold {}", where, thresholds.size() + 1)));
  return thresholds;
}

std::vector<HealthCheck> check_health(const std::vector<ImportedRun>& runs, const std::vector<Threshold>& thresholds,
                                      const std::string& platform, int num_nics) {
  std::vector<HealthCheck> checks;
  for (const Threshold& threshold : thresholds)
    if (threshold.platform == platform) checks.push_back(check_one(runs, threshold, num_nics));
  return checks;
}

std::vector<std::string> platforms_of(const std::vector<Threshold>& thresholds) {
  std::vector<std::string> names;
  for (const Threshold& threshold : thresholds)
    if (std::find(names.begin(), names.end(), threshold.platform) == names.end()) names.push_back(threshold.platform);
  return names;
}

}  // namespace lane::net
