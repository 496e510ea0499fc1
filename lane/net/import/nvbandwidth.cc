// nvbandwidth: for each test a matrix of GB/s (10^9 bytes) and its sum. Each cell is a row here, named "to <- from".
#include <fmt/format.h>

#include <cmath>

#include "lane/base/error.h"
#include "lane/net/import/readers.h"

namespace lane::net {
namespace {

constexpr double kTolerance = 0.02;
constexpr size_t kMostCells = 1 << 16;

std::string cell_name(const std::string& test, size_t row, size_t column) {
  const bool among_gpus = contains(test, "device_to_device");
  return among_gpus ? fmt::format("gpu {} <- gpu {}", row, column) : fmt::format("gpu {}", column);
}

// The sum that the tool printed guards its matrix.
void take_matrix(ImportedRun& run, const std::string& test, const std::vector<std::vector<std::string>>& matrix,
                 std::optional<PrintedNumber> sum, int line) {
  double total = 0, half_units = 0;
  std::vector<ImportedRow> rows;
  for (size_t i = 0; i < matrix.size(); ++i)
    for (size_t j = 0; j < matrix[i].size(); ++j) {
      const auto number = printed_number(trimmed(matrix[i][j]));
      if (!number || rows.size() >= kMostCells) continue;
      total += number->value, half_units += number->half_unit;
      if (number->value <= 0) continue;  // a GPU to itself
      ImportedRow row{.test = test, .variant = cell_name(test, i, j), .line = line};
      row.algbw_gb_per_s = row.busbw_gb_per_s = number->value;
      rows.push_back(std::move(row));
    }
  if (rows.empty()) return;
  if (sum && std::abs(sum->value - total) > kTolerance * std::abs(total) + half_units + sum->half_unit) {
    run.rejected.push_back(
        {line, fmt::format("{}: SUM {:.6g}, but its cells add up to {:.6g}", test, sum->value, total)});
    return;
  }
  run.rows.insert(run.rows.end(), rows.begin(), rows.end());
}

}  // namespace

std::vector<ImportedRun> read_nvbandwidth_text(std::string_view text, const std::string& where) {
  ImportedRun run{.source = where, .tool = "nvbandwidth", .num_nodes = 1};
  std::string test;
  std::vector<std::vector<std::string>> matrix;
  size_t num_columns = 0;  // 0: not inside a matrix
  int begin = 0;
  const auto finish = [&](std::optional<PrintedNumber> sum) {
    if (!test.empty()) take_matrix(run, test, matrix, sum, begin);
    matrix.clear(), num_columns = 0;
  };
  for (const SourceLine& line : lines_of(text)) {
    const std::string_view inside = trimmed(line.text);
    const std::vector<Word> words = words_of(inside);
    if (starts_with(inside, "nvbandwidth Version:") && words.size() > 2)
      run.version = std::string(words[2].text).substr(0, 40);
    if (starts_with(inside, "Running ")) {
      finish(std::nullopt);
      test = std::string(trimmed(inside.substr(8)));
      if (!test.empty() && test.back() == '.') test.pop_back();
      if (test.size() > 100) test.resize(100);
      begin = line.number;
    } else if (starts_with(inside, "SUM ") && words.size() == 3 && words[1].text == test) {
      finish(printed_number(words[2].text));
      test.clear();
    } else if (!test.empty() && (starts_with(inside, "ERROR") || contains(inside, "_ERROR_"))) {
      run.failures.push_back(test + ": " + std::string(inside).substr(0, 200));
    } else if (!test.empty() && !words.empty()) {
      bool is_header = true;
      for (size_t i = 0; i < words.size(); ++i) is_header = is_header && words[i].text == std::to_string(i);
      if (num_columns == 0 && is_header) {
        num_columns = words.size();
      } else if (num_columns > 0 && words.size() == num_columns + 1) {
        std::vector<std::string> cells;
        for (size_t i = 1; i < words.size(); ++i) cells.emplace_back(words[i].text);
        matrix.push_back(std::move(cells));
      } else if (num_columns > 0) {
        finish(std::nullopt);
      }
    }
  }
  finish(std::nullopt);
  return {run};
}

std::vector<ImportedRun> read_nvbandwidth_json(std::string_view text, const std::string& where) {
  bool is_torn = false;
  const Json root = parse_torn_json(text, where, &is_torn);
  const auto wrong = [&] {
    return Error(ErrorCode::kCorruptData,
                 where + ": expected nvbandwidth's JSON: {\"nvbandwidth\": {\"testcases\": [...]}}");
  };
  if (!root.is_object() || !root.contains("nvbandwidth") || !root["nvbandwidth"].is_object()) throw wrong();
  const Json& body = root["nvbandwidth"];
  ImportedRun run{.source = where, .tool = "nvbandwidth", .num_nodes = 1};
  if (body.contains("version") && body["version"].is_string())
    run.version = body["version"].get<std::string>().substr(0, 40);
  if (body.contains("error") && body["error"].is_string())
    run.failures.push_back(body["error"].get<std::string>().substr(0, 200));
  if (is_torn) run.notes.push_back("the file has no end: the test was stopped");
  if (!body.contains("testcases") || !body["testcases"].is_array()) throw wrong();
  int number = 0;
  for (const Json& testcase : body["testcases"]) {
    ++number;
    if (!testcase.is_object() || !testcase.contains("name") || !testcase["name"].is_string()) continue;
    const std::string name = testcase["name"].get<std::string>().substr(0, 100);
    if (testcase.contains("status") && testcase["status"] == "Error") run.failures.push_back(name + ": Error");
    if (!testcase.contains("bandwidth_matrix") || !testcase["bandwidth_matrix"].is_array()) continue;
    std::vector<std::vector<std::string>> matrix;
    for (const Json& cells : testcase["bandwidth_matrix"]) {
      matrix.emplace_back();
      if (!cells.is_array()) continue;
      for (const Json& cell : cells)
        matrix.back().push_back(cell.is_string()   ? cell.get<std::string>()
                                : cell.is_number() ? fmt::format("{}", cell.get<double>())
                                                   : "");
    }
    std::optional<PrintedNumber> sum;
    if (testcase.contains("sum") && testcase["sum"].is_number())
      sum = PrintedNumber{testcase["sum"].get<double>(), 0.5};
    take_matrix(run, name, matrix, sum, number);
  }
  return {run};
}

}  // namespace lane::net
