// perftest (ib_write_bw and its like). Bandwidths are in MiB/s or, with --report_gbits, in Gb/s; latencies of its
// ping-pongs are half the round trip. MsgRate x size is the bandwidth once more, which is what a row is checked by.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "lane/base/error.h"
#include "lane/net/import/readers.h"

namespace lane::net {
namespace {

constexpr double kMibToGb = 1048576 / 1e9, kGbitToGb = 1 / 8.0;
constexpr double kTolerance = 0.02;

// "RDMA_Write Bidirectional BW" -> ib_write_bw_bidirectional; of JSON "RDMA_Write_BW_Test".
std::string test_name(std::string_view title) {
  std::string words = lower(title);
  std::replace(words.begin(), words.end(), ' ', '_');
  const char* verb = contains(words, "write")    ? "write"
                     : contains(words, "read")   ? "read"
                     : contains(words, "atomic") ? "atomic"
                                                 : "send";
  std::string name = fmt::format("ib_{}_{}", verb, contains(words, "latency") ? "lat" : "bw");
  if (contains(words, "bidirectional")) name += "_bidirectional";
  return name;
}

// Whether bandwidth and message rate say the same, given the digits they were printed with.
bool rate_agrees(int64_t bytes, const PrintedNumber& gb_per_s, const PrintedNumber& rate_mpps) {
  const double low = rate_mpps.low() * 1e6 * static_cast<double>(bytes) * 1e-9;
  const double high = rate_mpps.high() * 1e6 * static_cast<double>(bytes) * 1e-9;
  return gb_per_s.high() >= low * (1 - kTolerance) && gb_per_s.low() <= high * (1 + kTolerance);
}

PrintedNumber scaled(const PrintedNumber& number, double by) { return {number.value * by, number.half_unit * by}; }

// The names of a header, a unit's bracket and what comes before it being one: "BW peak[Gb/sec]", "99%
// percentile[usec]".
std::vector<std::string> columns_of(std::string_view header) {
  std::vector<std::string> columns;
  bool is_open = false;  // the next word belongs to the column before
  for (const Word& word : words_of(header)) {
    if (is_open)
      columns.back() += " " + lower(word.text);
    else
      columns.push_back(lower(word.text));
    is_open = !contains(word.text, "[") &&
              (columns.back() == "bw" || columns.back() == "msgrate" || columns.back() == "tps" ||
               (columns.back().size() > 1 && columns.back().back() == '%'));
  }
  return columns;
}

struct Table {
  std::string test;
  std::vector<std::string> columns;
  double to_gb = 0;  // 0: a table of latencies
};

std::optional<Table> table_of(std::string_view line, const std::string& title) {
  const std::string_view inside = trimmed(line);
  if (!starts_with(inside, "#bytes")) return std::nullopt;
  Table table{.columns = columns_of(inside)};
  const std::string header = lower(inside);
  const bool is_bandwidth = contains(header, "bw average");
  if (!is_bandwidth && !contains(header, "usec")) return std::nullopt;
  if (is_bandwidth) table.to_gb = contains(header, "gb/sec") ? kGbitToGb : kMibToGb;  // older ones say MB and mean MiB
  table.test = title.empty() ? (is_bandwidth ? "ib_bw" : "ib_lat") : test_name(title);
  return table;
}

std::string take_row(ImportedRun& run, const Table& table, const std::vector<Word>& words, int line) {
  if (words.size() < table.columns.size())
    return fmt::format("{} columns; the header has {}", words.size(), table.columns.size());
  ImportedRow row{.test = table.test, .line = line};
  std::optional<PrintedNumber> average, rate;
  for (size_t i = 0; i < table.columns.size(); ++i) {
    const std::string& name = table.columns[i];
    const auto number = printed_number(words[i].text);
    if (!number || number->value < 0) return fmt::format("column {} is {}", name, in_quotes(words[i].text));
    if (name == "#bytes") row.bytes = whole_number(words[i].text).value_or(0);
    if (name == "#iterations") row.count = whole_number(words[i].text).value_or(0);
    if (starts_with(name, "bw average")) average = number;
    if (starts_with(name, "msgrate[")) rate = number;
    if (starts_with(name, "t_min")) row.min_us = number->value;
    if (starts_with(name, "t_max")) row.max_us = number->value;
    if (starts_with(name, "t_typical")) row.p50_us = number->value;  // the median
    if (starts_with(name, "t_avg")) row.time_us = number->value;
    if (starts_with(name, "99% ")) row.p99_us = number->value;
  }
  if (table.to_gb > 0) {
    if (!average) return "there is no average bandwidth";
    const PrintedNumber gb_per_s = scaled(*average, table.to_gb);
    if (rate && row.bytes > 0 && !rate_agrees(row.bytes, gb_per_s, *rate))
      return fmt::format("bandwidth {:.6g} GB/s, but {:.6g} million messages of {} B a second are {:.4g} GB/s",
                         gb_per_s.value, rate->value, row.bytes, rate->value * static_cast<double>(row.bytes) * 1e-3);
    row.algbw_gb_per_s = row.busbw_gb_per_s = gb_per_s.value;
  } else if (row.time_us <= 0) {
    return "t_avg is 0";
  }
  run.rows.push_back(std::move(row));
  return "";
}

// `"key": value,` by lines: what perftest prints as JSON has no quotes at all before 2022, and unescaped text later.
std::map<std::string, std::string> fields_of(std::string_view text) {
  std::map<std::string, std::string> fields;
  for (const SourceLine& line : lines_of(text)) {
    const std::string_view inside = trimmed(line.text);
    const size_t colon = inside.find(':');
    if (colon == std::string_view::npos) continue;
    const auto bare = [](std::string_view part) {
      part = trimmed(part);
      if (!part.empty() && part.back() == ',') part = trimmed(part.substr(0, part.size() - 1));
      if (!part.empty() && part.front() == '"') part.remove_prefix(1);
      if (!part.empty() && part.back() == '"') part.remove_suffix(1);
      return std::string(trimmed(part));
    };
    fields.emplace(lower(bare(inside.substr(0, colon))), bare(inside.substr(colon + 1)));
  }
  return fields;
}

void flatten(const Json& value, std::map<std::string, std::string>& fields) {
  for (const auto& [key, each] : value.items()) {
    if (each.is_object())
      flatten(each, fields);
    else
      fields.emplace(lower(key), each.is_string() ? each.get<std::string>()
                                                  : each.dump(-1, ' ', true, Json::error_handler_t::replace));
  }
}

}  // namespace

std::vector<ImportedRun> read_perftest_text(std::string_view text, const std::string& where) {
  std::vector<ImportedRun> runs;
  std::string title;
  std::optional<Table> table;
  bool has_cuda = false;
  for (const SourceLine& line : lines_of(text)) {
    const std::string_view inside = trimmed(line.text);
    if (inside.size() > 5 && inside.substr(inside.size() - 5) == " Test" && !starts_with(inside, "#")) {
      title = std::string(inside.substr(0, inside.size() - 5));
      table.reset();
    }
    if (contains(inside, "use_cuda") || contains(inside, "CUdevice") || contains(inside, "cuda device"))
      has_cuda = true;
    if (auto found = table_of(line.text, title)) {
      table = std::move(found);
      runs.push_back({.source = where, .tool = "perftest", .num_ranks = 2});
      continue;
    }
    const std::vector<Word> words = words_of(line.text);
    if (!table || words.size() < 3 || whole_number(words[0].text).value_or(-1) < 0 || !whole_number(words[1].text))
      continue;
    if (const std::string reason = take_row(runs.back(), *table, words, line.number); !reason.empty())
      runs.back().rejected.push_back({line.number, reason});
  }
  for (ImportedRun& run : runs)
    if (has_cuda) run.memory = "gpu";
  return runs;
}

std::vector<ImportedRun> read_perftest_json(std::string_view text, const std::string& where) {
  std::map<std::string, std::string> fields;
  ImportedRun run{.source = where, .tool = "perftest", .num_ranks = 2};
  try {
    const Json root = parse_json(text, where);
    if (root.is_object()) flatten(root, fields);
  } catch (const Error&) {
    fields = fields_of(text);
    run.notes.push_back("not valid JSON, as older perftest writes it: read by lines");
  }
  const auto number = [&](const char* name) -> std::optional<PrintedNumber> {
    const auto at = fields.find(name);
    return at == fields.end() ? std::nullopt : printed_number(at->second);
  };
  const auto size = number("msgsize");
  if (!size || (!number("bw_average") && !number("t_avg")))
    throw Error(ErrorCode::kCorruptData,
                where + ": expected perftest's JSON: MsgSize and BW_average or t_avg are missing");
  ImportedRow row{
      .test = test_name(fields["test"]), .bytes = static_cast<int64_t>(std::clamp(size->value, 0.0, 9e15)), .line = 1};
  if (fields.count("cuda_device") > 0) run.memory = "gpu";
  if (number("t_avg")) {
    row.time_us = number("t_avg")->value;
    row.min_us = number("t_min").value_or(PrintedNumber{}).value;
    row.max_us = number("t_max").value_or(PrintedNumber{}).value;
    row.p50_us = number("t_typical").value_or(PrintedNumber{}).value;
    row.p99_us = number("percentile_99").value_or(PrintedNumber{}).value;
    if (row.time_us > 0)
      run.rows.push_back(row);
    else
      run.rejected.push_back({1, "t_avg is 0"});
    return {run};
  }
  // The JSON does not say its unit. The message rate does: MiB/s are 8.4 % less than the same number of Gb/s / 119.2.
  const auto average = *number("bw_average"), rate = number("msgrate").value_or(PrintedNumber{});
  for (const double to_gb : {kGbitToGb, kMibToGb})
    if (row.algbw_gb_per_s == 0 && rate.value > 0 && row.bytes > 0 &&
        rate_agrees(row.bytes, scaled(average, to_gb), rate))
      row.algbw_gb_per_s = row.busbw_gb_per_s = average.value * to_gb;
  if (row.algbw_gb_per_s > 0)
    run.rows.push_back(row);
  else
    run.rejected.push_back(
        {1, fmt::format("BW_average {:.6g} is neither in Gb/s nor in MiB/s what MsgRate {:.6g} and {} B make",
                        average.value, rate.value, row.bytes)});
  return {run};
}

}  // namespace lane::net
