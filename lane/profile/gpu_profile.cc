#include "lane/profile/gpu_profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "lane/base/error.h"
#include "lane/base/units.h"
#include "lane/profile/kernel_name.h"

namespace lane::profile {
namespace {

using Kind = GpuActivity::Kind;

void add_to(std::map<std::string, KernelTotals>& by_name, const KernelTotals& kernel) {
  KernelTotals& sum = by_name[kernel.name];
  sum.name = kernel.name;
  sum.kind = kernel.kind;
  sum.num_calls += kernel.num_calls;
  sum.ns += kernel.ns;
}

std::vector<KernelTotals> longest_first(std::map<std::string, KernelTotals> by_name) {
  std::vector<KernelTotals> list;
  for (auto& [name, totals] : by_name) list.push_back(std::move(totals));
  std::stable_sort(list.begin(), list.end(), [](const KernelTotals& a, const KernelTotals& b) { return a.ns > b.ns; });
  return list;
}

// Adds up the activities of one step after the other.
class Cutter {
 public:
  Cutter(const GpuActivities& activities, int64_t max_slices) : max_slices_(max_slices) {
    for (const std::string& name : activities.names) names_.push_back(read_kernel_name(name));
    copy_ = add_name("copy");
    fill_ = add_name("fill");
    for (const auto& name : names_) profile_.slice_names.push_back(name.text);
    for (auto& calls : calls_) calls.resize(names_.size());
  }

  bool closes_step(const GpuActivity& activity) const {
    return activity.kind == Kind::kKernel && names_[static_cast<size_t>(activity.name)].closes_step;
  }

  // Activities of one step in the order of their starts.
  void add_step(std::span<const GpuActivity> step, const LaunchedStep& launched) {
    const auto phase = static_cast<size_t>(launched.phase);
    const bool follows = !launched.from_rest && !steps_.empty();
    const int64_t begin = follows ? free_ns_ : std::max(free_ns_, launched.launch_ns);
    free_ns_ = begin;
    const size_t step_slice = profile_.slices.size();
    keep({.name = -1, .kind = TraceKind::kStep, .phase = launched.phase, .start_ns = begin});
    for (const GpuActivity& activity : step) {
      const auto name = static_cast<size_t>(activity.kind == Kind::kKernel ? activity.name
                                            : activity.kind == Kind::kCopy ? copy_
                                                                           : fill_);
      const int64_t start = std::max(activity.start_ns, free_ns_), ns = std::max<int64_t>(activity.end_ns - start, 0);
      const TraceKind kind = names_[name].kind;
      ++calls_[phase][name].num_calls;
      calls_[phase][name].ns += ns;
      profile_.totals[phase].op_ns[static_cast<size_t>(kind)] += ns;
      if (ns == 0) continue;
      free_ns_ = activity.end_ns;
      keep({static_cast<int32_t>(name), kind, launched.phase, start, activity.end_ns, activity.bytes});
    }
    if (step_slice < profile_.slices.size()) profile_.slices[step_slice].end_ns = free_ns_;
    ++profile_.totals[phase].num_steps;
    profile_.totals[phase].step_ns += free_ns_ - begin;
    steps_.push_back({begin, free_ns_, phase});
  }

  // A wait belongs to the step during which it began.
  void add_wait(const GpuActivity& wait) {
    const auto at = std::upper_bound(steps_.begin(), steps_.end(), wait.start_ns,
                                     [](int64_t ns, const Step& step) { return ns < step.end_ns; });
    if (at != steps_.end() && wait.start_ns >= at->begin_ns) ++profile_.num_host_waits[at->phase];
  }

  GpuProfile finish() {
    for (size_t phase = 0; phase < kNumPhases; ++phase) {
      std::map<std::string, KernelTotals> by_name;  // kernels of one name may differ in their parameters
      for (size_t i = 0; i < names_.size(); ++i)
        if (const auto& [num_calls, ns] = calls_[phase][i]; num_calls > 0)
          add_to(by_name, {names_[i].text, names_[i].kind, num_calls, ns});
      profile_.kernels[phase] = longest_first(std::move(by_name));
    }
    return std::move(profile_);
  }

 private:
  struct Step {
    int64_t begin_ns, end_ns;
    size_t phase;
  };

  int32_t add_name(const char* text) {
    names_.push_back({.text = text});
    return static_cast<int32_t>(names_.size()) - 1;
  }
  void keep(const GpuSlice& slice) {
    if (static_cast<int64_t>(profile_.slices.size()) < max_slices_)
      profile_.slices.push_back(slice);
    else if (max_slices_ > 0)
      ++profile_.num_slices_dropped;
  }

