#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <map>

#include "cli/commands.h"
#include "cli/fabric_flags.h"
#include "cli/shape_flags.h"
#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/settings.h"
#include "lane/base/units.h"
#include "lane/place/import.h"
#include "lane/place/write.h"
#include "lane/topology/hostlist.h"

namespace lane::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct Flags {
  std::string topology, format_in, free, nodes, exclude, save_topology;
  place::ImportOptions import;
  ShapeFlags shape;
  plan::ParallelPlan plan;
  std::string objective = "decode", format = "table", mpi = "openmpi5", output;
  place::Job job;
  place::SearchOptions search;
  bool spread = false, pack = false, json = false;
};

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::kInvalidArgument, what); }

std::vector<std::string> expand(const std::string& list, const char* flag) {
  try {
    return topology::expand_hostlist(list);
  } catch (const Error& error) {
    refuse(std::string(flag) + ": " + error.what());
  }
}

// A file, or a host list where there is no such file.
place::Imported load(const Flags& flags) {
  place::ImportOptions options = flags.import;
  if (!flags.format_in.empty()) options.format = place::format_of(flags.format_in);
  options.nodes = flags.nodes;
  if (file_exists(flags.topology) || flags.topology.find('/') != std::string::npos)
    return place::import_topology(read_file(flags.topology), flags.topology, options);
  if (!options.format) options.format = place::Format::kHosts;
  return place::import_topology(flags.topology, "--topology " + flags.topology, options);
}

// ---- for people

struct Row {
  std::string ranks, gpus;
  std::vector<std::string> hosts;
};

// Hosts that follow each other and hold as many ranks on the same GPUs share a row.
std::vector<Row> rows_of(const plan::Reach& reach, const place::Result& result, size_t begin, size_t end) {
  struct Part {
    size_t first = 0, last = 0;
    std::vector<int> gpus;
  };
  std::map<int, Part> parts;
  std::vector<int> order;
  for (size_t rank = begin; rank < end; ++rank) {
    const topology::GpuRef gpu = result.placement.gpus[rank];
    const auto [found, is_new] = parts.try_emplace(gpu.host, Part{rank, rank, {}});
    if (is_new) order.push_back(gpu.host);
    found->second.last = rank;
    found->second.gpus.push_back(reach.topology().hosts[gpu.host].gpus[gpu.gpu].index);
  }
  std::vector<Row> rows;
  std::vector<std::pair<size_t, size_t>> range;
  for (const int host : order) {
    const Part& part = parts.at(host);
    std::string gpus = fmt::format("{}", fmt::join(part.gpus, ","));
    const int last = part.gpus.back();
    if (part.gpus.size() > 2 && last - part.gpus.front() + 1 == static_cast<int>(part.gpus.size()) &&
        std::is_sorted(part.gpus.begin(), part.gpus.end()))
      gpus = fmt::format("{}-{}", part.gpus.front(), last);
    const std::string& name = reach.topology().hosts[host].name;
    if (rows.empty() || rows.back().gpus != gpus || range.back().second + 1 != part.first) {
      rows.push_back({"", gpus, {}});
      range.emplace_back(part.first, part.last);
    }
    rows.back().hosts.push_back(name);
    range.back().second = part.last;
    rows.back().ranks = range.back().first == part.last ? fmt::format("{}", part.last)
                                                        : fmt::format("{}-{}", range.back().first, part.last);
  }
  return rows;
}

std::string shortened(const std::string& text, size_t limit) {
  return text.size() <= limit ? text : text.substr(0, limit - 3) + "...";
}

std::string table_of(const plan::Reach& reach, const place::Job& job, const place::Result& result, bool in_colour) {
  constexpr size_t kMaxRows = 200, kHostWidth = 34;
  std::string text =
      fmt::format("{:>11}  {:>7}  {:>5}  {:<{}}  {:<15}  {:<7}  {:>12}  {}\n", "ranks", "replica", "stage", "hosts",
                  kHostWidth, "GPUs of each", "tier", "all-reduce", "to the next stage");
  size_t num_rows = 0;
  const auto tensor = static_cast<size_t>(job.plan.tensor), pipeline = static_cast<size_t>(job.plan.pipeline);
  for (size_t i = 0; i < result.placement.groups.size(); ++i) {
    const place::Group& group = result.placement.groups[i];
    const bool is_last = i % pipeline + 1 == pipeline;
    bool is_first = true;
    for (const Row& row : rows_of(reach, result, i * tensor, (i + 1) * tensor)) {
      if (++num_rows > kMaxRows)
        return text + fmt::format("... {} groups in all; --format json has them\n", result.placement.groups.size());
      // Beyond the leaf stands out.
      const bool is_far = in_colour && is_first && group.tier > plan::Tier::kLeaf;
      text += fmt::format(
          "{:>11}  {:>7}  {:>5}  {:<{}}  {:<15}  {}{:<7}{}  {:>12}  {}\n", row.ranks, i / pipeline, i % pipeline,
          shortened(topology::compress_hostlist(row.hosts), kHostWidth), kHostWidth, shortened(row.gpus, 15),
          is_far ? "\x1b[33m" : "", is_first ? name_of(group.tier) : "", is_far ? "\x1b[0m" : "",
          is_first && tensor > 1 ? format_duration(group.all_reduce_s) : "",
          is_first && !is_last ? name_of(result.placement.hops[i / pipeline * (pipeline - 1) + i % pipeline]) : "");
      is_first = false;
    }
  }
  return text;
}

