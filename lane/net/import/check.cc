#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "lane/net/import/readers.h"

namespace lane::net {
namespace {

constexpr double kTolerance = 0.02;  // network.md's rule; a misread column is off by far more

// Whether `printed` can be bytes x factor / time, each rounded as printed.
bool agrees(const PrintedNumber& printed, double bytes_times_factor, const PrintedNumber& time_us) {
  const double slowest = bytes_times_factor / time_us.high() * 1e-3;
  const double fastest =
      time_us.low() > 0 ? bytes_times_factor / time_us.low() * 1e-3 : std::numeric_limits<double>::infinity();
  return printed.high() >= slowest * (1 - kTolerance) && printed.low() <= fastest * (1 + kTolerance);
}

bool had_other_definition(const std::string& test) { return test == "all_gather" || test == "reduce_scatter"; }

// Why the row is not taken; empty if it is, with its bandwidths worked out.
std::string why_rejected(PrintedRow& printed, int num_ranks, bool* old_definition) {
  ImportedRow& row = printed.row;
  const auto bytes = static_cast<double>(row.bytes);
  const double factor = bus_factor(row.test, num_ranks);
  if (row.bytes < 0 || row.count < 0) return "its size is below 0";
  if (row.bytes == 0) return "";  // no data: a time alone
  if (row.time_us <= 0) return fmt::format("its time is {} us: expected a number above 0", row.time_us);
  row.algbw_gb_per_s = bytes / row.time_us * 1e-3;
  row.busbw_gb_per_s = factor > 0 || num_ranks == 1 ? row.algbw_gb_per_s * factor : printed.busbw.value;
  const bool is_old = had_other_definition(row.test) && factor > 0 && factor < 1 &&
                      agrees(printed.algbw, bytes * factor, printed.time_us) &&
                      !agrees(printed.algbw, bytes, printed.time_us);
  if (is_old) *old_definition = true;
  if (!is_old && !agrees(printed.algbw, bytes, printed.time_us))
    return fmt::format("algbw {:.6g} GB/s, but {} B in {:.6g} us are {:.4g} GB/s", printed.algbw.value, row.bytes,
                       row.time_us, row.algbw_gb_per_s);
  const bool can_check_bus = factor > 0;
  if (can_check_bus && !agrees(printed.busbw, bytes * factor, printed.time_us))
    return fmt::format("busbw {:.6g} GB/s, but {} among {} ranks makes algbw {:.4g} x {:.4g} = {:.4g} GB/s",
                       printed.busbw.value, row.test, num_ranks, row.algbw_gb_per_s, factor, row.busbw_gb_per_s);
  return "";
}

// The collectives whose busbw / algbw fits all rows, of those that print such columns. nccl-tests before June 2025 does
// not name the test.
std::vector<std::string> possible_collectives(const std::vector<PrintedRow>& rows, int num_ranks) {
  if (rows.empty() || num_ranks < 2) return {};
  const std::string& redop = rows[0].row.redop;
  const bool reduces = !redop.empty() && redop != "none";
  std::vector<std::string> fitting;
  for (const char* name :
       {"all_reduce", "reduce_scatter", "reduce", "all_gather", "alltoall", "broadcast", "sendrecv"}) {
    const std::string test = name;
    if (reduces != (test == "all_reduce" || test == "reduce_scatter" || test == "reduce")) continue;
    const double factor = bus_factor(test, num_ranks);
    const bool fits = std::all_of(rows.begin(), rows.end(), [&](const PrintedRow& printed) {
      return printed.row.bytes <= 0 ||
             agrees(printed.busbw, static_cast<double>(printed.row.bytes) * factor, printed.time_us);
    });
    if (fits) fitting.push_back(test);
  }
  return fitting;
}

void name_the_collective(ImportedRun& run, std::vector<PrintedRow>& rows, const ImportOptions& options) {
  std::string name = options.collective;
  if (name.empty() && run.num_ranks > 0) {
    const std::vector<std::string> fitting = possible_collectives(rows, run.num_ranks);
    if (fitting.size() == 1) {
      name = fitting[0];
      run.notes.push_back(fmt::format("the file does not name its test; busbw / algbw is that of {}", name));
    }
  }
  if (name.empty()) {
    name = "unknown";
    run.notes.push_back(
        "the file does not name its test and its bandwidths fit several: busbw is as printed; give "
        "--collective");
  }
  for (PrintedRow& printed : rows)
    if (printed.row.test.empty()) printed.row.test = name;
}

}  // namespace

double bus_factor(std::string_view collective, int num_ranks) {
  if (num_ranks < 1) return 0;
  const double n = num_ranks;
  if (collective == "all_reduce") return 2 * (n - 1) / n;
  for (const std::string_view name : {"all_gather", "reduce_scatter", "alltoall", "alltoallv", "gather", "scatter"})
    if (collective == name) return (n - 1) / n;
  for (const std::string_view name : {"broadcast", "reduce", "sendrecv"})
    if (collective == name) return 1;
  return 0;
}

void check_rows(ImportedRun& run, std::vector<PrintedRow> rows, const ImportOptions& options) {
  if (run.num_ranks == 0) run.num_ranks = options.num_ranks;
  if (run.num_nodes == 0) run.num_nodes = options.num_nodes;
  if (run.num_ranks == 0 && !rows.empty())
    run.notes.push_back("the file does not say how many ranks there were: busbw is as printed; give --ranks");
  if (std::any_of(rows.begin(), rows.end(), [](const PrintedRow& printed) { return printed.row.test.empty(); }))
    name_the_collective(run, rows, options);
  if (run.num_ranks == 1 && run.tool == "nccl-tests" && !rows.empty())
    run.notes.push_back("one rank alone: nothing was sent. nccl-tests joins processes only if it was built with MPI=1");
  bool old_definition = false;
  for (PrintedRow& printed : rows) {
    const std::string reason = why_rejected(printed, run.num_ranks, &old_definition);
    if (reason.empty())
      run.rows.push_back(std::move(printed.row));
    else
      run.rejected.push_back({printed.row.line, reason});
  }
  if (old_definition)
    run.notes.push_back("algbw is by the definition before June 2020; here it is bytes / time, as it is now");
  std::stable_sort(run.rejected.begin(), run.rejected.end(),
                   [](const RejectedRow& a, const RejectedRow& b) { return a.line < b.line; });
}

std::string collective_of_program(std::string_view program) {
  const size_t slash = program.find_last_of("/\\");
  if (slash != std::string_view::npos) program.remove_prefix(slash + 1);
  const size_t perf = program.find("_perf");
  if (perf == std::string_view::npos) return "";
  const std::string name(program.substr(0, perf));
  static const std::set<std::string> kKnown = {"all_reduce", "all_gather", "reduce_scatter", "alltoall",
                                               "alltoallv",  "broadcast",  "reduce",         "gather",
                                               "scatter",    "sendrecv",   "hypercube"};
  return kKnown.count(name) > 0 ? name : "";
}

std::string nccl_version_text(int64_t code) {
  if (code <= 0 || code > 1'000'000) return "";
  const int64_t major = code >= 10000 ? code / 10000 : code / 1000;
  const int64_t minor = code >= 10000 ? code % 10000 / 100 : code % 1000 / 100;
  return fmt::format("{}.{}.{}", major, minor, code % 100);
}

bool is_kept_variable(std::string_view name) {
  for (const std::string_view prefix : {"NCCL_", "UCX_", "FI_", "SLURM_"})
    if (starts_with(name, prefix)) return true;
  return false;
}

// "AllReduce: 4096 Bytes -> Algo Tree proto LL channel{Lo..Hi}={0..3}", and before 2.24
// "4096 Bytes -> Algo 0 proto 0 time 25.214764" (src/enqueue.cc).
std::optional<ChosenAlgorithm> chosen_algorithm(std::string_view message) {
  static constexpr const char* kAlgorithms[] = {"tree",      "ring", "collnet_direct", "collnet_chain", "nvls",
                                                "nvls_tree", "pat"};
  static constexpr const char* kProtocols[] = {"ll", "ll128", "simple"};
  const std::vector<Word> words = words_of(message);
  for (size_t i = 1; i + 5 < words.size(); ++i) {
    if (words[i].text != "Bytes" || words[i + 1].text != "->" || words[i + 2].text != "Algo") continue;
    if (words[i + 4].text != "proto") return std::nullopt;
    const auto bytes = whole_number(words[i - 1].text);
    if (!bytes) return std::nullopt;
    ChosenAlgorithm chosen{
        .algorithm = lower(words[i + 3].text), .protocol = lower(words[i + 5].text), .bytes = *bytes};
    if (const auto a = whole_number(chosen.algorithm); a && *a >= 0 && *a < 7) chosen.algorithm = kAlgorithms[*a];
    if (const auto p = whole_number(chosen.protocol); p && *p >= 0 && *p < 3) chosen.protocol = kProtocols[*p];
    if (chosen.algorithm == "nvlstree") chosen.algorithm = "nvls_tree";
    if (chosen.algorithm == "collnetdirect") chosen.algorithm = "collnet_direct";
    if (chosen.algorithm == "collnetchain") chosen.algorithm = "collnet_chain";
    if (i >= 2 && words[i - 2].text.back() == ':') {
      static const std::pair<const char*, const char*> kNames[] = {{"allreduce:", "all_reduce"},
                                                                   {"allgather:", "all_gather"},
                                                                   {"reducescatter:", "reduce_scatter"},
                                                                   {"broadcast:", "broadcast"},
                                                                   {"reduce:", "reduce"}};
      for (const auto& [logged, name] : kNames)
        if (lower(words[i - 2].text) == logged) chosen.collective = name;
    }
    if (i + 6 < words.size()) {
      const std::string_view range = words[i + 6].text;  // channel{Lo..Hi}={0..3}
      const size_t open = range.rfind('{'), dots = range.rfind("..");
      if (starts_with(range, "channel") && open != std::string_view::npos && dots != std::string_view::npos &&
          dots > open && range.back() == '}') {
        const auto low = whole_number(range.substr(open + 1, dots - open - 1));
        const auto high = whole_number(range.substr(dots + 2, range.size() - dots - 3));
        if (low && high && *low >= 0 && *high >= *low && *high < 1024)
          chosen.num_channels = static_cast<int>(*high - *low + 1);
      }
    }
    return chosen;
  }
  return std::nullopt;
}

}  // namespace lane::net
