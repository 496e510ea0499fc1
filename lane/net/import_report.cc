#include "lane/net/import_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "lane/base/units.h"
#include "lane/net/chart.h"

namespace lane::net {
namespace {

std::string number(double value, int width, int digits = 2) {
  return value > 0 ? fmt::format("{:>{}.{}f}", value, width, digits) : fmt::format("{:>{}}", "-", width);
}

const char* word_of(Health health) {
  switch (health) {
    case Health::kPass:
      return "pass";
    case Health::kFail:
      return "FAIL";
    case Health::kUnknown:
      return "unknown";
    case Health::kNotMeasured:
      break;
  }
  return "not measured";
}

const char* word_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::kSame:
      return "same";
    case Verdict::kFaster:
      return "faster";
    case Verdict::kSlower:
      return "SLOWER";
    case Verdict::kNotJudged:
      break;
  }
  return "not judged";
}

const char* unit_of(const std::string& metric) {
  if (metric == "bandwidth_gbit_per_s") return "Gb/s";
  return metric == "time_us" || metric == "p99_us" ? "us" : "GB/s";
}

std::string head_of(const ImportedRun& run) {
  std::string text = fmt::format("# {}: {}", run.source, run.tool);
  if (!run.version.empty()) text += " " + run.version;
  if (!run.nccl_version.empty()) text += ", NCCL " + run.nccl_version;
  if (run.num_ranks > 0) text += fmt::format(", {} rank{}", run.num_ranks, run.num_ranks == 1 ? "" : "s");
  if (run.num_nodes > 0) text += fmt::format(" on {} node{}", run.num_nodes, run.num_nodes == 1 ? "" : "s");
  if (!run.gpus.empty()) text += fmt::format(", {}", fmt::join(run.gpus, ", "));
  return text + "\n";
}

std::string troubles_of(const ImportedRun& run) {
  std::string text;
  for (const RejectedRow& row : run.rejected)
    text += fmt::format("  rejected: {}:{}: {}\n", run.source, row.line, row.reason);
  for (const std::string& failure : run.failures) text += fmt::format("  failed: {}\n", failure);
  for (const std::string& note : run.notes) text += fmt::format("  note: {}\n", note);
  return text;
}

// What all curves have in common goes into the title: legends are narrow.
struct Common {
  std::string test, type;
};
Common common_of(const std::vector<Series>& all) {
  Common common;
  const auto same = [&](std::string SeriesKey::*field) {
    return std::all_of(all.begin(), all.end(),
                       [&](const Series& each) { return each.key.*field == all[0].key.*field; });
  };
  if (!all.empty() && same(&SeriesKey::test)) common.test = all[0].key.test;
  if (!all.empty() && same(&SeriesKey::type)) common.type = all[0].key.type;
  return common;
}

// One thing measured, whatever its size.
std::string curve_name(const SeriesKey& key, const Common& common, bool is_baseline) {
  std::string name;
  const auto add = [&](const std::string& word) { name += (name.empty() || word.empty() ? "" : " ") + word; };
  if (common.test.empty()) add(key.test);
  if (common.type.empty()) add(key.type);
  add(key.variant);
  if (key.in_place || name.empty()) add(key.in_place ? "in place" : "out of place");
  return name + (is_baseline ? ", before" : "");
}

void add_curves(std::vector<Curve>& curves, const std::vector<Series>& all, const Common& common, bool is_baseline) {
  for (const Series& series : all) {
    if (series.of_bandwidth || series.key.bytes <= 0) continue;
    const std::string name = curve_name(series.key, common, is_baseline);
    auto at = std::find_if(curves.begin(), curves.end(), [&](const Curve& curve) { return curve.name == name; });
    if (at == curves.end()) at = curves.insert(curves.end(), Curve{name, {}, is_baseline});
    at->points.emplace_back(static_cast<double>(series.key.bytes), series.median_us() * 1e-6);
  }
  for (Curve& curve : curves) std::sort(curve.points.begin(), curve.points.end());
}

}  // namespace

