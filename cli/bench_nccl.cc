#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>

#include "cli/commands.h"
#include "cli/nccl_plugin.h"
#include "cli/shape_flags.h"
#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/units.h"
#include "lane/net/nccl_script.h"
#include "lane/topology/hostlist.h"

namespace lane::cli {
namespace {

struct Flags {
  net::NcclScriptOptions options;
  ShapeFlags shape{.model = "llama-3-70b"};
  std::string hosts, sizes = "1K:1G", script;
  std::vector<std::string> settings;
  bool for_tune = false;
};

// What is worth a try at any size: the algorithms that every machine has, with all protocols.
std::vector<std::string> usual_settings() {
  return {"ring_ll",    "ring_ll128",  "ring_simple", "tree_ll",
          "tree_ll128", "tree_simple", "nvls_simple", "nvls_tree_simple"};
}

void read_sizes(const std::string& sizes, net::NcclScriptOptions& options) {
  const size_t colon = sizes.find(':');
  if (colon == std::string::npos)
    throw Error(ErrorCode::kInvalidArgument, "--sizes " + sizes + ": expected SMALLEST:LARGEST such as 1K:1G");
  options.min_bytes = parse_bytes(sizes.substr(0, colon), "--sizes");
  options.max_bytes = parse_bytes(sizes.substr(colon + 1), "--sizes");
}

int run(const Flags& flags, const Program& program) {
  net::NcclScriptOptions options = flags.options;
  options.version = LANE_VERSION;
  options.command = fmt::format("lane {}", fmt::join(program.arguments, " "));
  if (options.ranks_per_node == 0) options.ranks_per_node = std::min(options.num_ranks, 8);
  if (!flags.hosts.empty()) options.hosts = topology::expand_hostlist(flags.hosts);
  read_sizes(flags.sizes, options);
  const auto [name, shape] = flags.shape.finish();
  options.model_name = name;
  options.hidden_size = shape.hidden_size;
  std::vector<std::string> settings = flags.settings;
  if (settings.empty() && flags.for_tune) settings = usual_settings();
  for (const std::string& setting : settings) {
    const net::NcclSetting parsed = net::parse_nccl_setting(setting);
    if (!parsed.is_default()) options.settings.push_back(parsed);
  }
  if (!options.table.empty()) {
    if (!file_exists(options.table))
      throw Error(ErrorCode::kInvalidArgument, "--verify " + options.table + ": there is no such file");
    options.table = std::filesystem::absolute(options.table).lexically_normal().string();
    if (options.tuner_plugin.empty()) options.tuner_plugin = nccl_plugin_path();
  }
  const std::string script = net::nccl_script(options);
  if (flags.script.empty() || flags.script == "-") {
    fmt::print("{}", script);
    return kExitOk;
  }
  write_file(flags.script, script);
  ::chmod(flags.script.c_str(), 0755);
  std::string beside = options.table.empty() ? "" : " and the table";
  if (!options.settings.empty()) beside += fmt::format(" and {} forced settings", options.settings.size());
  fmt::print("wrote {}: it measures NCCL's own choice{} among {} ranks, {} times each\n", flags.script, beside,
             options.num_ranks, options.repeats);
  fmt::print(
      "look at what it would run:  bash {} -n\nrun it inside a job:        NCCL_TESTS=/path/to/nccl-tests/build bash "
      "{}\n",
      flags.script, flags.script);
  return kExitOk;
}

}  // namespace

void add_bench_nccl(CLI::App& bench, Program& program) {
  CLI::App* command = bench.add_subcommand("nccl", "Write the script that measures NCCL on a cluster with nccl-tests");
  auto flags = std::make_shared<Flags>();
  net::NcclScriptOptions& options = flags->options;
  command->add_option("--ranks", options.num_ranks, "GPUs in all")->required()->check(CLI::Range(2, 1 << 20));
  command
      ->add_option("--ranks-per-node", options.ranks_per_node, "GPUs of a node; 8 if left out, or all ranks if fewer")
      ->check(CLI::Range(1, 1024));
  command->add_option("--script", flags->script, "File to write; - or nothing: to standard output")->expected(0, 1);
  command->add_option("--launcher", options.launcher, "What starts the ranks")
      ->check(CLI::IsMember({"mpirun", "srun"}))
      ->capture_default_str();
  command->add_option("--hosts", flags->hosts, "Nodes: n[01-04] or a,b; else those of the scheduler");
  command->add_option("--hostfile", options.hostfile, "Nodes, in a file for mpirun");
  flags->shape.add_to(*command);
  command->add_option("--max-batch", options.max_batch, "Decode sizes are those of batches 1, 2, 4, ... this")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command->add_option("--sizes", flags->sizes, "Of the sweep beside the decode sizes, doubling")->capture_default_str();
  command->add_option("--dtype", options.type, "Of the elements, in nccl-tests' words")
      ->check(CLI::IsMember({"bfloat16", "half", "float"}))
      ->capture_default_str();
  command->add_option("--collectives", options.collectives, "all_reduce, all_gather, reduce_scatter, broadcast, reduce")
      ->delimiter(',')
      ->capture_default_str();
  command->add_flag("--for-tune", flags->for_tune,
                    "Measure forced settings too, in turns: ring and tree with each protocol, NVLS");
  command->add_option("--settings", flags->settings, "These settings instead: ring_ll,tree_simple_c8,...")
      ->delimiter(',');
  command->add_option("--tuner", options.tuner_plugin,
                      "Force them through this liblane-nccl-tuner.so, not by variables");
  command->add_option("--verify", options.table, "Measure this table of `lane tune nccl` beside NCCL's own choice");
  command->add_option("--repeats", options.repeats, "Runs of each; a test needs several")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--iters", options.iterations, "Calls in a run")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--warmup", options.warmup, "Calls before")->check(CLI::Range(0, 1 << 20))->capture_default_str();
  command->add_option("--cuda-graph", options.graph_launches, "Measure in CUDA graphs, so many launches; 0: without")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command->footer(
      "Examples:\n"
      "  lane bench nccl --ranks 16 --model llama-3-70b --script nccl.sh\n"
      "  lane bench nccl --ranks 64 --launcher srun --for-tune --script sweep.sh\n"
      "\nNothing is run: the script is yours to read and start. Its results go to `lane bench import` and `lane tune "
      "nccl`.");
  command->callback([&program, flags] { program.run = [&program, flags] { return run(*flags, program); }; });
}

}  // namespace lane::cli
