#pragma once
#include <string>
#include <vector>

#include "lane/net/all_reduce_bench.h"

namespace lane::net {

// Where and how a benchmark ran.
struct RunInfo {
  std::string version, command;
  int num_ranks = 0;
  bool own_cores = false;  // each rank on a core of its own
  std::vector<int> ranks_per_node;
  TuningHardware hardware;
  std::string hostname;
  AllReduceOptions options;
};
RunInfo describe_run(const Communicator& group, const AllReduceOptions& options, bool own_cores);

// The table as text: lines that begin with # say what the columns are, the rest is numbers.
std::string header_text(const RunInfo& info);
std::string row_text(const RunInfo& info, const AllReduceRow& row);
std::string footer_text(const std::vector<AllReduceRow>& rows);

// How many rows show a sum that is wrong or differs between ranks.
int count_bad(const std::vector<AllReduceRow>& rows);

Json run_to_json(const RunInfo& info, const std::vector<AllReduceRow>& rows);

// The chart of runs as run_to_json() wrote them; a library that took part in several is drawn once.
std::string chart_of_runs(const Json& runs);

}  // namespace lane::net