  int64_t max_slices_, free_ns_ = 0;
  int32_t copy_ = 0, fill_ = 0;
  std::vector<KernelName> names_;
  struct Calls {
    int64_t num_calls = 0, ns = 0;
  };
  std::array<std::vector<Calls>, kNumPhases> calls_;  // by name
  std::vector<Step> steps_;
  GpuProfile profile_;
};

GpuProfile none_because(std::string why) {
  GpuProfile none;
  none.why_not = std::move(why);
  return none;
}

}  // namespace

GpuProfile profile_gpu(const GpuActivities& activities, std::span<const LaunchedStep> steps, int64_t max_slices) {
  std::vector<GpuActivity> work, waits;
  for (const GpuActivity& activity : activities.list)
    (activity.kind == Kind::kHostWait ? waits : work).push_back(activity);
  std::stable_sort(work.begin(), work.end(), [](const GpuActivity& a, const GpuActivity& b) {
    return a.start_ns != b.start_ns ? a.start_ns < b.start_ns : a.end_ns < b.end_ns;
  });
  Cutter cutter(activities, max_slices);
  size_t num_closed = 0;
  for (size_t first = 0, i = 0; i < work.size(); ++i) {
    if (!cutter.closes_step(work[i])) continue;
    if (num_closed < steps.size()) cutter.add_step({work.data() + first, i + 1 - first}, steps[num_closed]);
    ++num_closed;
    first = i + 1;
  }
  // Steps are told apart by their order alone. A recorder without room misses the last ones; one that lost records may
  // miss any.
  const bool any_missing = activities.num_lost > 0 && num_closed < steps.size();
  if (num_closed > steps.size() || any_missing || (num_closed == 0 && !steps.empty()))
    return none_because(
        fmt::format("{} steps were launched, and the GPU's records ({} of them lost) show the end of {}: "
                    "which is which cannot be told",
                    steps.size(), activities.num_lost, num_closed));
  for (const GpuActivity& wait : waits) cutter.add_wait(wait);
  GpuProfile profile = cutter.finish();
  profile.num_dropped = activities.num_dropped + activities.num_lost;
  profile.num_steps_missing = static_cast<int64_t>(steps.size() - num_closed);
  return profile;
}

std::string profile_to_text(const GpuProfile& profile) {
  Json kernels = Json::array();
  for (const auto& of_phase : profile.kernels) {
    Json list = Json::array();
    for (const KernelTotals& kernel : of_phase)
      list.push_back({kernel.name, static_cast<int>(kernel.kind), kernel.num_calls, kernel.ns});
    kernels.push_back(std::move(list));
  }
  const std::string totals = totals_to_text(profile.totals);
  const Json all{{"totals", Json::binary({totals.begin(), totals.end()})},
                 {"kernels", std::move(kernels)},
                 {"waits", profile.num_host_waits},
                 {"dropped", profile.num_dropped},
                 {"missing", profile.num_steps_missing},
                 {"why_not", profile.why_not}};
  const std::vector<uint8_t> packed = Json::to_cbor(all);
  return {packed.begin(), packed.end()};
}

GpuProfile profile_from_text(const std::string& text) {
  GpuProfile profile;
  try {
    const Json all = Json::from_cbor(text);
    const auto& totals = all.at("totals").get_binary();
    profile.totals = totals_from_text({totals.begin(), totals.end()});
    for (size_t phase = 0; phase < kNumPhases; ++phase) {
      for (const Json& kernel : all.at("kernels").at(phase)) {
        const int kind = kernel.at(1).get<int>();
        if (kind < 0 || kind >= kNumOpKinds) throw Error(ErrorCode::kCorruptData, "a rank's profile: no such kind");
        profile.kernels[phase].push_back({kernel.at(0).get<std::string>(), static_cast<TraceKind>(kind),
                                          kernel.at(2).get<int64_t>(), kernel.at(3).get<int64_t>()});
      }
      profile.num_host_waits[phase] = all.at("waits").at(phase).get<int64_t>();
    }
    profile.num_dropped = all.at("dropped").get<int64_t>();
    profile.num_steps_missing = all.at("missing").get<int64_t>();
    profile.why_not = all.at("why_not").get<std::string>();
  } catch (const Json::exception& error) {
    throw Error(ErrorCode::kCorruptData, fmt::format("a rank's profile: {}", error.what()));
  }
  return profile;
}

GpuProfile merge_profiles(std::span<const GpuProfile> ranks) {
  ensure(!ranks.empty(), "a profile is of one rank at least");
  GpuProfile all;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const GpuProfile& one = ranks[rank];
    if (!one.why_not.empty()) return none_because(fmt::format("rank {}: {}", rank, one.why_not));
    all.num_dropped += one.num_dropped;
    all.num_steps_missing = std::max(all.num_steps_missing, one.num_steps_missing);
    for (size_t phase = 0; phase < kNumPhases; ++phase)
      if (one.totals[phase].num_steps != ranks[0].totals[phase].num_steps)
        return none_because(fmt::format("rank {} recorded {} {} steps and rank 0 {}: {} activities were lost", rank,
                                        one.totals[phase].num_steps, kPhaseNames[phase],
                                        ranks[0].totals[phase].num_steps, one.num_dropped + ranks[0].num_dropped));
  }
  for (size_t phase = 0; phase < kNumPhases; ++phase) {
    std::map<std::string, KernelTotals> by_name;
    for (const GpuProfile& one : ranks) {
      all.totals[phase].num_steps += one.totals[phase].num_steps;
      all.totals[phase].step_ns += one.totals[phase].step_ns;
      all.num_host_waits[phase] += one.num_host_waits[phase];
      for (size_t kind = 0; kind < kNumOpKinds; ++kind) all.totals[phase].op_ns[kind] += one.totals[phase].op_ns[kind];
      for (const KernelTotals& kernel : one.kernels[phase]) add_to(by_name, kernel);
    }
    all.kernels[phase] = longest_first(std::move(by_name));
  }
  return all;
}