std::string against(double other_s, double mine_s) {
  if (other_s <= 0 || mine_s <= 0) return "";
  return other_s > mine_s * 1.0005   ? fmt::format("  ({:.1f} % more)", 100 * (other_s / mine_s - 1))
         : other_s < mine_s * 0.9995 ? fmt::format("  ({:.1f} % less)", 100 * (1 - other_s / mine_s))
                                     : "  (the same)";
}

std::string summary_of(const place::Job& job, const place::Result& result, const std::string& model) {
  const char* work = job.objective == place::Objective::kDecode ? "decode step" : "prefill";
  const double step_s = result.placement.step_s;
  std::string text =
      fmt::format("\ncommunication of a {} of {}, batch {} (cost model, not measured):\n", work, model, job.batch);
  const auto row = [&](const char* name, double seconds, const std::string& note) {
    text += fmt::format("  {:<22} {:>10.1f} µs{}\n", name, seconds * 1e6, note);
  };
  row("this placement", step_s,
      result.is_optimal ? "  (optimal: proved)"
                        : fmt::format("  (at most {:.1f} % above the bound of {:.1f} µs)",
                                      100 * (step_s / result.bound_s - 1), result.bound_s * 1e6));
  row("hosts in their order", result.naive_s,
      against(result.naive_s, step_s) + (result.naive_is_even ? "" : ", but it splits groups unevenly"));
  row("random order, mean", result.random_mean_s, against(result.random_mean_s, step_s));
  if (!result.why.empty()) text += "why:\n";
  for (const std::string& line : result.why) text += "  " + line + "\n";
  return text;
}

// ---- the command

std::string render(const Flags& flags, const plan::Reach& reach, const place::Job& job, const place::Result& result,
                   const std::string& model) {
  const topology::Topology& topology = reach.topology();
  const place::Mpi mpi = flags.mpi == "openmpi5"   ? place::Mpi::kOpenMpi5
                         : flags.mpi == "openmpi4" ? place::Mpi::kOpenMpi4
                                                   : place::Mpi::kHydra;
  if (flags.json || flags.format == "json") return to_json(topology, job, result) + "\n";
  if (flags.format == "hostfile") return to_hostfile(topology, result.placement, mpi);
  if (flags.format == "rankfile") return to_rankfile(topology, result.placement, mpi);
  if (flags.format == "slurm") return to_slurm(reach, result.placement);
  if (flags.format == "kueue") return to_kueue(reach, job, result.placement);
  if (flags.format == "env") return to_env(topology, result.placement);
  const bool in_colour = flags.output.empty() && ::isatty(STDOUT_FILENO) != 0 && !colours_refused();
  return table_of(reach, job, result, in_colour) + summary_of(job, result, model);
}

int run(const Flags& flags) {
  const auto [model, shape] = flags.shape.finish();
  place::Job job = flags.job;
  job.shape = shape;
  job.plan = flags.plan;
  job.objective = flags.objective == "decode" ? place::Objective::kDecode : place::Objective::kPrefill;
  job.spread = flags.pack ? place::Spread::kPack : place::Spread::kSpread;
  if (!flags.exclude.empty()) job.exclude = expand(flags.exclude, "--exclude");
  place::Imported imported = load(flags);
  if (!flags.nodes.empty()) job.include = expand(flags.nodes, "--nodes");
  if (!flags.free.empty())
    place::set_free(imported.topology, file_exists(flags.free) ? read_file(flags.free) : flags.free,
                    "--free " + flags.free);
  if (!flags.save_topology.empty()) write_file(flags.save_topology, topology::to_json(imported.topology) + "\n");
  for (const std::string& note : imported.notes) fmt::print(stderr, "note: {}\n", note);

  const auto start = Clock::now();
  const plan::Reach reach(imported.topology);
  const place::Result result = place::place(reach, job, flags.search);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  const std::string text = render(flags, reach, job, result, model);
  if (flags.output.empty()) {
    fmt::print("{}", text);
  } else {
    write_file(flags.output, text);
  }
  if (flags.format == "table" && !flags.json)
    fmt::print(stderr, "{} on {} in {}{}\n", plural(job.plan.num_ranks(), "rank"),
               plural(static_cast<int>(imported.topology.hosts.size()), "host"), format_duration(seconds),
               result.num_nodes > 0 ? fmt::format(", {} nodes of branch and bound", result.num_nodes) : "");
  return kExitOk;
}

