#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <filesystem>

#include "cli/commands.h"
#include "cli/group_job.h"
#include "cli/progress.h"
#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/units.h"
#include "lane/comm/tuning.h"
#include "lane/net/tune_all_reduce.h"
#include "lane/plan/schedule.h"

namespace lane::cli {
namespace {

struct Flags {
  GroupFlags group{.sizes = "8:64M:4", .dtypes = {"float32", "bfloat16"}};
  double confidence = 0.05, limit_s = 1;
  std::string output;
  bool dry_run = false;
};

std::string link_text(const char* name, const plan::Link& link) {
  return fmt::format("  {:<7} latency {}, {} a port, {} for each further message\n", name,
                     format_duration(link.latency_s), format_rate(link.bytes_per_s), format_duration(link.message_s));
}

void print_result(const net::TuneResult& result) {
  const int width = result.entry.ranks_per_node.size() > 1 ? 44 : 24;  // names for several hosts are made of two
  fmt::print("{:>11}  {:<9} {:<{}} {:>10} {:>6}  {:<{}} {:>7}\n", "size", "type", "fastest", width, "median", "+-",
             "the cost model's choice", width, "slower");
  int wrong = 0;
  for (const net::TuneLine& line : result.lines) {
    std::string slower;  // nothing: it chose the same
    if (line.of_model != line.winner) {
      slower = line.of_model_s > 0 ? fmt::format("{:.0f} %", 100 * (line.of_model_s / line.winner_s - 1)) : "far";
      if (line.of_model_s == 0 || line.of_model_s > 1.1 * line.winner_s) ++wrong;
    }
    fmt::print("{:>11}  {:<9} {:<{}} {:>10} {:>4.0f} %  {:<{}} {:>7}\n", format_bytes(static_cast<double>(line.bytes)),
               name_of(line.dtype), line.winner, width, format_duration(line.winner_s), 100 * line.uncertainty,
               line.of_model == line.winner ? "the same" : line.of_model, width, slower);
  }
  fmt::print("\nThe cost model chose something more than 10 % slower at {} of {} sizes.\n", wrong, result.lines.size());
  fmt::print("Constants of the cost model that fit these times best (half of them within {:.0f} %):\n{}",
             100 * result.fit.typical_error, link_text("local", result.fit.links.local));
  if (result.entry.ranks_per_node.size() > 1) fmt::print("{}", link_text("remote", result.fit.links.remote));
}

void save(const std::string& file, const TuningEntry& entry) {
  TuningTable table;
  if (file_exists(file)) table = TuningTable::parse(read_file(file), file);
  table.merge(entry);
  const std::filesystem::path folder = std::filesystem::path(file).parent_path();
  std::error_code failed;
  if (!folder.empty()) std::filesystem::create_directories(folder, failed);
  if (failed)
    throw Error(ErrorCode::kSystem,
                fmt::format("creating {}: {}; choose another place with --output", folder.string(), failed.message()));
  write_file(file, table.to_text());
}

std::string file_of(const Flags& flags) {
  const std::string file = flags.output.empty() ? tuning_file() : flags.output;
  if (file.empty())
    throw Error(ErrorCode::kInvalidArgument,
                "there is no place for the table: LANE_TUNING=off, or neither XDG_CACHE_HOME nor HOME is set; give "
                "--output FILE");
  if (file_exists(file)) TuningTable::parse(read_file(file), file);  // to be merged with: better to know it now
  return file;
}

int tune(const Flags& flags, Communicator& group, const net::TuneOptions& options) {
  const bool leads = group.rank() == 0;
  const std::string file = leads ? file_of(flags) : "";
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
  save(file, result.entry);
  fmt::print("saved in {}: from now on Lane chooses by it on this hardware\n", file);
  return kExitOk;
}

}  // namespace

void add_tune(CLI::App& app, Program& program) {
  CLI::App* parent = app.add_subcommand("tune", "Measure which algorithms are the fastest here, and remember it");
  parent->require_subcommand(1);
  CLI::App* command = parent->add_subcommand("collectives", "The all-reduce of a group of ranks, at all sizes");
  command->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  auto flags = std::make_shared<Flags>();
  flags->group.add_to(*command);
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
      "  lane launch --hosts a:2,b:2 -- tune collectives --sizes 1K:4M:2");
  command->callback([&program, flags] {
    program.run = [&program, flags] {
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
