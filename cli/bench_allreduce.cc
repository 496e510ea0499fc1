#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "cli/commands.h"
#include "cli/device_bench_flags.h"
#include "cli/group_job.h"
#include "cli/progress.h"
#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/json.h"
#include "lane/comm/launch.h"
#include "lane/net/all_reduce_bench.h"
#include "lane/net/all_reduce_report.h"
#include "lane/net/mpirun.h"
#include "lane/net/vectors.h"

namespace lane::cli {
namespace {

struct Flags {
  GroupFlags group{.sizes = "8,64,512,4K,8K,16K,32K,64K,128K,256K,1M,4M,16M,64M", .dtypes = {"float32"}};
  std::vector<std::string> ops = {"sum"}, algorithms = {"auto"}, peers;
  std::string peer_directory, json_file, svg_file, part_file;
  bool check = true, in_place = false;
  int num_batches = 30, num_calls = 0;
  double peer_timeout_s = 30;
  bool has_dtype = false;
  DeviceBenchFlags gpus;
};

std::vector<ReduceOp> ops_of(const Flags& flags) {
  std::vector<ReduceOp> ops;
  for (const std::string& name : flags.ops) try {
      ops.push_back(net::reduce_op_from_name(name));
    } catch (const Error& error) {
      throw Error(ErrorCode::kInvalidArgument, fmt::format("--op {}: {}", name, error.what()));
    }
  return ops;
}

net::AllReduceOptions options_of(const Flags& flags) {
  net::AllReduceOptions options{.sizes = flags.group.size_list(),
                                .dtypes = flags.group.dtype_list(),
                                .ops = ops_of(flags),
                                .algorithms = flags.algorithms,
                                .check = flags.check,
                                .in_place = flags.in_place,
                                .num_batches = flags.num_batches,
                                .num_calls = flags.num_calls};
  for (const std::string& name : flags.peers) {
    try {
      net::check_peer_name(name);
    } catch (const Error& error) {
      throw Error(ErrorCode::kInvalidArgument, fmt::format("--peers {}: {}", name, error.what()));
    }
    options.peers.push_back({.name = name,
                             .directory = flags.peer_directory,
                             .patience = std::chrono::milliseconds(static_cast<int64_t>(flags.peer_timeout_s * 1e3))});
  }
  return options;
}

void write_results(const Flags& flags, const Json& runs) {
  if (!flags.json_file.empty()) write_file(flags.json_file, Json{{"runs", runs}}.dump(1) + "\n");
  if (!flags.svg_file.empty()) write_file(flags.svg_file, net::chart_of_runs(runs));
}

int run_rank(const Flags& flags, const Program& program, Communicator& group, bool own_core) {
  const net::AllReduceOptions options = options_of(flags);
  const bool leads = group.rank() == 0;
  for (const std::string& name : flags.algorithms) try {
      if (name != "all") group.set_algorithm(name);
    } catch (const Error& error) {
      throw Error(ErrorCode::kInvalidArgument, fmt::format("--algorithms {}: {}", name, error.what()));
    }
  net::RunInfo info = net::describe_run(group, options, own_core);
  info.version = LANE_VERSION;
  info.command = fmt::format("lane {}", fmt::join(program.arguments, " "));
  if (leads) fmt::print("{}", net::header_text(info));
  std::fflush(stdout);

  std::vector<net::AllReduceRow> all;
  ProgressBar bar("measuring", ProgressBar::Unit::kItems, leads && !flags.group.no_progress);
  net::bench_all_reduce(
      group, options,
      [&](const std::vector<net::AllReduceRow>& rows) {
        all.insert(all.end(), rows.begin(), rows.end());
        if (!leads) return;
        bar.clear();
        for (const net::AllReduceRow& row : rows) fmt::print("{}", net::row_text(info, row));
        std::fflush(stdout);
      },
      [&](int64_t done, int64_t total) { bar.update(done, total); });
  bar.clear();
  if (leads) {
    fmt::print("{}", net::footer_text(all));
    const Json run = net::run_to_json(info, all);
    if (!flags.part_file.empty())
      write_file(flags.part_file, run.dump());
    else
      write_results(flags, Json::array({run}));
  }
  return net::count_bad(all) == 0 ? kExitOk : kExitError;
}

// An MPI library starts once in a place that mpirun made: each stack has a run of its own, and Lane is in all of them.
int run_under_mpi(const Flags& flags, const Program& program) {
  std::vector<std::string> stacks, others;
  for (const std::string& peer : flags.peers) (net::is_mpi(peer) ? stacks : others).push_back(peer);
  Json runs = Json::array();
  int status = kExitOk;
  for (const std::string& stack : stacks) {
    const std::string part =
        (std::filesystem::temp_directory_path() / fmt::format("lane-bench-{}.json", ::getpid())).string();
    std::vector<std::string> arguments = program.arguments;  // of a flag given twice the last one counts
    arguments.insert(arguments.end(), {"--part", part, "--peers", stack});
    if (runs.empty()) arguments.back() = fmt::format("{},{}", stack, fmt::join(others, ","));
    if (arguments.back().ends_with(',')) arguments.back().pop_back();
    status = std::max(status, net::run_under_mpirun(flags.group.num_ranks == 0 ? 2 : flags.group.num_ranks, arguments));
    if (file_exists(part)) runs.push_back(parse_json(read_file(part), part));
    ::unlink(part.c_str());
  }
  write_results(flags, runs);
  return status;
}

int bench_gpus(const Flags& flags, const Program& program) {
  DeviceBenchJob job{.options = {.sizes = flags.group.size_list(),
                                 .dtypes = {DType::kBF16},
                                 .ops = ops_of(flags),
                                 .algorithms = flags.algorithms,
                                 .peer_directory = flags.peer_directory,
                                 .check = flags.check},
                     .group = flags.group,
                     .num_nodes = flags.gpus.num_nodes,
                     .json_file = flags.json_file,
                     .svg_file = flags.svg_file};
  if (flags.has_dtype) job.options.dtypes = flags.group.dtype_list();
  for (const std::string& text : flags.peers) job.options.peers.push_back(net::device_peer_from_text(text));
  flags.gpus.add_to(job.options);
  job.group.own_cores = false;
  return run_device_bench(job, program);
}

int bench(const Flags& flags, const Program& program) {
  if (flags.gpus.on_gpus()) return bench_gpus(flags, program);
  const net::AllReduceOptions options = options_of(flags);  // flags that cannot be fail here, before anything starts
  const auto is_mpi = [](const std::string& name) { return net::is_mpi(name); };
  const auto num_stacks = std::count_if(flags.peers.begin(), flags.peers.end(), is_mpi);
  if (!launched_rank() && num_stacks > 0) return run_under_mpi(flags, program);
  if (num_stacks > 1)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--peers {}: under a launcher one MPI stack can be compared with at a time; run once for "
                            "each, or without the launcher",
                            fmt::join(flags.peers, ",")));
  return run_on_ranks(flags.group, program,
                      [&](Communicator& group, bool own_core) { return run_rank(flags, program, group, own_core); });
}

}  // namespace

