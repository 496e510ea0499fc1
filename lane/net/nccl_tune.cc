#include "lane/net/nccl_tune.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <set>
#include <tuple>

#include "lane/base/error.h"
#include "lane/net/measurement.h"

namespace lane::net {
namespace {

constexpr int64_t kInferenceMost = int64_t{8192} * 8192 * 2, kTrainingLeast = 1 << 20;
constexpr int kFewestForSigma = 3;  // runs; fewer say nothing about their spread

struct GroupKey {
  std::string collective, type;
  int num_ranks = 0, num_nodes = 0;
  auto operator<=>(const GroupKey&) const = default;
};

using Times = std::map<int64_t, std::map<NcclSetting, std::vector<double>>>;  // by bytes: one value a run

struct Sweep {
  std::map<GroupKey, Times> times;
  // What ran by NCCL's own word: by collective, ranks' setting and bytes.
  std::map<std::tuple<std::string, NcclSetting, int64_t>, ChosenAlgorithm> proof;
};

// "ring_ll" of "all_reduce.ring_ll.sweep.r1.json"; nothing if its name is of another form.
std::optional<NcclSetting> setting_of_name(const std::string& name) {
  const size_t first = name.find('.');
  if (first == std::string::npos) return std::nullopt;
  const std::string part = name.substr(first + 1, name.find('.', first + 1) - first - 1);
  try {
    return parse_nccl_setting(part);
  } catch (const Error&) {
    return std::nullopt;
  }
}

// By what the environment forced. A list, or a form for one collective only, is no single setting.
std::optional<NcclSetting> setting_of_environment(const ImportedRun& run, std::string* why) {
  const auto value = [&](const char* name) {
    const auto at = run.environment.find(name);
    return at == run.environment.end() ? std::string() : at->second;
  };
  const std::string algorithm = value("NCCL_ALGO"), protocol = value("NCCL_PROTO");
  if (run.environment.count("NCCL_TUNER_CONFIG_FILE") > 0) {
    *why = "a tuner plugin was on; its setting must be in the file's name";
    return std::nullopt;
  }
  NcclSetting setting;
  if (algorithm.empty() && protocol.empty()) return setting;
  setting.algorithm = algorithm_of_token(algorithm), setting.protocol = protocol_of_token(protocol);
  if (setting.algorithm.empty() || setting.protocol.empty()) {
    *why = fmt::format("NCCL_ALGO={} and NCCL_PROTO={} are not one algorithm and one protocol", algorithm, protocol);
    return std::nullopt;
  }
  const std::string least = value("NCCL_MIN_CTAS"), most = value("NCCL_MAX_CTAS");
  if (!most.empty() && least == most && most.size() < 4 && most.find_first_not_of("0123456789") == std::string::npos)
    setting.num_channels = std::stoi(most);
  return setting;
}

// The setting of a run, or why there is none. The name and the environment must not contradict each other.
std::optional<NcclSetting> setting_of(const SweepFile& file, const ImportedRun& run, std::string* why) {
  const std::optional<NcclSetting> named = setting_of_name(file.name);
  if (run.environment.empty()) {  // a text log: it does not tell its environment
    if (!named)
      *why =
          "nothing says which setting it is of: name it COLLECTIVE.SETTING.rREPEAT, such as "
          "all_reduce.default.r1.log";
    return named;
  }
  std::string why_not;
  const std::optional<NcclSetting> told = setting_of_environment(run, &why_not);
  if (!named) {
    *why = why_not;
    return told;
  }
  if (told && *told != *named) {
    *why = fmt::format("its name says {}, but its environment {}", name_of(*named), name_of(*told));
    return std::nullopt;
  }
  return named;
}

void collect_proof(Sweep& sweep, const NcclSetting& setting, const ImportedRun& run) {
  for (const ChosenAlgorithm& chosen : run.chosen) {
    // NCCL logs count x type, of a gather and a scatter that of one rank: nccl-tests' size is that of all.
    const bool of_all = chosen.collective == "all_gather" || chosen.collective == "reduce_scatter";
    const int64_t bytes = chosen.bytes * (of_all ? std::max(run.num_ranks, 1) : 1);
    sweep.proof[{chosen.collective, setting, bytes}] = chosen;
  }
}

void collect_times(Sweep& sweep, const NcclSetting& setting, const ImportedRun& run, const NcclTuneOptions& options) {
  const bool has_out =
      std::any_of(run.rows.begin(), run.rows.end(), [](const ImportedRow& row) { return !row.in_place; });
  for (const ImportedRow& row : run.rows) {
    if (row.time_us <= 0 || row.bytes < options.min_bytes || row.bytes > options.max_bytes || row.bytes == 0) continue;
    if (has_out && row.in_place) continue;
    if (tuner_collective(row.test).empty()) continue;
    sweep.times[{row.test, row.type, run.num_ranks, run.num_nodes}][row.bytes][setting].push_back(row.time_us);
  }
}

Sweep collect(const std::vector<SweepFile>& files, const NcclTuneOptions& options, NcclTuning& tuning) {
  Sweep sweep;
  for (const SweepFile& file : files) {
    const bool is_proof = file.name.find(".proof.") != std::string::npos;
    for (const ImportedRun& run : file.runs) {
      if (run.tool == "lane") {
        for (const ImportedRow& row : run.rows)
          if (row.test == "all_reduce")
            tuning.others.push_back({row.bytes, run.num_ranks, "lane " + row.variant, row.time_us});
        continue;
      }
      std::string why;
      const std::optional<NcclSetting> setting = setting_of(file, run, &why);
      if (!setting) {
        tuning.notes.push_back(fmt::format("{}: left out: {}", file.name, why));
        continue;
      }
      collect_proof(sweep, *setting, run);
      if (is_proof || run.rows.empty()) continue;
      if (run.num_ranks == 0) {
        tuning.notes.push_back(file.name + ": left out: it does not say how many ranks there were");
        continue;
      }
      if (!run.rejected.empty())
        tuning.notes.push_back(fmt::format("{}: {} rows rejected, line {}: {}", file.name, run.rejected.size(),
                                           run.rejected[0].line, run.rejected[0].reason));
      for (const std::string& failure : run.failures) tuning.notes.push_back(file.name + ": " + failure);
      if (run.failures.empty()) collect_times(sweep, *setting, run, options);
    }
  }
  return sweep;
}

SettingTime time_of(const NcclSetting& setting, std::vector<double> runs, double stated_noise) {
  SettingTime time{.setting = setting, .num_runs = static_cast<int>(runs.size())};
  std::sort(runs.begin(), runs.end());
  time.median_us = percentile_of_sorted(runs, 0.5);
  time.sigma = stated_noise > 0 ? stated_noise : -1;
  if (time.num_runs < kFewestForSigma) return time;
  const double mean = std::accumulate(runs.begin(), runs.end(), 0.0) / time.num_runs;
  double squares = 0;
  for (const double run : runs) squares += (run - mean) * (run - mean);
  time.sigma = std::sqrt(squares / (time.num_runs - 1)) / time.median_us;
  return time;
}

// What a gain over the default must exceed: 2 sigma of the difference of two runs, as a share of the default's time.
double bound_of(const SettingTime& standard, const SettingTime& forced, double min_gain) {
  const double of_forced = forced.sigma * forced.median_us / standard.median_us;
  return std::max(min_gain, 2 * std::sqrt(standard.sigma * standard.sigma + of_forced * of_forced));
}

void judge(TunedSize& size, double min_gain) {
  if (size.forced.empty()) {
    size.why = "no forced setting was measured";
    return;
  }
  const SettingTime& best = size.forced[0];
  size.gain = 1 - best.median_us / size.standard.median_us;
  if (size.standard.sigma < 0 || best.sigma < 0) {
    size.why = fmt::format("noise is not known ({} and {} runs; {} each say it, or --noise)", size.standard.num_runs,
                           best.num_runs, kFewestForSigma);
    return;
  }
  size.bound = bound_of(size.standard, best, min_gain);
  if (size.gain <= size.bound) {
    size.why = size.gain <= 0 ? "nothing is faster" : "not faster beyond noise";
    return;
  }
  for (const SettingTime& each : size.forced) {
    if (each.sigma < 0) continue;
    const double bound = bound_of(size.standard, each, min_gain);
    const bool beats_default = 1 - each.median_us / size.standard.median_us > bound;
    const bool is_near_best = 1 - best.median_us / each.median_us <= std::max(min_gain, bound_of(each, best, min_gain));
    if (beats_default && is_near_best) size.accepted.push_back(each.setting);
  }
  size.chosen = best.setting;
}

// The last size from `begin` on at which one setting is still accepted by all, and the one that is faster in sum.
size_t extend(const std::vector<TunedSize>& sizes, size_t begin, NcclSetting* common) {
  std::vector<NcclSetting> left = sizes[begin].accepted;
  size_t end = begin + 1;
  for (; end < sizes.size() && !left.empty(); ++end) {
    std::vector<NcclSetting> both;
    for (const NcclSetting& each : left)
      if (std::find(sizes[end].accepted.begin(), sizes[end].accepted.end(), each) != sizes[end].accepted.end())
        both.push_back(each);
    if (both.empty()) break;
    left = both;
  }
  double best = 0;
  for (const NcclSetting& each : left) {
    double sum = 0;  // of logarithms: each size counts alike
    for (size_t i = begin; i < end; ++i)
      for (const SettingTime& time : sizes[i].forced)
        if (time.setting == each) sum += std::log(time.median_us);
    if (common->is_default() || sum < best) *common = each, best = sum;
  }
  return end;
}

// Between two measured sizes the line is drawn in the middle of the logarithms; nothing is said beyond them.
void join(TunedGroup& group) {
  std::vector<TunedSize>& sizes = group.sizes;
  const auto middle = [&](size_t i) {  // between i - 1 and i
    return static_cast<int64_t>(
        std::sqrt(static_cast<double>(sizes[i - 1].bytes) * static_cast<double>(sizes[i].bytes)));
  };
  for (size_t begin = 0; begin < sizes.size();) {
    if (sizes[begin].accepted.empty()) {
      ++begin;
      continue;
    }
    NcclSetting setting;
    const size_t end = extend(sizes, begin, &setting);
    for (size_t i = begin; i < end; ++i) {
      if (sizes[i].chosen != setting) sizes[i].why = "as good as the best, and one range with its neighbours";
      sizes[i].chosen = setting;
    }
    group.ranges.push_back({begin == 0 ? sizes[0].bytes : middle(begin) + 1,
                            end == sizes.size() ? sizes[end - 1].bytes : middle(end), setting});
    begin = end;
  }
}

double best_of(const TunedSize& size, const char* algorithm) {
  double best = 0;
  for (const SettingTime& time : size.forced)
    if (time.setting.algorithm == algorithm && (best == 0 || time.median_us < best)) best = time.median_us;
  return best;
}

void find_crossing(TunedGroup& group) {
  for (auto size = group.sizes.rbegin(); size != group.sizes.rend(); ++size) {
    const double ring = best_of(*size, "ring"), tree = best_of(*size, "tree");
    if (ring == 0 || tree == 0) continue;
    group.has_ring_and_tree = true;
    if (ring >= tree) return;
    group.ring_from_bytes = size->bytes;
  }
}

std::string what_ran(const Sweep& sweep, const std::string& collective, const NcclSetting& setting, int64_t bytes) {
  auto at = sweep.proof.find({collective, setting, bytes});
  if (at == sweep.proof.end()) at = sweep.proof.find({"", setting, bytes});
  return at == sweep.proof.end() ? "" : at->second.algorithm + "/" + at->second.protocol;
}

TunedSize tune_size(const Sweep& sweep, const GroupKey& key, int64_t bytes,
                    const std::map<NcclSetting, std::vector<double>>& times, const NcclTuneOptions& options,
                    NcclTuning& tuning) {
  TunedSize size{.bytes = bytes};
  size.standard = time_of({}, times.at({}), options.noise);
  size.standard_ran = what_ran(sweep, key.collective, {}, bytes);
  for (const auto& [setting, runs] : times) {
    if (setting.is_default()) continue;
    const std::string ran = what_ran(sweep, key.collective, setting, bytes);
    if (!ran.empty() && ran != setting.algorithm + "/" + setting.protocol) {
      tuning.notes.push_back(
          fmt::format("{} {} B, {}: left out: NCCL ran {}", key.collective, bytes, name_of(setting), ran));
      continue;
    }
    size.forced.push_back(time_of(setting, runs, options.noise));
  }
  std::stable_sort(size.forced.begin(), size.forced.end(),
                   [](const SettingTime& a, const SettingTime& b) { return a.median_us < b.median_us; });
  judge(size, options.min_gain);
  return size;
}

}  // namespace

NcclTuneOptions sizes_of_mode(const std::string& mode) {
  if (mode == "inference") return {.max_bytes = kInferenceMost};
  if (mode == "training") return {.min_bytes = kTrainingLeast};
  return {};
}

NcclTuning tune_nccl(const std::vector<SweepFile>& files, const NcclTuneOptions& options) {
  NcclTuning tuning;
  const Sweep sweep = collect(files, options, tuning);
  bool has_default = false;
  for (const auto& [key, times] : sweep.times) {
    TunedGroup group{
        .collective = key.collective, .type = key.type, .num_ranks = key.num_ranks, .num_nodes = key.num_nodes};
    for (const auto& [bytes, of_settings] : times) {
      if (of_settings.count({}) == 0) continue;
      group.sizes.push_back(tune_size(sweep, key, bytes, of_settings, options, tuning));
    }
    if (group.sizes.empty()) {
      tuning.notes.push_back(fmt::format("{} among {} ranks: left out: NCCL's own choice was not measured",
                                         key.collective, key.num_ranks));
      continue;
    }
    has_default = true;
    join(group);
    find_crossing(group);
    tuning.groups.push_back(std::move(group));
  }
  if (!has_default) {
    std::string words =
        "--from: no times of NCCL's own choice (default) among the sizes asked for: nothing to compare with";
    for (size_t i = 0; i < tuning.notes.size() && i < 5; ++i) words += "\n  " + tuning.notes[i];
    throw Error(ErrorCode::kInvalidArgument, words);
  }
  return tuning;
}

std::vector<OtherTime> others_of(const TuningTable& table) {
  std::vector<OtherTime> others;
  for (const TuningEntry& entry : table.entries()) {
    const TuningRow* row = entry.find(plan::Collective::kAllReduce, 2);
    if (row == nullptr) continue;
    std::map<int64_t, OtherTime> best;
    const int num_ranks = std::accumulate(entry.ranks_per_node.begin(), entry.ranks_per_node.end(), 0);
    for (const TuningCurve& curve : row->curves)
      for (const TuningPoint& point : curve.points) {
        OtherTime& other = best[point.bytes];
        if (other.median_us > 0 && other.median_us <= point.median_s * 1e6) continue;
        other = {point.bytes, num_ranks, "lane " + curve.algorithm, point.median_s * 1e6};
      }
    for (const auto& [bytes, other] : best) others.push_back(other);
  }
  return others;
}

}  // namespace lane::net