void add_cluster_flags(CLI::App& command, Flags& flags) {
  command
      .add_option("--topology", flags.topology,
                  "File: Slurm's topology.conf or topology.yaml, ibnetdiscover's output, CSV, a hostfile, or JSON of "
                  "Lane or of lane doctor; or a host list such as n[01-16]")
      ->required();
  command.add_option("--format-in", flags.format_in, "What it is, instead of telling by its text")
      ->check(CLI::IsMember(place::format_names()));
  command.add_option("--topology-name", flags.import.topology, "Which topology of a topology.yaml [its default]");
  place::HostDefaults& hosts = flags.import.hosts;
  command.add_option("--gpu", hosts.gpu, "Kind of GPU, where the file does not say [h100]")
      ->check(CLI::IsMember(place::gpu_kinds()));
  command.add_option("--gpus-per-node", hosts.num_gpus, "GPUs of a host, where the file does not say [of the kind]")
      ->check(CLI::Range(1, 1024));
  command.add_option("--nics-per-node", hosts.num_nics, "NICs of a host, where the file does not say [one a GPU]")
      ->check(CLI::Range(1, 1024));
  command.add_option("--nic-gbit", hosts.nic_gbit_per_s, "Gb/s of such a NIC [of the kind]")
      ->check(CLI::Range(0.001, 1e6));
  command.add_flag("--leaf-is-nvlink-domain", hosts.leaf_is_nvlink_domain,
                   "GPUs below a leaf switch or in a block are one NVLink domain: racks such as NVL72");
  command.add_option("--free", flags.free,
                     "GPUs that are free, in a file or as text: 'n[01-04]; n05:0-3,6' [all that are not busy]");
  command.add_option("--nodes", flags.nodes, "Use these hosts only: a host list");
  command.add_option("--exclude", flags.exclude, "Do not use these hosts");
  command.add_option("--save-topology", flags.save_topology, "Also write the topology, as JSON, to this file");
}

void add_job_flags(CLI::App& command, Flags& flags) {
  flags.shape.add_to(command);
  const CLI::Range count(1, 1 << 20);
  command.add_option("--tp", flags.plan.tensor, "Tensor-parallel ranks of a group")
      ->check(count)
      ->capture_default_str();
  command.add_option("--pp", flags.plan.pipeline, "Pipeline stages of a replica")->check(count)->capture_default_str();
  command.add_option("--replicas", flags.plan.replicas, "Copies of the model")->check(count)->capture_default_str();
  command.add_option("--batch", flags.job.batch, "Sequences of a replica at a time")
      ->check(count)
      ->capture_default_str();
  command.add_option("--input-len", flags.job.input_tokens, "Tokens of each, for --objective prefill")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str();
  command.add_option("--objective", flags.objective, "What is to be fast")
      ->check(CLI::IsMember({"decode", "prefill"}))
      ->capture_default_str();
  auto* spread = command.add_flag("--spread", flags.spread,
                                  "Replicas on different leaf switches if it costs nothing; "
                                  "the default");
  command.add_flag("--pack", flags.pack, "... or on as few as possible")->excludes(spread);
  command.add_flag("--same-rack", flags.job.same_rack, "All ranks of a replica in one rack");
}

}  // namespace

void add_place(CLI::App& app, Program& program) {
  CLI::App* command =
      app.add_subcommand("place", "Where the ranks of a job should go on a cluster, and what that costs");
  auto flags = std::make_shared<Flags>();
  flags->shape.model = "llama-3-70b";
  add_cluster_flags(*command, *flags);
  add_job_flags(*command, *flags);
  command->add_option("--format", flags->format, "What is printed")
      ->check(CLI::IsMember({"table", "json", "hostfile", "rankfile", "slurm", "kueue", "env"}))
      ->capture_default_str();
  command->add_option("--mpi", flags->mpi, "Whose mpirun a hostfile or rankfile is for")
      ->check(CLI::IsMember({"openmpi5", "openmpi4", "hydra"}))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "The same as --format json");
  command->add_option("--output,-o", flags->output, "File to write instead of standard output");
  command->add_option("--seed", flags->search.seed, "Of the random orders that it is compared with")
      ->capture_default_str();
  command->footer(
      "Ranks are numbered (replica x pp + stage) x tp + tensor index. Exit status 1: it does not fit, and why.\n"
      "Examples:\n"
      "  lane place --topology /etc/slurm/topology.conf --gpu h100 --model llama-3-405b --tp 16 --replicas 2\n"
      "  lane place --topology 'n[01-16]' --tp 8 --pp 2 --replicas 4 --format slurm -o job.sh\n"
      "  sudo ibnetdiscover > fabric.txt && lane place --topology fabric.txt --tp 16 --format env");
  command->callback([&program, flags] { program.run = [flags] { return run(*flags); }; });
}

}  // namespace lane::cli
