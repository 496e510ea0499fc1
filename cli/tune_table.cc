#include "cli/tune_table.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/units.h"
#include "lane/comm/tuning.h"

namespace lane::cli {

std::string tuning_output(const std::string& output) {
  const std::string file = output.empty() ? tuning_file() : output;
  if (file.empty())
    throw Error(ErrorCode::kInvalidArgument,
                "there is no place for the table: LANE_TUNING=off, or neither XDG_CACHE_HOME nor HOME is set; give "
                "--output FILE");
  if (file_exists(file)) TuningTable::parse(read_file(file), file);  // to be merged with: better to know it now
  return file;
}

void save_tuning(const std::string& file, const TuningEntry& entry) {
  TuningTable table;
  if (file_exists(file)) table = TuningTable::parse(read_file(file), file);
  table.merge(entry);
  const std::filesystem::path folder = std::filesystem::path(file).parent_path();
  std::error_code failed;
  if (!folder.empty()) std::filesystem::create_directories(folder, failed);
  if (failed)
    throw Error(ErrorCode::kSystem,
                fmt::format("creating {}: {}; choose another place with --output", folder.string(), failed.message()));
  write_file(file, table.to_text());
}

int print_lines(const net::TuneResult& result, const char* chosen) {
  const int width = result.entry.ranks_per_node.size() > 1 ? 44 : 24;  // names for several hosts are made of two
  fmt::print("{:>11}  {:<9} {:<{}} {:>10} {:>6}  {:<{}} {:>7}\n", "size", "type", "fastest", width, "median", "+-",
             chosen, width, "slower");
  int wrong = 0;
  for (const net::TuneLine& line : result.lines) {
    std::string slower;  // nothing: it chose the same
    if (line.of_model != line.winner) {
      slower = line.of_model_s > 0 ? fmt::format("{:.0f} %", 100 * (line.of_model_s / line.winner_s - 1)) : "far";
      if (line.of_model_s == 0 || line.of_model_s > 1.1 * line.winner_s) ++wrong;
    }
    fmt::print("{:>11}  {:<9} {:<{}} {:>10} {:>4.0f} %  {:<{}} {:>7}\n", format_bytes(static_cast<double>(line.bytes)),
               name_of(line.dtype), line.winner, width, format_duration(line.winner_s), 100 * line.uncertainty,
               line.of_model == line.winner ? "the same" : line.of_model, width, slower);
  }
  return wrong;
}

}  // namespace lane::cli
