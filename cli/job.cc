#include "cli/job.h"

#include <fmt/format.h>

#include <cstdio>
#include <set>
#include <vector>

#include "cli/progress.h"
#include "lane/base/file.h"
#include "lane/base/log.h"
#include "lane/base/process.h"
#include "lane/base/settings.h"
#include "lane/base/trace.h"
#include "lane/base/units.h"
#include "lane/comm/launch.h"
#include "lane/device/activity.h"
#include "lane/device/device_info.h"
#include "lane/profile/export.h"

namespace lane::cli {
namespace {

constexpr int64_t kMaxTraceEvents = int64_t{1} << 20;  // 48 MiB; later events are counted as dropped
constexpr int64_t kMaxLaunches = int64_t{1} << 20;     // steps of a GPU, 24 MiB
constexpr int64_t kMaxActivities = int64_t{1} << 22;   // of a GPU, 160 MiB: 10,000 steps of 400 kernels

// Watches a rank's GPU, if its rank has one, --breakdown or --trace is given and the profiling library is there.
class GpuWatch {
 public:
  GpuWatch(const EngineFlags& flags)
      : wanted_(flags.watches_gpu()), max_slices_(flags.trace_file.empty() ? 0 : kMaxTraceEvents) {
    if (!wanted_) return;
    try {
      recorder_.emplace(flags.session.device);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnsupported) throw;
      why_not_ = error.what();
    }
  }
  bool wanted() const { return wanted_; }

  void start(Communicator& group) {
    if (recorder_) recorder_->start(kMaxActivities);
    group.broadcast_text("", 0);  // setting out takes some ranks longer; the first step is not to wait for them
  }
  profile::GpuProfile stop() {
    profile::GpuProfile profile;
    profile.why_not = why_not_;
    return recorder_ ? profile::profile_gpu(recorder_->stop(), trace_log.launches(), max_slices_) : profile;
  }

 private:
  bool wanted_;
  int64_t max_slices_;
  std::optional<ActivityRecorder> recorder_;
  std::string why_not_;
};

// Brings what the ranks recorded to rank 0.
JobProfile collect_profile(const EngineFlags& flags, const LoadReport& load, Communicator& group, GpuWatch& watch) {
  JobProfile job{.num_ranks = group.size(), .breakdown = {}, .gpu = {}, .load = {}};
  const bool on_gpu = flags.session.device.kind == DeviceKind::kCuda;
  profile::GpuProfile mine;
  if (watch.wanted()) mine = watch.stop();
  std::vector<profile::RankTotals> totals;
  if (watch.wanted()) {
    std::vector<profile::GpuProfile> gpus;
    for (const std::string& text : group.gather_text(profile::profile_to_text(mine), 0)) {
      gpus.push_back(profile::profile_from_text(text));
      totals.push_back(gpus.back().totals);
    }
    if (group.rank() == 0) job.gpu = profile::merge_profiles(gpus);
  } else {
    for (const std::string& text : group.gather_text(profile::totals_to_text(trace_log.totals()), 0))
      totals.push_back(profile::totals_from_text(text));
  }
  for (const std::string& text : group.gather_text(Json{{"bytes", load.bytes_read}, {"s", load.seconds}}.dump(), 0)) {
    const Json json = parse_json(text, "a rank's loading");
    job.load.bytes_read += json.at("bytes").get<int64_t>();
    job.load.seconds = std::max(job.load.seconds, json.at("s").get<double>());
  }
  std::vector<std::string> events;
  if (!flags.trace_file.empty()) events = group.gather_text(profile::events_to_text(trace_log, mine), 0);
  if (group.rank() != 0) return job;
  const bool is_told = on_gpu ? job.gpu && job.gpu->why_not.empty() : true;
  if (is_told) job.breakdown = profile::make_breakdown(totals);
  if (!flags.trace_file.empty()) write_file(flags.trace_file, profile::make_trace_file(events));
  return job;
}

// The GPU of the rank with this place on its host, or why there is none. Launchers may show each rank one alone.
Device gpu_of(int local_rank, std::string* uuid, std::string* why_not) {
  const int count = num_gpus(why_not);
  if (count == 0) return {};
  const Device gpu{DeviceKind::kCuda, local_rank % count};
  const DeviceInfo info = device_info(gpu);
  *uuid = info.uuid;
  *why_not = why_not_usable(info);
  return gpu;
}

// --device for all ranks: a GPU each, or none.
Device choose_device(const std::string& wanted, int local_rank, Communicator& group) {
  if (wanted == "cpu") return {};
  std::string uuid, why_not;
  const Device gpu = gpu_of(local_rank, &uuid, &why_not);
  std::set<std::string> uuids;
  std::string verdict;
  for (const std::string& text : group.gather_text(why_not.empty() ? uuid : "!" + why_not, 0)) {
    uuids.insert(text);
    if (verdict.empty() && text.starts_with('!')) verdict = text.substr(1);
  }
  const auto num_ranks = static_cast<size_t>(group.size());
  if (group.rank() == 0 && verdict.empty() && uuids.size() < num_ranks)
    verdict = fmt::format("{} ranks need a GPU each, and there {} {}; start fewer (--tensor-parallel-size)", num_ranks,
                          uuids.size() == 1 ? "is" : "are", uuids.size());
  verdict = group.broadcast_text(verdict, 0);
  if (verdict.empty()) return gpu;
  if (wanted == "cuda") throw Error(ErrorCode::kUnsupported, "--device cuda: " + verdict);
  if (group.rank() == 0) log(uuid.empty() ? LogLevel::kInfo : LogLevel::kWarn, "runs on the CPU: " + verdict);
  return {};
}

int run_rank(EngineFlags& flags, const Program& program, const Job& job, Communicator& group) {
  const bool leads = group.rank() == 0;
  GpuWatch watch(flags);  // before any graph is recorded
  ProgressBar loading("loading", ProgressBar::Unit::kBytes, leads && !flags.no_progress);
  flags.session.load_progress = [&](int64_t done, int64_t total) { loading.update(done, total); };
  Session session(flags.session, &group);
  loading.clear();
  const double ready_s = static_cast<double>(now_ns() - program.start_ns) * 1e-9;
  if (leads) std::fputs(session.describe().c_str(), stderr);
  trace_log.start(flags.trace_file.empty() ? 0 : kMaxTraceEvents, watch.wanted() ? kMaxLaunches : 0);
  if (watch.wanted() && job.watches_from_restart)
    session.engine().on_restart_trace = [&] { watch.start(group); };
  else if (watch.wanted())
    watch.start(group);
  if (leads) {
    job.work(session);
    session.engine().finish();
  } else {
    session.engine().follow();
  }
  JobProfile profile = collect_profile(flags, session.load_report(), group, watch);
  profile.graphs = session.engine().graphs();
  profile.ready_s = ready_s;
  if (job.wants_ceilings) profile.ceilings = find_ceilings(flags, session, group);
  return leads ? job.report(session, profile) : kExitOk;
}

}  // namespace

