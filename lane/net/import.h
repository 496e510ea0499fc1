#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lane/base/json.h"

namespace lane::net {

// One measured line, whatever tool printed it. Definitions are in docs/measuring.md; 0 is "the tool does not say".
struct ImportedRow {
  std::string
      test;  // what was timed: all_reduce, all_gather, ib_write_bw, osu_latency, device_to_device_memcpy_read_ce
  std::string type, redop;
  int64_t bytes = 0, count = 0;
  bool in_place = false;
  double time_us = 0;                             // of one call: the mean, of OSU and Lane their own
  double algbw_gb_per_s = 0, busbw_gb_per_s = 0;  // recomputed from bytes, time and ranks
  double min_us = 0, p50_us = 0, p95_us = 0, p99_us = 0, max_us = 0;  // of single calls
  std::vector<double> samples_us;                                     // single calls, in their order
  int64_t num_wrong = -1;                                             // elements; -1: results were not looked at
  std::string variant;  // what else tells two rows of one size apart: Lane's algorithm, a cell of a matrix
  int line = 0;         // of the file, from 1; of JSON the place in its list, from 1
};

// A line that looked like a result and is not taken for one.
struct RejectedRow {
  int line = 0;
  std::string reason;
};

// NCCL's own word, from its TUNING log: proof of what was measured. `bytes` are of count x type as NCCL logs them.
struct ChosenAlgorithm {
  std::string collective, algorithm, protocol;
  int64_t bytes = 0;
  int num_channels = 0;  // 0: not logged
  bool operator==(const ChosenAlgorithm&) const = default;
};

// One table of results and the circumstances that the tool printed with it.
struct ImportedRun {
  std::string source;  // the file
  std::string tool;    // nccl-tests, osu, perftest, nvbandwidth, lane
  std::string version, nccl_version;
  int num_ranks = 0, num_nodes = 0;  // 0: not said
  std::vector<std::string> gpus;     // kinds, each once
  std::string memory;                // "gpu" if perftest or OSU say that buffers were there
  // Of the tool's environment only what NCCL, UCX, libfabric and Slurm read: nccl-tests dumps all of it, secrets too.
  std::map<std::string, std::string> environment;
  std::vector<ChosenAlgorithm> chosen;
  std::vector<ImportedRow> rows;
  std::vector<RejectedRow> rejected;
  std::vector<std::string> failures;  // what the tool itself says went wrong
  std::vector<std::string> notes;     // what the reader should know about this table
};

struct ImportOptions {
  std::string format = "auto";  // or one of import_formats()
  int num_ranks = 0;            // where the file does not say
  int num_nodes = 0;
  std::string collective;  // where the file does not say: all_reduce, all_gather, ...
};

const std::vector<std::string>& import_formats();

// Reads what nccl-tests (text of all its column layouts, JSON), OSU's benchmarks, perftest, nvbandwidth or Lane
// printed, with the prefixes and log lines that launchers and NCCL leave in it. Bandwidths are worked out again from
// bytes and time; a row whose printed ones are off by more than 2 %, beyond what rounding explains, is rejected.
// Error{kCorruptData} if nothing in `text` is a result.
std::vector<ImportedRun> import_results(std::string_view text, const std::string& where,
                                        const ImportOptions& options = {});

// busbw / algbw as nccl-tests defines it (doc/PERFORMANCE.md there); 0 if `collective` is none that it knows.
double bus_factor(std::string_view collective, int num_ranks);

// "schema" 1; import_results() reads it again, as a baseline.
Json to_json(const std::vector<ImportedRun>& runs);

}  // namespace lane::net
