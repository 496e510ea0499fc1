// OSU micro-benchmarks: "# OSU MPI-CUDA Allreduce Latency Test v7.4", a header line, columns. They do not say how many
// ranks there were.
#include <fmt/format.h>

#include <algorithm>

#include "lane/net/import/readers.h"

namespace lane::net {
namespace {

// "OSU MPI-CUDA Allreduce Latency Test v7.4" -> test "all_reduce", version "v7.4", what it measures.
struct Title {
  std::string test, version;
  bool is_bandwidth = false;
};

std::optional<Title> title_of(std::string_view line) {
  const size_t osu = line.find("OSU ");
  const size_t end = line.find(" Test", osu == std::string_view::npos ? 0 : osu);
  if (osu == std::string_view::npos || end == std::string_view::npos) return std::nullopt;
  std::vector<Word> words = words_of(line.substr(osu, end - osu));
  if (words.size() < 3 || !starts_with(words[1].text, "MPI")) return std::nullopt;
  Title title;
  std::string name;
  for (size_t i = 2; i < words.size(); ++i) {
    const std::string word = lower(words[i].text);
    if (word == "bandwidth") title.is_bandwidth = true;
    if (word == "latency" && i > 2 && i + 1 == words.size()) continue;  // "Allreduce Latency": a collective's
    name += (name.empty() ? "" : "_") + word;
  }
  static const std::pair<const char*, const char*> kCollectives[] = {{"allreduce", "all_reduce"},
                                                                     {"allgather", "all_gather"},
                                                                     {"reduce_scatter", "reduce_scatter"},
                                                                     {"broadcast", "broadcast"},
                                                                     {"bcast", "broadcast"},
                                                                     {"reduce", "reduce"},
                                                                     {"alltoall", "alltoall"},
                                                                     {"gather", "gather"},
                                                                     {"scatter", "scatter"},
                                                                     {"all-to-all_personalized_exchange", "alltoall"}};
  title.test = "osu_" + name;
  for (const auto& [osu_name, collective] : kCollectives)
    if (name == osu_name) title.test = collective;
  const std::vector<Word> after = words_of(line.substr(end + 5));
  if (!after.empty()) title.version = std::string(after[0].text).substr(0, 40);
  return title;
}

// The columns by name: blanks inside a name are single, between names there are two or a unit's bracket.
std::vector<std::string> columns_of(std::string_view header) {
  std::vector<std::string> columns;
  std::string name;
  header = trimmed(header);
  for (size_t i = 0; i < header.size(); ++i) {
    const bool blank = header[i] == ' ' || header[i] == '\t';
    const bool ends = blank && (i + 1 < header.size() && (header[i + 1] == ' ' || header[i + 1] == '\t'));
    if (blank && (ends || (!name.empty() && name.back() == ')'))) {
      if (!name.empty()) columns.push_back(name);
      name.clear();
    } else if (!blank || !name.empty()) {
      name += blank ? ' ' : header[i];
    }
  }
  if (!name.empty()) columns.push_back(name);
  return columns;
}

void take_value(ImportedRow& row, const std::string& column, double value, const Title& title) {
  const std::string name = lower(column);
  const bool is_time = contains(name, "latency") || contains(name, "lat(us)");
  if (contains(name, "mb/s") || (title.is_bandwidth && contains(name, "bandwidth")))
    row.algbw_gb_per_s = value * 1e-3;  // OSU's MB are 10^6 bytes
  else if (is_time && starts_with(name, "min"))
    row.min_us = value;
  else if (is_time && starts_with(name, "max"))
    row.max_us = value;
  else if (is_time && starts_with(name, "p50"))
    row.p50_us = value;
  else if (is_time && starts_with(name, "p95"))
    row.p95_us = value;
  else if (is_time && starts_with(name, "p99"))
    row.p99_us = value;
  else if (is_time && !starts_with(name, "p"))
    row.time_us = value;
}

void finish_row(ImportedRun& run, ImportedRow row) {
  const auto bytes = static_cast<double>(row.bytes);
  if (row.time_us > 0 && row.algbw_gb_per_s == 0) row.algbw_gb_per_s = bytes / row.time_us * 1e-3;
  row.busbw_gb_per_s = row.algbw_gb_per_s * bus_factor(row.test, run.num_ranks);
  if (row.time_us < 0 || row.algbw_gb_per_s < 0 || (row.time_us == 0 && row.algbw_gb_per_s == 0))
    run.rejected.push_back({row.line, "neither a time nor a bandwidth above 0"});
  else
    run.rows.push_back(std::move(row));
}

}  // namespace

std::vector<ImportedRun> read_osu(std::string_view text, const std::string& where, const ImportOptions& options) {
  std::vector<ImportedRun> runs;
  std::optional<Title> title;
  std::vector<std::string> columns;
  std::string type;
  for (const SourceLine& line : lines_of(text)) {
    std::string_view inside = trimmed(line.text);
    if (const auto found = title_of(inside)) {
      title = found, columns.clear(), type.clear();
      runs.push_back({.source = where,
                      .tool = "osu",
                      .version = found->version,
                      .num_ranks = options.num_ranks,
                      .num_nodes = options.num_nodes});
      if (contains(inside, "CUDA")) runs.back().memory = "gpu";
      if (!starts_with(found->test, "osu_") && options.num_ranks == 0)
        runs.back().notes.push_back("OSU does not print the number of ranks: there is no busbw; give --ranks");
      continue;
    }
    if (!title || inside.empty()) continue;
    if (starts_with(inside, "#")) inside = trimmed(inside.substr(1));
    if (starts_with(inside, "Datatype:")) {
      type = lower(trimmed(inside.substr(9)));
      if (!type.empty() && type.back() == '.') type.pop_back();
    }
    if (starts_with(inside, "Size") && inside.size() > 4 && (inside[4] == ' ' || inside[4] == '\t')) {
      columns = columns_of(inside);
      continue;
    }
    const std::vector<Word> words = words_of(inside);
    if (columns.empty() || words.empty() || whole_number(words[0].text).value_or(-1) < 0) continue;
    ImportedRow row{.test = title->test, .type = type, .bytes = *whole_number(words[0].text), .line = line.number};
    if (words.size() != columns.size()) {
      runs.back().rejected.push_back(
          {line.number, fmt::format("{} columns; the header has {}", words.size(), columns.size())});
      continue;
    }
    std::string wrong_column;
    for (size_t i = 1; i < words.size(); ++i) {
      if (lower(columns[i]) == "validation") {
        row.num_wrong = lower(words[i].text) == "pass" ? 0 : 1;
      } else if (const auto number = printed_number(words[i].text)) {
        take_value(row, columns[i], number->value, *title);
      } else {
        wrong_column = columns[i];
      }
    }
    if (wrong_column.empty())
      finish_row(runs.back(), std::move(row));
    else
      runs.back().rejected.push_back({line.number, "column " + wrong_column + " is not a number"});
  }
  return runs;
}

}  // namespace lane::net
