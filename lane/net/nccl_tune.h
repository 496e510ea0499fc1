#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lane/comm/tuning.h"
#include "lane/net/import.h"
#include "lane/net/nccl_setting.h"

namespace lane::net {

struct NcclTuneOptions {
  int64_t min_bytes = 0, max_bytes = INT64_MAX;  // sizes to consider
  double min_gain = 0.03;                        // what is less is not worth a setting
  double noise = 0;  // sigma of a run's time over it, where a setting was run once only; 0: not stated
};

// The sizes of --mode. inference: up to 8192 tokens of 8192 x 2 bytes, the prompt chunk of a large model; training:
// from 1 MiB, below the buckets that gradients come in. Any other word: all sizes.
NcclTuneOptions sizes_of_mode(const std::string& mode);

// A file of a sweep. `name` is what follows the last '/': its second part says the setting,
// "all_reduce.ring_ll.r1.json"; a name without one is read by NCCL_ALGO and NCCL_PROTO of the file's environment. Names
// with ".proof." hold no times.
struct SweepFile {
  std::string name;
  std::vector<ImportedRun> runs;
};

// What a setting took at one size, over its runs.
struct SettingTime {
  NcclSetting setting;
  double median_us = 0, sigma = 0;  // sigma: standard deviation of a run's time over the median; < 0: not known
  int num_runs = 0;
};

struct TunedSize {
  int64_t bytes = 0;
  SettingTime standard;               // NCCL's own choice
  std::string standard_ran;           // "tree/ll" if a log proves it
  std::vector<SettingTime> forced;    // the fastest first
  std::vector<NcclSetting> accepted;  // those that may be set here: faster beyond noise, and as good as the best
  NcclSetting chosen;
  double gain = 0, bound = 0;  // of the best: 1 - its time / the default's, and what that had to exceed
  std::string why;
};

// One line of the table for NCCL: sizes that take one setting.
struct TunedRange {
  int64_t min_bytes = 0, max_bytes = 0;
  NcclSetting setting;
};

// One collective among one number of ranks.
struct TunedGroup {
  std::string collective, type;
  int num_ranks = 0, num_nodes = 0;
  std::vector<TunedSize> sizes;    // ascending
  std::vector<TunedRange> ranges;  // only those that differ from NCCL's own choice
  // Where ring overtakes tree, each with its best protocol: the first size from which on ring is the faster one at all
  // sizes measured. 0: it never does; the smallest size: it always is.
  bool has_ring_and_tree = false;
  int64_t ring_from_bytes = 0;
};

// Lane's or another library's time at a size, to stand beside.
struct OtherTime {
  int64_t bytes = 0;
  int num_ranks = 0;
  std::string name;
  double median_us = 0;
};

struct NcclTuning {
  std::vector<TunedGroup> groups;
  std::vector<OtherTime> others;
  std::vector<std::string> notes;  // what was left out, and why
};

// Chooses at each size the fastest setting that beats NCCL's own choice by more than max(min_gain, 2 sigma), where
// sigma is that of the difference of two runs; else, and where noise is not known, NCCL's own choice stays.
// Neighbouring sizes are joined as far as one setting is accepted at all of them. Error{kInvalidArgument} if there is
// no default to compare with.
NcclTuning tune_nccl(const std::vector<SweepFile>& files, const NcclTuneOptions& options);

// All-reduces that `lane tune collectives` measured, as times to stand beside: the fastest algorithm of 16-bit types.
std::vector<OtherTime> others_of(const TuningTable& table);

std::string tuner_csv(const NcclTuning& tuning);
// Shell scripts that switch the table on and off again. `csv_path`, `plugin`: as the job will see them.
std::string tuner_environment(const NcclTuning& tuning, const std::string& csv_path, const std::string& plugin);
std::string tuner_undo();

std::string tuning_text(const NcclTuning& tuning);
Json to_json(const NcclTuning& tuning);

}  // namespace lane::net
