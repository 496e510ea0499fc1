#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>

#include "cli/commands.h"
#include "cli/nccl_plugin.h"
#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/units.h"
#include "lane/comm/tuning.h"
#include "lane/net/nccl_tune.h"

namespace lane::cli {
namespace {

namespace fs = std::filesystem;

struct Flags {
  std::vector<std::string> from, beside;
  std::string mode, output, plugin, min_bytes, max_bytes;
  double noise = 0;
  net::ImportOptions options;
  bool json = false;
};

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Folders stand for their files. A log beside its JSON says the same again, and tables are no results.
std::vector<std::string> files_of(const std::vector<std::string>& from) {
  std::set<std::string> files;
  std::error_code ignored;
  for (const std::string& path : from) {
    if (!fs::is_directory(path, ignored)) {
      files.insert(path);
      continue;
    }
    for (const auto& entry : fs::directory_iterator(path, ignored))
      if (entry.is_regular_file(ignored)) files.insert(entry.path().string());
  }
  std::vector<std::string> kept;
  for (const std::string& file : files) {
    if (ends_with(file, ".csv")) continue;
    const bool is_log = ends_with(file, ".log") && !ends_with(file, ".proof.log");
    if (is_log && file_exists(file.substr(0, file.size() - 4) + ".json")) continue;
    kept.push_back(file);
  }
  return kept;
}

int how_to_measure() {
  fmt::print(stderr,
             "lane tune nccl chooses from measurements, and --from names none. To get them:\n"
             "  1. lane bench nccl --ranks 16 --model llama-3-70b --for-tune --script sweep.sh\n"
             "  2. run sweep.sh inside a job, on nodes that do nothing else\n"
             "  3. lane tune nccl --from nccl-results --output nccl-tuning\n");
  return kExitUsage;
}

void write_all(const net::NcclTuning& tuning, const Flags& flags) {
  std::error_code failed;
  fs::create_directories(flags.output, failed);
  if (failed)
    throw Error(ErrorCode::kSystem,
                fmt::format("creating {}: {}; choose another place with --output", flags.output, failed.message()));
  const fs::path folder = fs::absolute(flags.output).lexically_normal();
  const std::string csv = (folder / "nccl_tuner.csv").string();
  const std::string plugin = flags.plugin.empty() ? nccl_plugin_path() : flags.plugin;
  write_file(csv, net::tuner_csv(tuning));
  write_file((folder / "nccl_env.sh").string(), net::tuner_environment(tuning, csv, plugin));
  write_file((folder / "nccl_undo.sh").string(), net::tuner_undo());
  write_file((folder / "report.txt").string(), net::tuning_text(tuning));
  if (flags.json) return;
  fmt::print("wrote {0}: nccl_tuner.csv, nccl_env.sh (source it before the job), nccl_undo.sh, report.txt\n",
             folder.string());
}

int run(const Flags& flags) {
  if (flags.from.empty()) return how_to_measure();
  net::NcclTuneOptions options = net::sizes_of_mode(flags.mode);
  if (!flags.min_bytes.empty()) options.min_bytes = parse_bytes(flags.min_bytes, "--min-bytes");
  if (!flags.max_bytes.empty()) options.max_bytes = parse_bytes(flags.max_bytes, "--max-bytes");
  options.noise = flags.noise;
  std::vector<net::SweepFile> files;
  std::vector<std::string> unread;
  for (const std::string& file : files_of(flags.from)) try {
      files.push_back({fs::path(file).filename().string(), net::import_results(read_file(file), file, flags.options)});
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kCorruptData) throw;
      unread.push_back(error.what());
    }
  net::NcclTuning tuning = net::tune_nccl(files, options);
  for (const std::string& file : flags.beside) {
    const std::vector<net::OtherTime> others = net::others_of(TuningTable::parse(read_file(file), file));
    tuning.others.insert(tuning.others.end(), others.begin(), others.end());
  }
  tuning.notes.insert(tuning.notes.end(), unread.begin(), unread.end());
  if (!flags.output.empty()) write_all(tuning, flags);
  if (flags.json) {
    fmt::print("{}\n", net::to_json(tuning).dump(1, ' ', true, Json::error_handler_t::replace));
    return kExitOk;
  }
  fmt::print("{}", net::tuning_text(tuning));
  if (flags.output.empty()) fmt::print("nothing was written; --output DIR writes the table for NCCL and its undo\n");
  return kExitOk;
}

}  // namespace

void add_tune_nccl(CLI::App& tune, Program& program) {
  CLI::App* command = tune.add_subcommand("nccl", "Make NCCL's tuner table from measured sweeps");
  auto flags = std::make_shared<Flags>();
  command->add_option("--from", flags->from, "Results of the script of `lane bench nccl`: files or folders");
  command->add_option("--mode", flags->mode, "Which sizes count: inference, up to 128 MiB; training, from 1 MiB; all")
      ->check(CLI::IsMember({"inference", "training"}));
  command->add_option("--min-bytes", flags->min_bytes, "... or from this size");
  command->add_option("--max-bytes", flags->max_bytes, "... up to this one");
  command
      ->add_option("--noise", flags->noise,
                   "Sigma of a run's time over it, for settings that were run less than 3 times")
      ->check(CLI::Range(0.0001, 0.9999));
  command->add_option("--beside", flags->beside,
                      "Tables of `lane tune collectives`, to show Lane's own kernels beside NCCL");
  command->add_option("--output", flags->output, "Folder for nccl_tuner.csv, nccl_env.sh, nccl_undo.sh and the report");
  command->add_option("--plugin", flags->plugin, "Where the job finds liblane-nccl-tuner.so; Lane's own if left out");
  command->add_option("--ranks", flags->options.num_ranks, "Where a file does not say")->check(CLI::Range(1, 1 << 20));
  command->add_option("--nodes", flags->options.num_nodes, "Where a file does not say")->check(CLI::Range(1, 1 << 20));
  command->add_option("--collective", flags->options.collective, "Where a file does not say");
  command->add_flag("--json", flags->json, "One JSON document");
  command->footer(
      "Example:\n"
      "  lane bench nccl --ranks 16 --for-tune --script sweep.sh      then run sweep.sh in a job\n"
      "  lane tune nccl --from nccl-results --mode inference --output nccl-tuning\n"
      "\nNCCL's own choice stays unless a setting is faster by more than 3 % and by more than two sigma. "
      "docs/tuning.md.");
  command->callback([&program, flags] { program.run = [flags] { return run(*flags); }; });
}

}  // namespace lane::cli