std::string forced_settings(const ImportedRun& run) {
  std::string text;
  for (const char* name : {"NCCL_ALGO", "NCCL_PROTO", "NCCL_MIN_CTAS", "NCCL_MAX_CTAS", "NCCL_TUNER_CONFIG_FILE"})
    if (const auto at = run.environment.find(name); at != run.environment.end())
      text += fmt::format("{}{}={}", text.empty() ? "" : " ", name, at->second);
  return text;
}

std::string text_of(const ImportedRun& run) {
  size_t name_width = 10;
  for (const ImportedRow& row : run.rows) name_width = std::max(name_width, row.test.size());
  std::string text = head_of(run);
  if (!run.rows.empty())
    text += fmt::format("  {:<{}} {:>11} {:<9} {:<5} {:<8} {:>10} {:>10} {:>9} {:>9} {:>7}\n", "test", name_width,
                        "size", "type", "redop", "in place", "time (us)", "p99 (us)", "algbw", "busbw", "#wrong");
  for (const ImportedRow& row : run.rows) {
    text += fmt::format("  {:<{}} {:>11} {:<9} {:<5} {:<8} {} {} {} {} {:>7}", row.test, name_width,
                        row.bytes > 0 ? format_bytes(static_cast<double>(row.bytes)) : "-", row.type, row.redop,
                        row.in_place ? "yes" : "", number(row.time_us, 10), number(row.p99_us, 10),
                        number(row.algbw_gb_per_s, 9), number(row.busbw_gb_per_s, 9),
                        row.num_wrong < 0 ? "N/A" : fmt::format("{}", row.num_wrong));
    text += row.variant.empty() ? "\n" : "  " + row.variant + "\n";
  }
  return text + troubles_of(run);
}

std::string summary_of(const std::vector<ImportedRun>& runs) {
  std::string text;
  std::map<std::string, std::vector<ImportedRun>> by_settings;
  for (const ImportedRun& run : runs) {
    text += head_of(run) + troubles_of(run);
    by_settings[forced_settings(run)].push_back(run);
  }
  for (const auto& [settings, alike] : by_settings) {
    text += fmt::format("\n{}, {} runs\n", settings.empty() ? "nothing forced" : settings, alike.size());
    text += fmt::format("  {:>7} {:>12} {:>12} {:>12}  {}\n", "samples", "median", "lowest", "highest", "what");
    for (const Series& series : series_of(alike)) {
      const auto value = [&](double us) {
        return series.of_bandwidth ? fmt::format("{:.2f} GB/s", 1 / us) : fmt::format("{:.2f} us", us);
      };
      const auto [low, high] = std::minmax_element(series.times_us.begin(), series.times_us.end());
      text += fmt::format("  {:>7} {:>12} {:>12} {:>12}  {}\n", series.times_us.size(), value(series.median_us()),
                          value(*low), value(*high), words_for(series.key));
    }
  }
  return text;
}

std::string text_of(const std::vector<HealthCheck>& checks) {
  std::string text;
  for (const HealthCheck& check : checks) {
    const Threshold& threshold = check.threshold;
    const bool at_least = threshold.at_least > 0;
    text += fmt::format("{:<12}  {}: {} {} {:g} {}", word_of(check.health), threshold.title, threshold.test,
                        at_least ? ">=" : "<=", at_least ? threshold.at_least : threshold.at_most,
                        unit_of(threshold.metric));
    if (check.health == Health::kPass || check.health == Health::kFail)
      text += fmt::format(", measured {:.4g} at {}", check.measured, format_bytes(static_cast<double>(check.bytes)));
    if (!check.variant.empty()) text += ", " + check.variant;
    if (!check.why.empty()) text += ": " + check.why;
    text += fmt::format("\n{:<12}  ({})\n", "", threshold.source);
  }
  return text;
}

