// What nccl-tests writes with -J (src/util.cu there). Its traps: booleans are the strings "true" and "false", NaN is
// the string "nan" while infinities are bare words, a file of a killed test ends anywhere, and env[] holds the whole
// environment.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "lane/base/error.h"
#include "lane/net/import/readers.h"

namespace lane::net {
namespace {

std::string text_of(const Json& object, const char* field) {
  const auto at = object.find(field);
  return at != object.end() && at->is_string() ? at->get<std::string>() : "";
}

// A number, or a string that holds one.
std::optional<double> number_of(const Json& object, const char* field) {
  const auto at = object.find(field);
  if (at == object.end()) return std::nullopt;
  if (at->is_number()) return std::isfinite(at->get<double>()) ? std::optional(at->get<double>()) : std::nullopt;
  if (at->is_string())
    if (const auto number = printed_number(trimmed(at->get_ref<const std::string&>()))) return number->value;
  return std::nullopt;
}

int64_t whole_of(const Json& object, const char* field) {
  const double value = number_of(object, field).value_or(0);
  return std::abs(value) < 9e15 ? static_cast<int64_t>(value) : 0;
}

const Json& child(const Json& object, const char* field) {
  static const Json kNothing;
  const auto at = object.find(field);
  return at == object.end() ? kNothing : *at;
}

void read_environment(ImportedRun& run, const Json& env) {
  if (!env.is_array()) return;
  for (const Json& each : env) {
    if (!each.is_string()) continue;
    const std::string& text = each.get_ref<const std::string&>();
    const size_t equals = text.find('=');
    if (equals != std::string::npos && is_kept_variable(text))
      run.environment[text.substr(0, equals)] = text.substr(equals + 1);
  }
}

// The list has the first device of each process only, whose rank is a multiple of the devices that a process has.
void read_devices(ImportedRun& run, const Json& config) {
  const Json& devices = child(config, "devices");
  if (!devices.is_array()) return;
  std::set<std::string> hosts;
  std::map<int64_t, std::set<int64_t>> ranks_of_group;
  for (const Json& device : devices) {
    if (!device.is_object()) continue;
    hosts.insert(text_of(device, "hostname"));
    ranks_of_group[whole_of(device, "group")].insert(whole_of(device, "rank"));
    const std::string gpu = text_of(device, "device_info");
    if (!gpu.empty() && std::find(run.gpus.begin(), run.gpus.end(), gpu) == run.gpus.end()) run.gpus.push_back(gpu);
  }
  if (ranks_of_group.empty()) return;
  const std::set<int64_t>& ranks = ranks_of_group.begin()->second;
  const int64_t of_process = std::clamp<int64_t>(whole_of(config, "nthreads"), 1, 1024) *
                             std::clamp<int64_t>(whole_of(config, "ngpus"), 1, 1024);
  const bool is_first_only =
      std::all_of(ranks.begin(), ranks.end(), [&](int64_t rank) { return rank % of_process == 0; });
  run.num_ranks = static_cast<int>(std::min<int64_t>(ranks.size(), 1 << 20) * (is_first_only ? of_process : 1));
  run.num_nodes = ranks_of_group.size() > 1 ? 0 : static_cast<int>(hosts.size());
  if (ranks_of_group.size() > 1)
    run.notes.push_back(
        fmt::format("{} groups of ranks at once (NCCL_TESTS_SPLIT); ranks are those of one", ranks_of_group.size()));
}

void read_per_iteration(ImportedRow& row, const Json& stats) {
  if (!stats.is_object()) return;
  row.min_us = number_of(stats, "min_us").value_or(0);
  row.p50_us = number_of(stats, "p50_us").value_or(0);
  row.p95_us = number_of(stats, "p95_us").value_or(0);
  row.p99_us = number_of(stats, "p99_us").value_or(0);
  row.max_us = number_of(stats, "max_us").value_or(0);
  const Json& times = child(stats, "times_us");
  const int64_t skipped = whole_of(stats, "skipped_iterations");
  if (!times.is_array()) return;
  for (size_t i = 0; i < times.size(); ++i)
    if (static_cast<int64_t>(i) >= skipped && times[i].is_number() && times[i].get<double>() > 0)
      row.samples_us.push_back(times[i].get<double>());
}

// One side of a result; nothing if it did not run.
std::optional<PrintedRow> read_side(const Json& result, const char* side, const std::string& collective) {
  const Json& body = child(result, side);
  if (!body.is_object()) return std::nullopt;
  constexpr double kHalfUnit = 0.5e-6;  // printed with %lf
  PrintedRow printed;
  const auto take = [&](const char* field) { return PrintedNumber{number_of(body, field).value_or(0), kHalfUnit}; };
  printed.time_us = body.contains("cpu_time") ? take("cpu_time") : take("time");
  printed.algbw = take("alg_bw");
  printed.busbw = take("bus_bw");
  ImportedRow& row = printed.row;
  row.test = collective;
  row.type = text_of(result, "type");
  row.redop = text_of(result, "redop");
  row.bytes = whole_of(result, "size");
  row.count = whole_of(result, "count");
  row.in_place = std::string_view(side) == "in_place";
  row.time_us = printed.time_us.value;
  if (const auto wrong = number_of(body, "nwrong")) row.num_wrong = static_cast<int64_t>(std::clamp(*wrong, 0.0, 9e15));
  read_per_iteration(row, child(result, (std::string(side) + "_per_iter").c_str()));
  return printed;
}

void read_verdicts(ImportedRun& run, const Json& root) {
  const Json &bounds = child(root, "out_of_bounds"), &average = child(root, "average_bus_bandwidth");
  if (bounds.is_object() && text_of(bounds, "okay") == "false")
    run.failures.push_back(fmt::format("out of bounds values: {}", whole_of(bounds, "count")));
  if (average.is_object() && text_of(average, "okay") == "false")
    run.failures.push_back(fmt::format("average bus bandwidth {:.6g} GB/s is less than asked for",
                                       number_of(average, "bandwidth").value_or(0)));
  const Json& errors = child(root, "errors");
  if (!errors.is_array()) return;
  for (const Json& error : errors)
    if (error.is_string() && !error.get_ref<const std::string&>().empty())
      run.failures.push_back("NCCL's last error: " + error.get<std::string>().substr(0, 200));
}

}  // namespace

std::vector<ImportedRun> read_nccl_json(std::string_view text, const std::string& where, const ImportOptions& options) {
  bool is_torn = false;
  const Json root = parse_torn_json(text, where, &is_torn);
  if (!root.is_object() || !child(root, "results").is_array())
    throw Error(ErrorCode::kCorruptData, where + ": \"results\" is missing: expected what nccl-tests writes with -J");
  ImportedRun run{.source = where, .tool = "nccl-tests"};
  run.nccl_version = nccl_version_text(whole_of(root, "nccl_version"));
  read_environment(run, child(root, "env"));
  const Json& config = child(root, "config");
  if (config.is_object()) read_devices(run, config);
  std::string collective = options.collective;
  const Json& arguments = child(root, "args");
  if (arguments.is_array() && !arguments.empty() && arguments[0].is_string())
    collective = collective_of_program(arguments[0].get<std::string>());

  std::vector<PrintedRow> rows;
  int number = 0;
  for (const Json& result : child(root, "results")) {
    ++number;
    if (!result.is_object()) continue;
    for (const char* side : {"out_of_place", "in_place"})
      if (auto printed = read_side(result, side, collective)) {
        printed->row.line = number;
        rows.push_back(std::move(*printed));
      }
  }
  read_verdicts(run, root);
  if (!root.contains("end_time"))
    run.notes.push_back("the file has no end: the test was stopped or is still running");
  else if (is_torn)
    run.notes.push_back("not valid JSON (a number that is none): read as far as it makes sense");
  check_rows(run, std::move(rows), options);
  return {run};
}

}  // namespace lane::net
