#include "cli/job.h"

#include <fmt/format.h>

#include <cstdio>
#include <vector>

#include "cli/progress.h"
#include "lane/base/file.h"
#include "lane/base/log.h"
#include "lane/base/process.h"
#include "lane/base/settings.h"
#include "lane/base/trace.h"
#include "lane/comm/launch.h"
#include "lane/device/device_info.h"
#include "lane/profile/export.h"

namespace lane::cli {
namespace {

constexpr int64_t kMaxTraceEvents = int64_t{1} << 20;  // 48 MiB; later events are counted as dropped

// Brings what the ranks recorded to rank 0.
JobProfile collect_profile(const EngineFlags& flags, Communicator& group) {
  JobProfile profile{.num_ranks = group.size(), .breakdown = {}};
  const std::vector<std::string> totals = group.gather_text(profile::totals_to_text(trace_log.totals()), 0);
  std::vector<std::string> events;
  if (!flags.trace_file.empty()) events = group.gather_text(profile::events_to_text(trace_log), 0);
  if (group.rank() != 0) return profile;
  std::vector<profile::RankTotals> ranks;
  for (const std::string& text : totals) ranks.push_back(profile::totals_from_text(text));
  profile.breakdown = profile::make_breakdown(ranks);
  if (!flags.trace_file.empty()) write_file(flags.trace_file, profile::make_trace_file(events));
  return profile;
}

// The GPU of the rank with this place on its host; ranks take turns where there are fewer GPUs.
Device gpu_of(int local_rank) {
  std::string why_none;
  const int count = num_gpus(&why_none);
  if (count == 0) throw Error(ErrorCode::kUnsupported, "--device cuda: " + why_none);
  const Device gpu{DeviceKind::kCuda, local_rank % count};
  if (const std::string why = why_not_usable(device_info(gpu)); !why.empty())
    throw Error(ErrorCode::kUnsupported, "--device cuda: " + why);
  return gpu;
}

int run_rank(EngineFlags& flags, const Job& job, Communicator& group) {
  const bool leads = group.rank() == 0;
  ProgressBar loading("loading", ProgressBar::Unit::kBytes, leads && !flags.no_progress);
  flags.session.load_progress = [&](int64_t done, int64_t total) { loading.update(done, total); };
  Session session(flags.session, &group);
  loading.clear();
  if (leads) std::fputs(session.describe().c_str(), stderr);
  trace_log.start(flags.trace_file.empty() ? 0 : kMaxTraceEvents);
  if (leads) {
    job.work(session);
    session.engine().finish();
  } else {
    session.engine().follow();
  }
  const JobProfile profile = collect_profile(flags, group);
  return leads ? job.report(session, profile) : kExitOk;
}

}  // namespace

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
    if (flags.device == "cuda") flags.session.device = gpu_of(launched ? launched->local_rank : 0);
    return run_rank(flags, job, group);
  } catch (const std::exception& error) {
    group.abort(error.what());
    throw;
  }
}

}  // namespace lane::cli
