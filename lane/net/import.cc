#include "lane/net/import.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "lane/base/error.h"
#include "lane/net/import/readers.h"

namespace lane::net {
namespace {

// By words that only this tool writes, near the beginning.
std::string sniffed(std::string_view text) {
  constexpr size_t kLook = 1 << 20;
  const std::string_view head = text.substr(0, kLook);
  const size_t first = head.find_first_not_of(" \t\r\n");
  if (first != std::string_view::npos && head[first] == '{') {
    if (contains(head, "\"lane bench import\"")) return "lane-import";
    if (contains(head, "\"nvbandwidth\"")) return "nvbandwidth-json";
    if (contains(head, "test_info") || contains(head, "MsgSize")) return "perftest-json";
    if (contains(head, "\"median_s\"")) return "lane-bench";
    if (contains(head, "\"runs\"") && contains(head, "\"num_ranks\"")) return "lane-bench";
    return "nccl-tests-json";
  }
  if (contains(head, "nvbandwidth Version") || (contains(head, "Running ") && contains(head, " bandwidth (GB/s)")))
    return "nvbandwidth";
  if (contains(head, "OSU MPI")) return "osu";
  if (contains(head, "algbw") && contains(head, "busbw")) return "nccl-tests";
  if (contains(head, "#bytes") && contains(head, "#iterations")) return "perftest";
  if (contains(head, "nccl-tests version") || contains(head, "Collective test starting") ||
      contains(head, "Bytes -> Algo") || contains(head, "Test NCCL failure") || contains(head, "Test CUDA failure"))
    return "nccl-tests";
  return "";
}

std::vector<ImportedRun> read_as(const std::string& format, std::string_view text, const std::string& where,
                                 const ImportOptions& options) {
  if (format == "nccl-tests") return read_nccl_text(text, where, options);
  if (format == "nccl-tests-json") return read_nccl_json(text, where, options);
  if (format == "osu") return read_osu(text, where, options);
  if (format == "perftest") return read_perftest_text(text, where);
  if (format == "perftest-json") return read_perftest_json(text, where);
  if (format == "nvbandwidth") return read_nvbandwidth_text(text, where);
  if (format == "nvbandwidth-json") return read_nvbandwidth_json(text, where);
  if (format == "lane-bench") return read_lane_bench(text, where);
  if (format == "lane-import") return read_lane_import(text, where);
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("format {}: expected auto or one of {}", format, fmt::join(import_formats(), ", ")));
}

}  // namespace

const std::vector<std::string>& import_formats() {
  static const std::vector<std::string> kFormats = {"nccl-tests",       "nccl-tests-json", "osu",
                                                    "perftest",         "perftest-json",   "nvbandwidth",
                                                    "nvbandwidth-json", "lane-bench",      "lane-import"};
  return kFormats;
}

std::vector<ImportedRun> import_results(std::string_view text, const std::string& where, const ImportOptions& options) {
  const std::string format = options.format == "auto" ? sniffed(text) : options.format;
  if (format.empty())
    throw Error(ErrorCode::kCorruptData,
                fmt::format("{}: not recognised: expected the output of nccl-tests, OSU's benchmarks, perftest, "
                            "nvbandwidth or Lane; force one with --format ({})",
                            where, fmt::join(import_formats(), ", ")));
  std::vector<ImportedRun> runs = read_as(format, text, where, options);
  const bool has_any = std::any_of(runs.begin(), runs.end(), [](const ImportedRun& run) {
    return !run.rows.empty() || !run.rejected.empty() || !run.failures.empty() || !run.chosen.empty();
  });
  if (!has_any)
    throw Error(
        ErrorCode::kCorruptData,
        fmt::format("{}: no results in it, read as {}; was the test killed before its first line?", where, format));
  return runs;
}

}  // namespace lane::net
