#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <iterator>

#include "cli/commands.h"
#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/json.h"
#include "lane/net/import.h"
#include "lane/net/import_report.h"

namespace lane::cli {
namespace {

constexpr size_t kMostTables = 4;  // more runs are printed as their medians

struct Flags {
  std::vector<std::string> files, baselines;
  net::ImportOptions options;
  std::string thresholds, platform, noise, svg;
  int num_nics = 0;
  bool json = false;
};

std::vector<net::ImportedRun> read_all(const std::vector<std::string>& files, const net::ImportOptions& options) {
  std::vector<net::ImportedRun> all;
  for (const std::string& file : files) {
    std::string text;
    if (file == "-")
      text.assign(std::istreambuf_iterator<char>(std::cin), {});
    else
      text = read_file(file);
    for (net::ImportedRun& run : net::import_results(text, file == "-" ? "standard input" : file, options))
      all.push_back(std::move(run));
  }
  return all;
}

// "5%" or "0.05".
double noise_of(const std::string& text) {
  if (text.empty()) return 0;
  size_t end = 0;
  double value = -1;
  try {
    value = std::stod(text, &end);
  } catch (const std::exception&) {
    end = 0;
  }
  const bool is_percent = end + 1 == text.size() && text[end] == '%';
  if (is_percent) value /= 100;
  if (end == 0 || (end != text.size() && !is_percent) || !(value > 0) || value >= 1)
    throw CLI::ValidationError("--noise", text + ": expected a share such as 5% or 0.05");
  return value;
}

std::vector<net::HealthCheck> check_platform(const Flags& flags, const std::vector<net::ImportedRun>& runs) {
  if (flags.thresholds.empty() && flags.platform.empty()) return {};
  const std::vector<net::Threshold> thresholds =
      flags.thresholds.empty() ? net::shipped_thresholds()
                               : net::parse_thresholds(read_file(flags.thresholds), flags.thresholds);
  const std::vector<std::string> platforms = net::platforms_of(thresholds);
  std::string platform = flags.platform;
  if (platform.empty() && platforms.size() == 1) platform = platforms[0];
  if (std::find(platforms.begin(), platforms.end(), platform) == platforms.end())
    throw CLI::ValidationError(
        "--platform", fmt::format("{}: there are thresholds for {}", platform.empty() ? "is missing" : platform,
                                  fmt::join(platforms, ", ")));
  return net::check_health(runs, thresholds, platform, flags.num_nics);
}

// Repeats of one thing can be compared with repeats of another; a mixture cannot.
void require_one_setting(const char* flag, const std::vector<net::ImportedRun>& runs) {
  for (const net::ImportedRun& each : runs)
    if (net::forced_settings(each) != net::forced_settings(runs[0]))
      throw CLI::ValidationError(
          flag, fmt::format("runs that force different settings ({}: {}; {}: {}): compare one setting at a time",
                            runs[0].source, in_quotes(net::forced_settings(runs[0])), each.source,
                            in_quotes(net::forced_settings(each))));
}

int count(const std::vector<net::HealthCheck>& checks, net::Health health) {
  return static_cast<int>(std::count_if(checks.begin(), checks.end(),
                                        [&](const net::HealthCheck& check) { return check.health == health; }));
}

// Unhealthy: something failed, cannot be judged, or nothing that there is a figure for was measured.
bool is_healthy(const std::vector<net::HealthCheck>& checks) {
  using net::Health;
  return checks.empty() || (count(checks, Health::kFail) == 0 && count(checks, Health::kUnknown) == 0 &&
                            count(checks, Health::kPass) > 0);
}

int run(const Flags& flags) {
  const double noise = noise_of(flags.noise);
  const std::vector<net::ImportedRun> runs = read_all(flags.files, flags.options);
  const std::vector<net::ImportedRun> baseline = read_all(flags.baselines, flags.options);
  const std::vector<net::HealthCheck> checks = check_platform(flags, runs);
  net::Comparison comparison;
  if (!baseline.empty()) require_one_setting("FILE", runs), require_one_setting("--baseline", baseline);
  if (!baseline.empty()) comparison = net::compare_results(baseline, runs, {.noise = noise});
  const int num_unjudged = comparison.count(net::Verdict::kNotJudged);
  if (num_unjudged > 0)
    throw CLI::ValidationError(
        "--baseline",
        fmt::format("{} of {} sizes have too few samples for a test (repeat the run, or nccl-tests -I 1 -J); "
                    "say what change is noise here, such as --noise 5%",
                    num_unjudged, comparison.sizes.size()));
  const bool compares_nothing = !baseline.empty() && comparison.sizes.empty();
  const int num_wrong = net::count_wrong(runs);
  const bool is_well =
      num_wrong == 0 && is_healthy(checks) && !compares_nothing && comparison.count(net::Verdict::kSlower) == 0;
  if (!flags.svg.empty()) write_file(flags.svg, net::chart_of(runs, baseline));
  if (flags.json) {
    Json json = net::to_json(runs);
    json["healthy"] = is_well;
    for (const net::HealthCheck& check : checks) json["health"].push_back(net::to_json(check));
    if (!baseline.empty()) json["comparison"] = net::to_json(comparison);
    fmt::print("{}\n", json.dump(1, ' ', true, Json::error_handler_t::replace));
    return is_well ? kExitOk : kExitError;
  }
  if (runs.size() > kMostTables)
    fmt::print("{}\n", net::summary_of(runs));
  else
    for (const net::ImportedRun& each : runs) fmt::print("{}\n", net::text_of(each));
  if (!checks.empty()) fmt::print("{}\n", net::text_of(checks));
  if (!baseline.empty()) fmt::print("{}\n", net::text_of(comparison));
  if (compares_nothing) fmt::print("nothing in common with the baseline: other sizes, types, ranks or nodes\n");
  size_t num_rows = 0;
  for (const net::ImportedRun& each : runs) num_rows += each.rows.size();
  std::string verdict = fmt::format("{} rows", num_rows);
  if (num_wrong > 0) verdict += fmt::format(", {} rejected, failed or with wrong results", num_wrong);
  if (!checks.empty())
    verdict += fmt::format("; thresholds: {} pass, {} fail, {} unknown, {} not measured",
                           count(checks, net::Health::kPass), count(checks, net::Health::kFail),
                           count(checks, net::Health::kUnknown), count(checks, net::Health::kNotMeasured));
  fmt::print("{}: {}\n", is_well ? "ok" : "NOT OK", verdict);
  return is_well ? kExitOk : kExitError;
}

}  // namespace

void add_bench_import(CLI::App& bench, Program& program) {
  CLI::App* command = bench.add_subcommand(
      "import", "Read results of nccl-tests, OSU, perftest, nvbandwidth or Lane; check and compare them");
  auto flags = std::make_shared<Flags>();
  command->add_option("FILE", flags->files, "Output of a benchmark as text or JSON; - is standard input")->required();
  command->add_option("--format", flags->options.format, "What wrote it, if it is not recognised")
      ->check(CLI::IsMember([] {
        std::vector<std::string> formats = net::import_formats();
        formats.insert(formats.begin(), "auto");
        return formats;
      }()))
      ->capture_default_str();
  command->add_option("--collective", flags->options.collective,
                      "Of older nccl-tests, which do not print it: all_reduce");
  command->add_option("--ranks", flags->options.num_ranks, "Where the file does not say")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--nodes", flags->options.num_nodes, "Where the file does not say")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--nics", flags->num_nics, "NICs of a node, for thresholds per NIC")->check(CLI::Range(1, 64));
  command->add_option("--platform", flags->platform,
                      "Check against what was published for it: nd-h100-v5, hgx-h100, ...");
  command->add_option("--thresholds", flags->thresholds,
                      "Check against this file of thresholds, in place of Lane's own");
  command->add_option("--baseline", flags->baselines,
                      "Results of before, in any of the formats; only a slowdown fails");
  command->add_option("--noise", flags->noise, "A change that is none: 5%. Needed where there are too few samples");
  command->add_option("--svg", flags->svg, "Draw times over sizes into this file");
  command->add_flag("--json", flags->json, "One JSON document, which can be a baseline later");
  command->footer(
      "Examples:\n"
      "  mpirun ... all_reduce_perf -b 1K -e 16G -f 2 | lane bench import - --platform nd-h100-v5\n"
      "  lane bench import today/*.json --baseline lastweek.json --noise 3%\n"
      "  lane bench import log.txt --json > baseline.json\n"
      "\nExit status: 0 healthy; 1 a rejected row, a wrong result, below a threshold or slower than the baseline;\n"
      "2 wrong usage.");
  command->callback([&program, flags] { program.run = [flags] { return run(*flags); }; });
}

}  // namespace lane::cli