std::string text_of(const Comparison& comparison) {
  std::string text;
  if (!comparison.sizes.empty())
    text += fmt::format("{:<10} {:>11} {:>11} {:>8}  {:<19} {}\n", "verdict", "baseline", "now", "change", "judged by",
                        "what");
  for (const ComparedSize& size : comparison.sizes) {
    const auto value = [&](double us) {
      return size.of_bandwidth ? fmt::format("{:.2f} GB/s", 1 / us) : fmt::format("{:.2f} us", us);
    };
    const std::string by = size.by_test
                               ? fmt::format("p {:.2g}, {}+{} runs", size.chance, size.num_older, size.num_newer)
                           : size.verdict == Verdict::kNotJudged ? "too few samples"
                                                                 : "noise bound";
    text += fmt::format("{:<10} {:>11} {:>11} {:>+7.1f} %  {:<19} {}\n", word_of(size.verdict), value(size.older_us),
                        value(size.newer_us), 100 * size.change, by, words_for(size.key));
  }
  if (!comparison.sizes.empty()) text += "(change: of the time, so + is slower)\n";
  for (const SeriesKey& key : comparison.only_older) text += "only in the baseline: " + words_for(key) + "\n";
  for (const SeriesKey& key : comparison.only_newer) text += "not in the baseline: " + words_for(key) + "\n";
  return text + fmt::format("{} slower, {} faster, {} same, {} not judged\n", comparison.count(Verdict::kSlower),
                            comparison.count(Verdict::kFaster), comparison.count(Verdict::kSame),
                            comparison.count(Verdict::kNotJudged));
}

Json to_json(const HealthCheck& check) {
  const Threshold& threshold = check.threshold;
  Json json{{"health", word_of(check.health)}, {"platform", threshold.platform}, {"title", threshold.title},
            {"test", threshold.test},          {"metric", threshold.metric},     {"source", threshold.source}};
  if (threshold.at_least > 0) json["at_least"] = threshold.at_least;
  if (threshold.at_most > 0) json["at_most"] = threshold.at_most;
  if (check.health == Health::kPass || check.health == Health::kFail)
    json["measured"] = check.measured, json["bytes"] = check.bytes;
  if (!check.variant.empty()) json["variant"] = check.variant;
  if (!check.why.empty()) json["why"] = check.why;
  return json;
}

Json to_json(const Comparison& comparison) {
  const auto key_json = [](const SeriesKey& key) {
    return Json{{"test", key.test},           {"type", key.type},          {"redop", key.redop},
                {"variant", key.variant},     {"bytes", key.bytes},        {"in_place", key.in_place},
                {"num_ranks", key.num_ranks}, {"num_nodes", key.num_nodes}};
  };
  Json json{{"sizes", Json::array()}, {"only_baseline", Json::array()}, {"only_new", Json::array()}};
  for (const ComparedSize& size : comparison.sizes) {
    Json each = key_json(size.key);
    each["verdict"] = word_of(size.verdict);
    each["baseline_us"] = size.older_us, each["now_us"] = size.newer_us, each["change"] = size.change;
    each["num_baseline"] = size.num_older, each["num_now"] = size.num_newer;
    each["by_test"] = size.by_test, each["chance"] = size.chance;
    json["sizes"].push_back(std::move(each));
  }
  for (const SeriesKey& key : comparison.only_older) json["only_baseline"].push_back(key_json(key));
  for (const SeriesKey& key : comparison.only_newer) json["only_new"].push_back(key_json(key));
  return json;
}

std::string chart_of(const std::vector<ImportedRun>& runs, const std::vector<ImportedRun>& baseline) {
  const std::vector<Series> now = series_of(runs), before = series_of(baseline);
  std::vector<Series> all = now;
  all.insert(all.end(), before.begin(), before.end());
  const Common common = common_of(all);
  std::vector<Curve> curves;
  add_curves(curves, now, common, false);
  add_curves(curves, before, common, true);
  std::string title = common.test.empty() ? "times" : common.test;
  if (!common.type.empty()) title += " of " + common.type;
  for (const ImportedRun& run : runs)
    if (run.num_ranks > 0) {
      title += fmt::format(" among {} ranks", run.num_ranks);
      if (run.num_nodes > 0) title += fmt::format(" on {} node{}", run.num_nodes, run.num_nodes == 1 ? "" : "s");
      break;
    }
  return latency_chart(title, curves);
}

int count_wrong(const std::vector<ImportedRun>& runs) {
  int count = 0;
  for (const ImportedRun& run : runs) {
    count += static_cast<int>(run.rejected.size() + run.failures.size());
    count += static_cast<int>(
        std::count_if(run.rows.begin(), run.rows.end(), [](const ImportedRow& row) { return row.num_wrong > 0; }));
  }
  return count;
}

}  // namespace lane::net