void add_bench_allreduce(CLI::App& bench_app, Program& program) {
  CLI::App* command = bench_app.add_subcommand(
      "allreduce", "All-reduce at many sizes: time, bandwidth, correctness; other libraries beside it");
  command->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  auto flags = std::make_shared<Flags>();
  flags->group.add_to(*command);
  add_list(*command, "--op", flags->ops, "Operations: sum, max, min, prod, avg");
  add_list(*command, "--algorithms,--algorithm", flags->algorithms, "auto, all, or names: auto,ring,two_shot");
  add_list(*command, "--peers", flags->peers,
           "Other libraries, measured in turns on the same cores: mpi, mpi-ob1, mpi-ucx, gloo; on GPUs plugins: "
           "nccl, nccl:symmetric, nvshmem, ...");
  command->add_option("--peer-dir", flags->peer_directory,
                      "Where lane_peer_mpi and lane_peer_gloo, or liblane-peer-NAME.so, are if not beside lane");
  command->add_option("--peer-timeout", flags->peer_timeout_s, "Seconds after which such a library is given up")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  command->add_flag("--check,!--no-check", flags->check, "Compare each sum with one in double precision [on]");
  command->add_flag("--in-place", flags->in_place, "The result takes the place of the input");
  command->add_option("--batches", flags->num_batches, "Batches of calls; a time is the median over them")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--calls", flags->num_calls, "Calls in a batch [as many as take a millisecond]")
      ->check(CLI::Range(1, 1000000));
  command->add_option("--json", flags->json_file, "Write all numbers to this file");
  command->add_option("--svg", flags->svg_file, "Draw the times over the sizes into this file");
  command->add_option("--part", flags->part_file)->group("");  // of a run that another one started
  flags->gpus.add_to(*command);
  command->footer(
      "Columns are those of nccl-tests; docs/measuring.md defines them.\n"
      "  lane bench allreduce --ranks 4 --algorithms all --sizes 8:4M:4\n"
      "  lane bench allreduce --dtype bfloat16 --peers mpi-ob1,mpi-ucx,gloo --svg allreduce.svg\n"
      "  lane launch --hosts a:2,b:2 -- bench allreduce\n"
      "  lane bench allreduce --device cuda --ranks 4 --sizes 1K:4M:2 --peers nccl,nccl:symmetric --fused 8192x1");
  command->callback([&program, flags, command] {
    flags->has_dtype = command->get_option("--dtype")->count() > 0;
    program.run = [&program, flags, command] {
      flags->gpus.check_device(*command);
      return bench(*flags, program);
    };
  });
}

}  // namespace lane::cli
