#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lane/net/import.h"

namespace lane::net {

// A figure that somebody published for a kind of machine, and where. Fields that are 0 or empty match anything.
struct Threshold {
  std::string platform, title, test;
  std::string
      metric;  // busbw_gb_per_s, busbw_gb_per_s_per_nic, bandwidth_gbit_per_s, bandwidth_gb_per_s, time_us, p99_us
  int num_nodes = 0, num_ranks = 0;
  int64_t min_bytes = 0, max_bytes = 0;
  std::string algorithm;                           // it holds for this one only: nvls, ring
  std::string memory;                              // gpu or host, where the tool says which
  std::map<std::string, std::string> environment;  // variables that must have been set so
  double at_least = 0, at_most = 0;                // one of the two
  std::string source;
};

// lane/net/thresholds.json, which is part of the program.
std::vector<Threshold> shipped_thresholds();

// Strict: Error{kCorruptData} naming the entry and the field. "schema" is 1.
std::vector<Threshold> parse_thresholds(std::string_view text, const std::string& where);

enum class Health {
  kPass,
  kFail,
  kUnknown,     // something fits, but what is needed to judge it is not known
  kNotMeasured  // nothing fits
};

struct HealthCheck {
  Threshold threshold;
  Health health = Health::kNotMeasured;
  double measured = 0;  // the median of repeats at the largest size that fits; of a matrix its worst cell
  int64_t bytes = 0;
  std::string variant, why;  // the worst cell; what is missing
};

// One check for each threshold of `platform`. `num_nics`: of a node, for figures per NIC; 0: not known. Runs that
// forced NCCL (NCCL_ALGO, NCCL_PROTO, NCCL_P2P_DISABLE, NCCL_SHM_DISABLE) count only where the threshold asks for that.
std::vector<HealthCheck> check_health(const std::vector<ImportedRun>& runs, const std::vector<Threshold>& thresholds,
                                      const std::string& platform, int num_nics);

std::vector<std::string> platforms_of(const std::vector<Threshold>& thresholds);

}  // namespace lane::net