std::string format_kernels(const GpuProfile& profile, size_t most) {
  std::string text;
  for (size_t phase = 0; phase < kNumPhases; ++phase) {
    const PhaseTotals& totals = profile.totals[phase];
    if (totals.num_steps == 0) continue;
    text += fmt::format("  {:<46} {:<13} {:>7} {:>10} {:>10} {:>8}\n",
                        fmt::format("kernels of a {} step", kPhaseNames[phase]), "part", "calls", "a call", "a step",
                        "share");
    const auto line = [&](const std::string& name, const char* part, int64_t num_calls, int64_t ns) {
      const double seconds = static_cast<double>(ns) * 1e-9, steps = static_cast<double>(totals.num_steps);
      text += fmt::format("  {:<46} {:<13} {:>7.4g} {:>10} {:>10} {:>7.1f} %\n", name, part,
                          static_cast<double>(num_calls) / steps,
                          format_duration(seconds / static_cast<double>(num_calls)), format_duration(seconds / steps),
                          100 * static_cast<double>(ns) / static_cast<double>(totals.step_ns));
    };
    const auto& kernels = profile.kernels[phase];
    KernelTotals rest;
    for (size_t i = 0; i < kernels.size(); ++i) {
      if (i < most)
        line(kernels[i].name, kKindNames[static_cast<size_t>(kernels[i].kind)], kernels[i].num_calls, kernels[i].ns);
      if (i >= most) rest.num_calls += kernels[i].num_calls, rest.ns += kernels[i].ns;
    }
    if (rest.num_calls > 0) line(fmt::format("{} others", kernels.size() - most), "", rest.num_calls, rest.ns);
    text += fmt::format("  host waits for the GPU in these {} steps: {}\n", format_count(totals.num_steps),
                        format_count(profile.num_host_waits[phase]));
  }
  if (profile.num_dropped > 0 || profile.num_steps_missing > 0)
    text += fmt::format("  {} of the GPU's activities were not recorded, {} steps are not counted\n",
                        format_count(profile.num_dropped), format_count(profile.num_steps_missing));
  return text;
}

Json kernels_to_json(const GpuProfile& profile) {
  Json json = Json::object();
  for (size_t phase = 0; phase < kNumPhases; ++phase) {
    const PhaseTotals& totals = profile.totals[phase];
    Json kernels = Json::array();
    for (const KernelTotals& kernel : profile.kernels[phase]) {
      const double seconds = static_cast<double>(kernel.ns) * 1e-9, steps = static_cast<double>(totals.num_steps);
      kernels.push_back(
          {{"name", kernel.name},
           {"kind", kKindNames[static_cast<size_t>(kernel.kind)]},
           {"calls_per_step", static_cast<double>(kernel.num_calls) / steps},
           {"s_per_call", seconds / static_cast<double>(kernel.num_calls)},
           {"s_per_step", seconds / steps},
           {"share", totals.step_ns > 0 ? static_cast<double>(kernel.ns) / static_cast<double>(totals.step_ns) : 0}});
    }
    json[kPhaseNames[phase]] = {{"kernels", std::move(kernels)}, {"num_host_waits", profile.num_host_waits[phase]}};
  }
  json["num_dropped"] = profile.num_dropped;
  json["num_steps_missing"] = profile.num_steps_missing;
  return json;
}

}  // namespace lane::profile
