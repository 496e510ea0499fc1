#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "lane/base/units.h"
#include "lane/net/nccl_tune.h"

namespace lane::net {
namespace {

// The same word in a shell, whatever it holds.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string bytes_text(int64_t bytes) { return format_bytes(static_cast<double>(bytes)); }

std::string words_for(const NcclSetting& setting) {
  if (setting.is_default()) return "default";
  std::string text = setting.algorithm + "/" + setting.protocol;
  if (setting.num_channels > 0) text += fmt::format(" {} channels", setting.num_channels);
  return text;
}

std::string group_text(const TunedGroup& group) {
  return fmt::format("{} of {} among {} ranks{}", group.collective, group.type, group.num_ranks,
                     group.num_nodes > 0
                         ? fmt::format(" on {} node{}", group.num_nodes, group.num_nodes == 1 ? "" : "s")
                         : std::string());
}

const OtherTime* other_at(const NcclTuning& tuning, const TunedGroup& group, int64_t bytes) {
  const OtherTime* best = nullptr;
  for (const OtherTime& other : tuning.others)
    if (group.collective == "all_reduce" && other.bytes == bytes && other.num_ranks == group.num_ranks &&
        (best == nullptr || other.median_us < best->median_us))
      best = &other;
  return best;
}

std::string sigma_text(const SettingTime& time) {
  return time.sigma < 0 ? "?" : fmt::format("{:.1f} %", 100 * time.sigma);
}

std::string table_of(const NcclTuning& tuning, const TunedGroup& group) {
  const bool has_other = std::any_of(group.sizes.begin(), group.sizes.end(), [&](const TunedSize& size) {
    return other_at(tuning, group, size.bytes) != nullptr;
  });
  std::string text = fmt::format("{:>11} {:>11} {:>7}  {:<18} {:>11}  {:<24} {:>7} {:>7}  ", "size", "default", "sigma",
                                 "ran", "fastest", "forced to", "faster", "needed");
  text += has_other ? fmt::format("{:>11}  {:<20}  take\n", "beside it", "") : "take\n";
  for (const TunedSize& size : group.sizes) {
    const SettingTime* best = size.forced.empty() ? nullptr : &size.forced[0];
    text += fmt::format("{:>11} {:>8.2f} us {:>7}  {:<18} ", bytes_text(size.bytes), size.standard.median_us,
                        sigma_text(size.standard), size.standard_ran.empty() ? "not logged" : size.standard_ran);
    text += best == nullptr
                ? fmt::format("{:>11}  {:<24} {:>7} {:>7}  ", "", "", "", "")
                : fmt::format("{:>8.2f} us  {:<24} {:>5.1f} % {:>7}  ", best->median_us, words_for(best->setting),
                              100 * size.gain, size.bound > 0 ? fmt::format("{:.1f} %", 100 * size.bound) : "?");
    if (has_other) {
      const OtherTime* other = other_at(tuning, group, size.bytes);
      text += other == nullptr ? fmt::format("{:>11}  {:<20}  ", "", "")
                               : fmt::format("{:>8.2f} us  {:<20}  ", other->median_us, other->name);
    }
    text += words_for(size.chosen) + (size.why.empty() ? "\n" : " (" + size.why + ")\n");
  }
  return text;
}

// "Ring or tree?", answered by what was measured here.
std::string crossing_text(const TunedGroup& group) {
  if (!group.has_ring_and_tree) return "";
  std::string text = "ring or tree, each with its best protocol: ";
  if (group.ring_from_bytes == 0)
    text += "tree is the faster one up to the largest size measured.";
  else if (group.ring_from_bytes == group.sizes.front().bytes)
    text += "ring is the faster one at all sizes measured.";
  else
    text += fmt::format("here tree is the faster one somewhere below {0}, and ring at all sizes from {0} on.",
                        bytes_text(group.ring_from_bytes));
  return text +
         " It holds for these ranks on this network; advice that names one of the two for all sizes is wrong for "
         "some.\n";
}

}  // namespace

// Narrower tables first, as the first line that fits is taken; a type is not in NCCL's question, so lines of several
// types for the same ranks would contradict each other: the first type measured stays.
std::string tuner_csv(const NcclTuning& tuning) {
  std::string text =
      "# Made by `lane tune nccl` from measurements on this cluster: only what beats NCCL's own choice beyond noise.\n"
      "# For liblane-nccl-tuner.so. NVIDIA's example plugin reads it too, but puts every call that no line names, and\n"
      "# lines with channels -1, on one channel (plugins/tuner/example/plugin.c of 2.30.7: *nChannels = 1).\n"
      "# collective_type,min_bytes,max_bytes,algorithm,protocol,channels,nNodes,nRanks,numPipeOps,regBuff\n";
  std::map<std::tuple<std::string, int, int>, std::string> type_of;
  for (const TunedGroup& group : tuning.groups) {
    const auto [at, is_new] =
        type_of.emplace(std::tuple(group.collective, group.num_nodes, group.num_ranks), group.type);
    if (!is_new && at->second != group.type) continue;
    for (const TunedRange& range : group.ranges)
      text += fmt::format("{},{},{},{},{},{},{},{},-1,-1\n", tuner_collective(group.collective), range.min_bytes,
                          range.max_bytes, range.setting.algorithm, range.setting.protocol,
                          range.setting.num_channels > 0 ? range.setting.num_channels : -1,
                          group.num_nodes > 0 ? group.num_nodes : -1, group.num_ranks);
  }
  return text;
}

std::string tuner_environment(const NcclTuning& tuning, const std::string& csv_path, const std::string& plugin) {
  std::string text =
      "# To be read by a shell (source FILE) before the job starts, on every node. Made by `lane tune nccl`.\n";
  const bool is_empty =
      std::all_of(tuning.groups.begin(), tuning.groups.end(), [](const TunedGroup& g) { return g.ranges.empty(); });
  if (is_empty) return text + "# NCCL's own choice was not beaten beyond noise at any size: there is nothing to set.\n";
  text +=
      "# Undo: source nccl_undo.sh. Nothing else is set: NCCL_ALGO and NCCL_PROTO stay unset, as they would hold for "
      "all\n"
      "# sizes.\n";
  for (const TunedGroup& group : tuning.groups)
    for (const TunedRange& range : group.ranges)
      text += fmt::format("#   {}: {} to {}: {}\n", group_text(group), bytes_text(range.min_bytes),
                          bytes_text(range.max_bytes), words_for(range.setting));
  text += fmt::format("export NCCL_TUNER_PLUGIN={}\n", quoted(plugin));
  text += fmt::format("export NCCL_TUNER_CONFIG_FILE={}\n", quoted(csv_path));
  return text;
}

std::string tuner_undo() {
  return "# The undo of nccl_env.sh: NCCL chooses by itself again.\n"
         "unset NCCL_TUNER_PLUGIN NCCL_TUNER_CONFIG_FILE\n";
}

std::string tuning_text(const NcclTuning& tuning) {
  std::string text;
  for (const TunedGroup& group : tuning.groups) {
    text += group_text(group) + "\n" + table_of(tuning, group) + crossing_text(group);
    if (group.ranges.empty()) text += "NCCL's own choice stays at all sizes.\n";
    for (const TunedRange& range : group.ranges)
      text += fmt::format("from {} to {}: {}\n", bytes_text(range.min_bytes), bytes_text(range.max_bytes),
                          words_for(range.setting));
    text += "\n";
  }
  for (const std::string& note : tuning.notes) text += "note: " + note + "\n";
  return text;
}

Json to_json(const NcclTuning& tuning) {
  const auto time_json = [](const SettingTime& time) {
    Json json{{"setting", name_of(time.setting)}, {"median_us", time.median_us}, {"num_runs", time.num_runs}};
    if (time.sigma >= 0) json["sigma"] = time.sigma;
    return json;
  };
  Json groups = Json::array();
  for (const TunedGroup& group : tuning.groups) {
    Json json{{"collective", group.collective}, {"type", group.type},     {"num_ranks", group.num_ranks},
              {"num_nodes", group.num_nodes},   {"sizes", Json::array()}, {"ranges", Json::array()}};
    if (group.has_ring_and_tree) json["ring_faster_from_bytes"] = group.ring_from_bytes;
    for (const TunedSize& size : group.sizes) {
      Json each{{"bytes", size.bytes},
                {"default", time_json(size.standard)},
                {"chosen", name_of(size.chosen)},
                {"gain", size.gain},
                {"needed", size.bound},
                {"why", size.why},
                {"forced", Json::array()}};
      if (!size.standard_ran.empty()) each["default_ran"] = size.standard_ran;
      for (const SettingTime& time : size.forced) each["forced"].push_back(time_json(time));
      if (const OtherTime* other = other_at(tuning, group, size.bytes))
        each["beside"] = {{"name", other->name}, {"median_us", other->median_us}};
      json["sizes"].push_back(std::move(each));
    }
    for (const TunedRange& range : group.ranges)
      json["ranges"].push_back(
          {{"min_bytes", range.min_bytes}, {"max_bytes", range.max_bytes}, {"setting", name_of(range.setting)}});
    groups.push_back(std::move(json));
  }
  return {{"schema", 1}, {"kind", "lane tune nccl"}, {"groups", groups}, {"notes", tuning.notes}};
}

}  // namespace lane::net
