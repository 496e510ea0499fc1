#include "cli/device_bench_flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>

#include "cli/progress.h"
#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/json.h"
#include "lane/comm/launch.h"
#include "lane/net/device_report.h"

namespace lane::cli {
namespace {

constexpr const char* kForGpus[] = {"--graph",           "--eager",  "--both",  "--cold",
                                    "--with-gemm",       "--skew",   "--fused", "--nodes",
                                    "--calls-per-graph", "--samples"};
constexpr const char* kForCpus[] = {"--in-place", "--batches", "--calls", "--peer-timeout"};

net::DeviceRunInfo describe(const DeviceBenchJob& job, const Program& program, const Communicator& group) {
  net::DeviceRunInfo info{.run = net::describe_run(group, {}, false), .machine = {}, .options = job.options};
  info.run.version = LANE_VERSION;
  info.run.command = fmt::format("lane {}", fmt::join(program.arguments, " "));
  return info;
}

int run_rank(const DeviceBenchJob& job, const Program& program, Communicator& group) {
  const bool leads = group.rank() == 0;
  net::DeviceRunInfo info = describe(job, program, group);
  net::DeviceTable table;
  std::vector<net::AllReduceRow> all;
  ProgressBar bar("measuring", ProgressBar::Unit::kItems, leads && !job.group.no_progress);
  const auto say = [&](const std::string& text) {
    bar.clear();
    if (leads) fmt::print("{}", text);
    std::fflush(stdout);
  };
  net::bench_device_all_reduce(
      group, job.options,
      [&](const net::DeviceMachine& machine) {
        info.machine = machine;
        say(net::device_header_text(info));
      },
      [&](const std::vector<net::AllReduceRow>& rows) {
        all.insert(all.end(), rows.begin(), rows.end());
        say(table.text_of(rows));
      },
      [&](int64_t done, int64_t total) { bar.update(done, total); });
  const int bad = net::count_bad(all);
  say(fmt::format("# Out of bounds values : {} {}\n", bad, bad == 0 ? "OK" : "FAILED"));
  if (leads) {
    const Json runs = Json::array({net::device_run_to_json(info, all)});
    if (!job.json_file.empty()) write_file(job.json_file, Json{{"runs", runs}}.dump(1) + "\n");
    if (!job.svg_file.empty()) write_file(job.svg_file, net::chart_of_runs(runs));
  }
  return bad == 0 ? kExitOk : kExitError;
}

// This machine as if it were several: consecutive ranks, evenly.
int launch_on_emulated_hosts(const DeviceBenchJob& job, const Program& program) {
  const int num_ranks = job.group.num_ranks == 0 ? 2 : job.group.num_ranks;
  if (num_ranks % job.num_nodes != 0)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--nodes {}: {} ranks cannot be spread evenly; give --ranks a multiple of it",
                            job.num_nodes, num_ranks));
  HostsToLaunch hosts{.arguments = program.arguments};
  for (int node = 0; node < job.num_nodes; ++node)
    hosts.hosts.push_back({fmt::format("node{}", node), num_ranks / job.num_nodes});
  return launch_on_hosts(hosts);
}

}  // namespace

void DeviceBenchFlags::add_to(CLI::App& app) {
  app.add_option("--device", device, "Where the vectors are: cpu, or cuda with one process for each GPU")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  const char* group = "With --device cuda";
  app.add_flag("--graph", graph, "Measure calls in CUDA graphs [on]")->group(group);
  app.add_flag("--eager", eager, "Measure calls that the host enqueues one by one")->group(group);
  app.add_flag("--both", both, "Measure both")->group(group);
  app.add_option("--calls-per-graph", calls_per_graph, "Calls in one graph, timed together; also one is timed alone")
      ->check(CLI::Range(2, 10000))
      ->capture_default_str()
      ->group(group);
  app.add_option("--samples", num_samples, "Calls of each candidate that are timed in each way")
      ->check(CLI::Range(20, 1000000))
      ->capture_default_str()
      ->group(group);
  app.add_flag("--cold", cold, "Also with the L2 cache taken by something else before each call")->group(group);
  app.add_flag("--with-gemm", with_gemm, "Also with 20 MiB of weights read before each call, as in decoding")
      ->group(group);
  app.add_option("--skew", skew_us, "Also with ranks that come by chance up to so many microseconds apart")
      ->check(CLI::Range(0.0, 10000.0))
      ->group(group);
  add_list(app, "--fused", fused,
           "Also all-reduce, addition to a residual and RMSNorm, in one and apart: HIDDENxTOKENS,...");
  app.get_option("--fused")->group(group);
  app.add_option("--nodes", num_nodes, "Emulate so many hosts on this one: ranks of different ones share no memory")
      ->check(CLI::Range(1, 64))
      ->group(group);
}

void DeviceBenchFlags::check_device(const CLI::App& app) const {
  const auto refuse = [&](const char* name, const char* other) {
    if (app.get_option(name)->count() > 0)
      throw Error(ErrorCode::kInvalidArgument, fmt::format("{} is for --device {}; leave it out here", name, other));
  };
  for (const char* name : kForGpus)
    if (!on_gpus()) refuse(name, "cuda");
  for (const char* name : kForCpus)
    if (on_gpus()) refuse(name, "cpu");
}

void DeviceBenchFlags::add_to(net::DeviceBenchOptions& options) const {
  for (const std::string& shape : fused) options.fused.push_back(net::fused_shape_from_text(shape));
  options.graph = graph || both || !eager;
  options.eager = eager || both;
  options.cold = cold, options.with_gemm = with_gemm, options.skew_us = skew_us;
  options.calls_per_graph = calls_per_graph, options.num_samples = num_samples;
  net::check_options(options);
}

int run_device_bench(const DeviceBenchJob& job, const Program& program) {
  net::require_cuda_build();
  if (!launched_rank() && job.num_nodes > 1) return launch_on_emulated_hosts(job, program);
  return run_on_ranks(job.group, program, [&](Communicator& group, bool) { return run_rank(job, program, group); });
}

}  // namespace lane::cli