Json JobProfile::to_json() const {
  const auto bytes = static_cast<double>(load.bytes_read);
  Json json{{"breakdown", breakdown ? profile::breakdown_to_json(*breakdown) : Json()},
            {"load",
             {{"bytes", load.bytes_read},
              {"seconds", load.seconds},
              {"bytes_per_s", load.bytes_read > 0 ? Json(bytes / load.seconds) : Json()}}},
            {"ready_s", ready_s}};
  if (graphs.count > 0)
    json["graphs"] = {{"count", graphs.count}, {"seconds", graphs.seconds}, {"bytes", graphs.bytes}};
  if (gpu && gpu->why_not.empty()) json["gpu"] = profile::kernels_to_json(*gpu);
  if (gpu && !gpu->why_not.empty()) json["gpu"] = {{"why_not", gpu->why_not}};
  return json;
}

std::string JobProfile::graphs_to_text() const {
  if (graphs.count == 0) return "";
  return fmt::format("{} graph{} made ready in {}, {} of a GPU's memory\n", graphs.count, graphs.count == 1 ? "" : "s",
                     format_duration(graphs.seconds), format_bytes(static_cast<double>(graphs.bytes)));
}

std::string JobProfile::to_text() const {
  if (!breakdown) return gpu ? "no breakdown: " + gpu->why_not + "\n" : "";
  std::string text = profile::format_breakdown(*breakdown, num_ranks);
  if (gpu)
    text +=
        "\n" + profile::format_kernels(*gpu) + "  of steps that were watched, which takes the GPU a little longer\n";
  return text;
}

int run_job(EngineFlags& flags, const Program& program, const Job& job) {
  flags.finish();
  const std::optional<LaunchedRank> launched = launched_rank();
  if (!launched && flags.tensor_parallel > 1) return run_local_ranks(flags.tensor_parallel, program.arguments);

  Communicator group;
  if (launched && launched->size > 1) {
    if (flags.tensor_parallel != 0 && flags.tensor_parallel != launched->size)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("--tensor-parallel-size {}, but {} started {} ranks; leave the flag out or start as many",
                              flags.tensor_parallel, launched->launcher, launched->size));
    set_log_prefix(fmt::format("[rank {}/{}] ", launched->rank, launched->size));
    group = Communicator::join(join_options(*launched));
    flags.session.local_ranks = launched->local_size;
  }
  watch_for_interrupt();
  try {
    flags.session.device = choose_device(flags.device, launched ? launched->local_rank : 0, group);
    return run_rank(flags, program, job, group);
  } catch (const std::exception& error) {
    group.abort(error.what());
    throw;
  }
}

}  // namespace lane::cli
