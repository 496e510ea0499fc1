#pragma once
#include <map>
#include <set>
#include <string>
#include <vector>

#include "lane/net/all_reduce_report.h"
#include "lane/net/device_bench.h"

namespace lane::net {

// Where and how a benchmark on GPUs ran.
struct DeviceRunInfo {
  RunInfo run;  // its options are not used
  DeviceMachine machine;
  DeviceBenchOptions options;
};

std::string device_header_text(const DeviceRunInfo& info);

// The table as text, in microseconds: a column for each candidate, a line for each size and way of measuring. Lines
// that begin with # say what the columns are and why a candidate has no time.
class DeviceTable {
 public:
  std::string text_of(const std::vector<AllReduceRow>& rows);  // of one size or shape

 private:
  std::string line_of(const std::vector<const AllReduceRow*>& rows, bool alone) const;

  std::vector<std::string> columns_;  // of the last heading
  std::set<std::string> reasons_;     // said already
};

Json device_run_to_json(const DeviceRunInfo& info, const std::vector<AllReduceRow>& rows);

}  // namespace lane::net
