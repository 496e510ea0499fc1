#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>

#include "cli/commands.h"
#include "cli/group_job.h"
#include "cli/progress.h"
#include "cli/tune_table.h"
#include "lane/base/error.h"
#include "lane/base/units.h"
#include "lane/comm/tuning.h"
#include "lane/net/tune_all_reduce.h"
#include "lane/net/tune_device.h"
#include "lane/plan/schedule.h"

namespace lane::cli {
namespace {

struct Flags {
  GroupFlags group{.sizes = "8:64M:4", .dtypes = {"float32", "bfloat16"}};
  double confidence = 0.05, limit_s = 1;
  std::string output, device = "cpu";
  bool dry_run = false;
};

std::string link_text(const char* name, const plan::Link& link) {
  return fmt::format("  {:<7} latency {}, {} a port, {} for each further message\n", name,
                     format_duration(link.latency_s), format_rate(link.bytes_per_s), format_duration(link.message_s));
}

void print_result(const net::TuneResult& result) {
  const int wrong = print_lines(result, "the cost model's choice");
  fmt::print("\nThe cost model chose something more than 10 % slower at {} of {} sizes.\n", wrong, result.lines.size());
  fmt::print("Constants of the cost model that fit these times best (half of them within {:.0f} %):\n{}",
             100 * result.fit.typical_error, link_text("local", result.fit.links.local));
  if (result.entry.ranks_per_node.size() > 1) fmt::print("{}", link_text("remote", result.fit.links.remote));
}

int tune(const Flags& flags, Communicator& group, const net::TuneOptions& options) {
  const bool leads = group.rank() == 0;
  const std::string file = leads ? tuning_output(flags.output) : "";
  const auto names = plan::schedule_names(plan::Collective::kAllReduce, group.fabric().layout);
  if (leads)
    fmt::print("all-reduce among {} ranks ({} by host) on {}, {} CPUs, by {}: {} algorithms at {} sizes\n",
               group.size(), fmt::join(shape_of(group.fabric().layout), " + "), group.hardware().cpu_model,
               group.hardware().num_cpus, group.hardware().transport, names.size(), options.sizes.size());
  if (flags.dry_run) {
    if (!leads) return kExitOk;
    fmt::print("algorithms: {}\n", fmt::join(names, ", "));
    for (const DType dtype : options.dtypes)
      for (const int64_t bytes : options.sizes)
        fmt::print("{:>11} {}: {}\n", format_bytes(static_cast<double>(bytes)), name_of(dtype),
                   group.explain_all_reduce(bytes, dtype));
    fmt::print("nothing was measured; {} would be written\n", file);
    return kExitOk;
  }
  ProgressBar bar("measuring", ProgressBar::Unit::kItems, leads && !flags.group.no_progress);
  const net::TuneResult result =
      net::tune_all_reduce(group, options, [&](int64_t done, int64_t total) { bar.update(done, total); });
  bar.clear();
  if (!leads) return kExitOk;
  print_result(result);
  save_tuning(file, result.entry);
  fmt::print("saved in {}: from now on Lane chooses by it on this hardware\n", file);
  return kExitOk;
}

int tune_gpus(const Flags& flags, Communicator& group, net::DeviceTuneOptions options) {
  const bool leads = group.rank() == 0;
  const std::string file = leads ? tuning_output(flags.output) : "";
  const std::vector<int64_t> sizes = options.sizes;
  if (flags.dry_run) options.sizes.clear();
  ProgressBar bar("measuring", ProgressBar::Unit::kItems, leads && !flags.group.no_progress && !flags.dry_run);
  const auto say = [&](const net::DeviceMachine& machine) {
    if (leads)
      fmt::print("all-reduce among {} ranks ({} by host) by {} ({}) at {} sizes\n", group.size(),
                 fmt::join(shape_of(group.fabric().layout), " + "), group.device_hardware().transport, machine.driver,
                 sizes.size());
    std::fflush(stdout);
  };
  const net::TuneResult result =
      net::tune_device_all_reduce(group, options, say, [&](int64_t done, int64_t total) { bar.update(done, total); });
  bar.clear();
  if (!leads) return kExitOk;
  if (flags.dry_run) {
    for (const DType dtype : options.dtypes)
      for (const int64_t bytes : sizes)
        fmt::print("{:>11} {}: {}\n", format_bytes(static_cast<double>(bytes)), name_of(dtype),
                   group.explain_device(bytes, dtype));
    fmt::print("nothing was measured; {} would be written\n", file);
    return kExitOk;
  }
  const int wrong = print_lines(result, "chosen so far");
  fmt::print("\nSo far something more than 10 % slower was chosen at {} of {} sizes.\n", wrong, result.lines.size());
  save_tuning(file, result.entry);
  fmt::print("saved in {}: from now on Lane chooses by it on such GPUs\n", file);
  return kExitOk;
}

int start_on_gpus(const Flags& flags, const Program& program) {
  GroupFlags group = flags.group;
  group.own_cores = false;  // libraries' threads would share it
  const net::DeviceTuneOptions options{.sizes = group.size_list(), .dtypes = group.dtype_list()};
  net::require_cuda_build();
  return run_on_ranks(group, program, [&](Communicator& ranks, bool) { return tune_gpus(flags, ranks, options); });
}

}  // namespace

void add_tune(CLI::App& app, Program& program) {
  CLI::App* parent = app.add_subcommand(
      "tune", "What is the fastest here: Lane's algorithms, measured and remembered; NCCL's, from measurements");
  parent->require_subcommand(1);
  add_tune_nccl(*parent, program);
  CLI::App* command = parent->add_subcommand("collectives", "The all-reduce of a group of ranks, at all sizes");
  command->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  auto flags = std::make_shared<Flags>();
  flags->group.add_to(*command);
  command
      ->add_option("--device", flags->device,
                   "Where the vectors are: cpu, or cuda with one process for each GPU, and sizes from 1K to 256M")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command
      ->add_option("--confidence", flags->confidence,
                   "Go on until the median is known so well: half of its 95 % interval over itself")
      ->check(CLI::Range(0.001, 1.0))
      ->capture_default_str();
  command->add_option("--time-limit", flags->limit_s, "... or one algorithm took so many seconds at one size")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  command->add_option("--output", flags->output, "File to add the measurements to [LANE_TUNING]");
  command->add_flag("--dry-run", flags->dry_run, "Say what would be measured and what the choice is now");
  command->footer(
      "Lane chooses among its all-reduce algorithms by a cost model, or by such a table where there is one for the "
      "CPU,\n"
      "the transport and the numbers of ranks by host. Run it as the job will run, on a machine that does nothing "
      "else:\n"
      "  lane tune collectives --ranks 4\n"
      "  lane tune collectives --ranks 4 --device cuda\n"
      "  lane launch --hosts a:2,b:2 -- tune collectives --sizes 1K:4M:2");
  command->callback([&program, flags, command] {
    const auto is_given = [&](const char* name) { return command->get_option(name)->count() > 0; };
    if (flags->device == "cuda" && !is_given("--sizes")) flags->group.sizes = "1K:256M:2";
    const bool has_limit = is_given("--confidence") || is_given("--time-limit");
    program.run = [&program, flags, has_limit] {
      if (flags->device == "cuda" && has_limit)
        throw Error(ErrorCode::kInvalidArgument,
                    "--confidence and --time-limit are for --device cpu; on GPUs the number of samples is fixed");
      if (flags->device == "cuda") return start_on_gpus(*flags, program);
      const net::TuneOptions options{.sizes = flags->group.size_list(),
                                     .dtypes = flags->group.dtype_list(),
                                     .confidence = flags->confidence,
                                     .limit_s = flags->limit_s};
      return run_on_ranks(flags->group, program,
                          [&](Communicator& group, bool) { return tune(*flags, group, options); });
    };
  });
}

}  // namespace lane::cli
