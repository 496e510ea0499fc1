#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <map>
#include <numeric>

#include "cli/commands.h"
#include "cli/fabric_flags.h"
#include "cli/placement_file.h"
#include "cli/shape_flags.h"
#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/json.h"
#include "lane/base/units.h"
#include "lane/plan/gpu_peaks.h"
#include "lane/plan/simulate.h"
#include "lane/plan/step_graph.h"
#include "lane/topology/presets.h"

namespace lane::cli {
namespace {

using plan::Collective;
using topology::GpuRef;
using topology::Topology;

constexpr int kSchema = 1;
constexpr int64_t kFileLimit = int64_t{1} << 28;
constexpr int kMaxRanks = 1024, kMaxRanksAllToAll = 128;  // of one collective
constexpr Collective kCollectives[] = {Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather,
                                       Collective::kBroadcast, Collective::kGather,        Collective::kAllToAll};

struct Flags {
  ShapeFlags shape;
  std::string topology, preset, placement, dtype = "bfloat16", collective, bytes = "128K", algorithm, eager_bytes;
  std::string trace, csv;
  std::vector<std::string> slow, cut_links;
  int nodes = 0, tensor = 8, pipeline = 1, replicas = 1, batch = 1, micro_batches = 0, steps = 1, ranks = 0, links = 8;
  int64_t context = 2048, prefill = 0, chunk = 0;
  double peak_tflops = 0, read_gb_per_s = 0, operation_us = 2;
  bool one_by_one = false, json = false;
};

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::kInvalidArgument, what); }

Topology load_topology(const Flags& flags) {
  if (flags.topology.empty() == flags.preset.empty())
    refuse("give one of --topology FILE (lane doctor --json writes one) and --preset NAME");
  if (!flags.preset.empty()) return topology::preset(flags.preset, flags.nodes);
  if (flags.nodes > 0) refuse("--nodes goes with --preset; a file has its own hosts");
  return topology::topology_from_json(read_file(flags.topology, kFileLimit), flags.topology);
}

// "NAME:FACTOR", split at the last colon.
std::pair<std::string, double> name_and_factor(const std::string& flag, const std::string& text) {
  const size_t colon = text.rfind(':');
  double factor = 0;
  const char* end = text.data() + text.size();
  const bool is_number = colon != std::string::npos && colon > 0 &&
                         std::from_chars(text.data() + colon + 1, end, factor) == std::from_chars_result{end, {}};
  if (!is_number || !(factor > 0) || factor > 1e6)
    refuse(fmt::format("{} {}: expected {}", flag, text,
                       flag == "--slow" ? "RANK:FACTOR, such as 3:1.5 for a rank that takes half as long again"
                                        : "LINK:FACTOR, such as n017/mlx5_3:0.5 for half of its rate"));
  return {text.substr(0, colon), factor};
}

// Free GPUs, host by host.
std::vector<GpuRef> in_order(const Topology& topology, int count) {
  std::vector<GpuRef> gpus;
  for (int host = 0; host < static_cast<int>(topology.hosts.size()); ++host)
    for (int gpu = 0; gpu < static_cast<int>(topology.hosts[host].gpus.size()); ++gpu)
      if (!topology.hosts[host].gpus[gpu].is_busy) gpus.push_back({host, gpu});
  if (count == 0) count = static_cast<int>(gpus.size());
  if (gpus.empty() || static_cast<int>(gpus.size()) < count)
    refuse(fmt::format("{} ranks need as many free GPUs; {} has {}: give {}", count, topology.name, gpus.size(),
                       "--nodes, another --topology, or a smaller plan"));
  gpus.resize(count);
  return gpus;
}

// A thing to simulate, with words for it.
struct Case {
  std::string title;  // "decode step of ..."
  plan::Workload workload;
  double formula_s = 0;
  std::vector<plan::StepCollective> collectives;
  int num_ranks = 0, ranks_of_stage = 0;  // 0: ranks have no stages
  int64_t tokens = 0;                     // that come out
};

double eager_bytes(const Flags& flags) {
  return flags.eager_bytes.empty() ? std::numeric_limits<double>::infinity()
                                   : static_cast<double>(parse_bytes(flags.eager_bytes, "--eager-bytes"));
}

Case collective_case(const Flags& flags, const plan::Reach& reach, const std::vector<GpuRef>& gpus,
                     const plan::Network& network) {
  const auto named = std::find_if(std::begin(kCollectives), std::end(kCollectives),
                                  [&](Collective known) { return name_of(known) == flags.collective; });
  ensure(named != std::end(kCollectives), "the parser let only known collectives pass");
  const int num_ranks = static_cast<int>(gpus.size());
  const int most = *named == Collective::kAllToAll ? kMaxRanksAllToAll : kMaxRanks;
  if (num_ranks > most)
    refuse(fmt::format("--collective {}: {} ranks are too many, at most {}; give --ranks", flags.collective, num_ranks,
                       most));
  const plan::Fabric fabric = reach.fabric(gpus);
  const int64_t bytes = parse_bytes(flags.bytes, "--bytes");
  const double partial_scale = flags.dtype == "float32" ? 1 : 2;
  std::vector<plan::Candidate> candidates;
  std::vector<std::string> names = plan::schedule_names(*named, fabric.layout);
  if (flags.algorithm.empty())
    std::erase_if(names, [](const std::string& name) { return name.find("multicast") != std::string::npos; });
  else
    names = {flags.algorithm};
  for (const std::string& name : names)
    candidates.push_back({name, cost(make_schedule(name, *named, fabric.layout), *named, fabric, partial_scale)});
  const plan::Candidate& best = candidates[plan::cheapest(candidates, bytes)];
  plan::Exchange pattern = exchange_of(make_schedule(best.name, *named, fabric.layout), *named, fabric.layout,
                                       static_cast<double>(bytes), partial_scale);
  pattern.eager_bytes = eager_bytes(flags);
  Case result{.title = fmt::format("{} of {} by {}, {}", flags.collective, format_bytes(static_cast<double>(bytes)),
                                   best.name, words_for(fabric.layout)),
              .workload = workload_of(pattern, network),
              .formula_s = best.cost.at(bytes),
              .num_ranks = num_ranks};
  return result;
}

plan::ComputeSpeed speed_of(const Flags& flags, const topology::Gpu& gpu) {
  if ((flags.peak_tflops > 0) != (flags.read_gb_per_s > 0)) refuse("--peak-tflops and --read-gb-per-s go together");
  plan::GpuPeaks peaks{"GPU as given", flags.peak_tflops * 1e12, flags.read_gb_per_s * 1e9, 0};
  if (flags.peak_tflops == 0) peaks = plan::gpu_peaks(gpu.name);
  return {peaks.read_bytes_per_s * plan::kReadShare.expected, peaks.flops_per_s * plan::kProductShare.expected,
          flags.operation_us * 1e-6};
}

Case step_case(const Flags& flags, const Topology& topology, const plan::Reach& reach, const std::vector<GpuRef>& gpus,
               const plan::Network& network) {
  const auto [model, shape] = flags.shape.finish();
  const int bytes = flags.dtype == "float32" ? 4 : 2;
  plan::StepJob job{.shape = shape,
                    .plan = {flags.tensor, flags.pipeline, flags.replicas},
                    .num_steps = flags.steps,
                    .weight_bytes = bytes,
                    .kv_bytes = bytes,
                    .activation_bytes = bytes,
                    .partial_scale = bytes == 4 ? 1.0 : 2.0,
                    .eager_bytes = eager_bytes(flags),
                    .algorithm = flags.algorithm,
                    .speed = speed_of(flags, topology.hosts[gpus[0].host].gpus[gpus[0].gpu])};
  std::string what;
  if (flags.prefill > 0) {
    if (flags.steps > 1) refuse("--steps counts decode steps; leave it out with --prefill");
    const int64_t even = (flags.prefill + flags.pipeline - 1) / flags.pipeline;
    const int64_t chunk = flags.chunk > 0 ? flags.chunk : flags.pipeline > 1 ? even : flags.prefill;
    job.passes = plan::prefill_passes(flags.batch, flags.prefill, chunk);
    what = fmt::format("prefill of {} of {} tokens in chunks of {}", plural(flags.batch, "prompt"),
                       format_count(flags.prefill), format_count(std::min(chunk, flags.prefill)));
  } else {
    job.passes =
        plan::decode_passes(flags.batch, flags.micro_batches > 0 ? flags.micro_batches : flags.pipeline, flags.context);
    what = fmt::format("{} of {} a replica with {} tokens each in {}",
                       flags.steps == 1 ? "decode step" : fmt::format("{} decode steps", flags.steps),
                       plural(flags.batch, "sequence"), format_count(flags.context),
                       job.passes.size() == 1 ? "one pass" : fmt::format("{} micro-batches", job.passes.size()));
  }
  const auto fabric_of = [&](std::span<const int> ranks) {
    std::vector<GpuRef> group;
    for (const int rank : ranks) group.push_back(gpus[rank]);
    return reach.fabric(group);
  };
  plan::StepGraph graph = plan::step_graph(job, network, fabric_of);
  Case result{.title = fmt::format("{} in {}: {}, TP {} x PP {} x {}", model, flags.dtype, what, flags.tensor,
                                   flags.pipeline, plural(flags.replicas, "replica")),
              .workload = std::move(graph.workload),
              .formula_s = graph.priced_s,
              .collectives = std::move(graph.collectives),
              .num_ranks = job.plan.num_ranks(),
              .ranks_of_stage = flags.tensor,
              .tokens = int64_t{flags.steps} * flags.batch * flags.replicas};
  return result;
}

// Links of one kind with as much to do as each other: names that differ in digits alone.
struct LinkGroup {
  std::string first;
  int count = 0;
  double bytes = 0, bytes_per_s = 0, busy = 0;  // busy: part of the time at full rate
};

std::vector<LinkGroup> busiest_links(const plan::Network& network, const plan::Simulation& result) {
  std::map<std::tuple<int64_t, int64_t, std::string>, LinkGroup> groups;
  for (size_t i = 0; i < network.links().size(); ++i) {
    const plan::NetworkLink& link = network.links()[i];
    if (result.link_bytes[i] <= 0) continue;
    std::string kind = link.name;
    std::erase_if(kind, [](unsigned char c) { return std::isdigit(c); });
    LinkGroup& group = groups[{std::llround(result.link_bytes[i]), std::llround(link.bytes_per_s), kind}];
    if (group.count++ > 0) continue;
    group = {link.name, 1, result.link_bytes[i], link.bytes_per_s,
             result.link_bytes[i] / link.bytes_per_s / result.makespan_s};
  }
  std::vector<LinkGroup> list;
  for (const auto& [key, group] : groups) list.push_back(group);
  std::stable_sort(list.begin(), list.end(), [](const LinkGroup& a, const LinkGroup& b) { return a.busy > b.busy; });
  return list;
}

// Ranks of a stage, or all: what they do on average.
struct RankGroup {
  std::string name;
  plan::RankTime mean;
};

std::vector<RankGroup> rank_groups(const Case& one, const plan::Simulation& result, int num_stages) {
  std::vector<RankGroup> groups(one.ranks_of_stage == 0 ? 1 : num_stages);
  std::vector<int> count(groups.size(), 0);
  for (int rank = 0; rank < one.num_ranks; ++rank) {
    const int stage = one.ranks_of_stage == 0 ? 0 : rank / one.ranks_of_stage % num_stages;
    plan::RankTime& sum = groups[stage].mean;
    sum.compute_s += result.ranks[rank].compute_s;
    sum.communication_s += result.ranks[rank].communication_s;
    sum.idle_s += result.ranks[rank].idle_s;
    ++count[stage];
  }
  for (size_t i = 0; i < groups.size(); ++i) {
    groups[i].name = groups.size() == 1 ? "ranks" : fmt::format("stage {}", i);
    groups[i].mean.compute_s /= count[i];
    groups[i].mean.communication_s /= count[i];
    groups[i].mean.idle_s /= count[i];
  }
  return groups;
}

// One track for each kind of rank; what a rank does is a slice, times in µs (Trace Event Format).
void write_trace(const std::string& path, const Case& one, const plan::Simulation& result) {
  std::map<int, int> num_alike;
  for (const int rank : result.alike) ++num_alike[rank];
  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  const char* comma = "";
  for (const auto& [rank, count] : num_alike) {
    const std::string name =
        count == 1 ? fmt::format("rank {}", rank) : fmt::format("rank {} and {} like it", rank, count - 1);
    text += fmt::format("{}\n{{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":{},\"args\":{{\"name\":\"{}\"}}}}", comma,
                        rank, name);
    comma = ",";
  }
  for (const plan::RankSpan& span : result.spans)
    text +=
        fmt::format(",\n{{\"ph\":\"X\",\"name\":{},\"cat\":\"{}\",\"pid\":{},\"tid\":0,\"ts\":{:.6f},\"dur\":{:.6f}}}",
                    Json(one.workload.labels[span.label]).dump(), span.is_exchange ? "communication" : "computing",
                    span.rank, span.start_s * 1e6, (span.end_s - span.start_s) * 1e6);
  write_file(path, text + "\n]}\n");
}

void write_csv(const std::string& path, const plan::Network& network, const plan::Simulation& result) {
  std::string text = "link,bytes,bytes_per_s,busy\n";
  for (size_t i = 0; i < network.links().size(); ++i)
    text += fmt::format("\"{}\",{:.0f},{:.0f},{:.6f}\n", network.links()[i].name, result.link_bytes[i],
                        network.links()[i].bytes_per_s,
                        result.link_bytes[i] / network.links()[i].bytes_per_s / result.makespan_s);
  write_file(path, text);
}

std::string or_dash(double seconds) { return seconds > 0 ? format_duration(seconds) : "-"; }

void print_tables(const Flags& flags, const Case& one, const plan::Network& network, const plan::Simulation& result) {
  fmt::print("\n{:<14} {:>10} {:>7} {:>10} {:>10} {:>10} {:>11} {:>10} {:>7}\n", "critical path", "time", "share",
             "computing", "turn", "transfer", "sharing", "latency", "count");
  for (const plan::PathPart& part : result.critical_path)
    fmt::print("{:<14} {:>10} {:>5.1f} % {:>10} {:>10} {:>10} {:>11} {:>10} {:>7}\n", part.label,
               format_duration(part.total_s()), 100 * part.total_s() / result.makespan_s, or_dash(part.compute_s),
               or_dash(part.wait_s), or_dash(part.transfer_s), or_dash(part.sharing_s), or_dash(part.latency_s),
               part.count);
  fmt::print("\n{:<14} {:>10} {:>15} {:>10}   mean of ranks\n", "", "computing", "communication", "idle");
  for (const RankGroup& group : rank_groups(one, result, flags.pipeline)) {
    const auto share = [&](double seconds) { return fmt::format("{:.1f} %", 100 * seconds / result.makespan_s); };
    fmt::print("{:<14} {:>10} {:>15} {:>10}\n", group.name, share(group.mean.compute_s),
               share(group.mean.communication_s), share(group.mean.idle_s));
  }
  const std::vector<LinkGroup> links = busiest_links(network, result);
  if (links.empty()) return;
  fmt::print("\n{:<30} {:>8} {:>12} {:>12} {:>10}\n", "busiest links", "busy", "bytes", "rate", "alike");
  for (size_t i = 0; i < std::min<size_t>(links.size(), flags.links); ++i)
    fmt::print("{:<30} {:>6.2f} % {:>12} {:>12} {:>10}\n", links[i].first, 100 * links[i].busy,
               format_bytes(links[i].bytes), format_rate(links[i].bytes_per_s), format_count(links[i].count));
}

void print_json(const Flags& flags, const Case& one, const plan::Network& network, const plan::Simulation& result,
                double took_s) {
  Json path = Json::array(), ranks = Json::array(), links = Json::array(), collectives = Json::array();
  for (const plan::PathPart& part : result.critical_path)
    path.push_back({{"name", part.label},
                    {"count", part.count},
                    {"total_s", part.total_s()},
                    {"computing_s", part.compute_s},
                    {"turn_s", part.wait_s},
                    {"transfer_s", part.transfer_s},
                    {"sharing_s", part.sharing_s},
                    {"latency_s", part.latency_s}});
  for (size_t rank = 0; rank < result.ranks.size(); ++rank)
    ranks.push_back({{"computing_s", result.ranks[rank].compute_s},
                     {"communication_s", result.ranks[rank].communication_s},
                     {"idle_s", result.ranks[rank].idle_s},
                     {"behaves_like", result.alike[rank]}});
  for (const LinkGroup& link : busiest_links(network, result))
    links.push_back({{"name", link.first},
                     {"alike", link.count},
                     {"bytes", link.bytes},
                     {"bytes_per_s", link.bytes_per_s},
                     {"busy", link.busy}});
  for (const plan::StepCollective& collective : one.collectives)
    collectives.push_back({{"name", collective.name},
                           {"algorithm", collective.algorithm},
                           {"count", collective.count},
                           {"bytes", collective.bytes},
                           {"formula_s_each", collective.seconds}});
  fmt::print("{}\n", Json{{"schema", kSchema},
                          {"what", one.title},
                          {"class", "extrapolated"},  // from constants of the hardware, not measured on this cluster
                          {"simulated_s", result.makespan_s},
                          {"formula_s", one.formula_s},
                          {"steps", flags.steps},
                          {"critical_path", path},
                          {"ranks", ranks},
                          {"busiest_links", links},
                          {"collectives", collectives},
                          {"simulator", {{"tasks", result.num_tasks}, {"events", result.num_events}, {"s", took_s}}}}
                         .dump(2));
}

void print_head(const Flags& flags, const Case& one, const Topology& topology, const plan::Simulation& result,
                double took_s) {
  fmt::print("{}, on {}\n\n", one.title, topology.name.empty() ? flags.topology : topology.name);
  const double more = 100 * (result.makespan_s / one.formula_s - 1);
  const auto row = [](const std::string& name, double seconds, const std::string& note) {
    fmt::print("{:<14} {:>10}   {}\n", name, format_duration(seconds), note);
  };
  const bool is_decode = flags.collective.empty() && flags.prefill == 0;
  row("simulated", result.makespan_s,
      is_decode ? fmt::format("{:.0f} tokens/s of all replicas", static_cast<double>(one.tokens) / result.makespan_s)
                : "");
  if (flags.steps > 1) row("each step", result.makespan_s / flags.steps, "on average");
  row("by formula", one.formula_s,
      fmt::format("where nobody is in another's way nor ahead; simulated: {:+.1f} %", more));
  for (const plan::StepCollective& collective : one.collectives)
    fmt::print("{:<14} {:>10}   {} x {} of {} by {}, {} each by formula\n", "", "", collective.count, collective.name,
               format_bytes(static_cast<double>(collective.bytes)), collective.algorithm,
               format_duration(collective.seconds));
  std::vector<int> kinds = result.alike;
  std::sort(kinds.begin(), kinds.end());
  const auto num_kinds = std::unique(kinds.begin(), kinds.end()) - kinds.begin();
  row("took", took_s,
      fmt::format("{} of {} in {} events", plural(static_cast<int>(num_kinds), "kind"),
                  plural(static_cast<int>(kinds.size()), "rank"), format_count(result.num_events)));
}

int run(const Flags& flags) {
  const auto start = std::chrono::steady_clock::now();
  const Topology topology = load_topology(flags);
  const bool is_collective = !flags.collective.empty();
  if (!is_collective && flags.ranks > 0)
    refuse("--ranks goes with --collective; a step's ranks are --tp, --pp, --replicas");
  if (is_collective && !flags.slow.empty())
    refuse("--slow: a rank computes slower, and a collective alone is no computing");
  const int64_t planned = int64_t{flags.tensor} * flags.pipeline * flags.replicas;
  if (planned > (1 << 20)) refuse(fmt::format("--tp, --pp, --replicas: {} ranks are too many", planned));
  const int count = is_collective ? flags.ranks : static_cast<int>(planned);
  const std::vector<GpuRef> gpus = flags.placement.empty() ? in_order(topology, count)
                                                           : parse_placement(read_file(flags.placement, kFileLimit),
                                                                             flags.placement, topology, count);
  const plan::Reach reach(topology);
  plan::Network network(reach, gpus);
  for (const std::string& text : flags.cut_links) {
    const auto [name, factor] = name_and_factor("--cut-link", text);
    network.degrade(name, factor);
  }
  Case one =
      is_collective ? collective_case(flags, reach, gpus, network) : step_case(flags, topology, reach, gpus, network);
  for (const std::string& text : flags.slow) {
    const auto [name, factor] = name_and_factor("--slow", text);
    int rank = -1;
    const char* end = name.data() + name.size();
    if (std::from_chars(name.data(), end, rank) != std::from_chars_result{end, {}} || rank < 0 || rank >= one.num_ranks)
      refuse(fmt::format("--slow {}: there are ranks 0 to {}", text, one.num_ranks - 1));
    one.workload.slowness[rank] *= factor;
  }
  const plan::Simulation result =
      plan::simulate(one.workload, {.fold = !flags.one_by_one, .record_spans = !flags.trace.empty()});
  const double took_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!flags.trace.empty()) write_trace(flags.trace, one, result);
  if (!flags.csv.empty()) write_csv(flags.csv, network, result);
  if (flags.json) {
    print_json(flags, one, network, result, took_s);
    return kExitOk;
  }
  print_head(flags, one, topology, result, took_s);
  print_tables(flags, one, network, result);
  if (!flags.trace.empty()) fmt::print("\nwrote {}: open it with ui.perfetto.dev\n", flags.trace);
  if (!flags.csv.empty()) fmt::print("{}wrote {}\n", flags.trace.empty() ? "\n" : "", flags.csv);
  return kExitOk;
}

void add_work_flags(CLI::App& command, Flags& flags) {
  const auto count = CLI::Range(1, 1 << 20);
  const auto tokens = CLI::Range(int64_t{1}, int64_t{1} << 24);
  command.add_option("--tp", flags.tensor, "Tensor-parallel ranks")->check(count)->capture_default_str();
  command.add_option("--pp", flags.pipeline, "Pipeline stages")->check(count)->capture_default_str();
  command.add_option("--replicas", flags.replicas, "Copies side by side")->check(count)->capture_default_str();
  command.add_option("--batch", flags.batch, "Sequences, or prompts, of a replica")
      ->check(count)
      ->capture_default_str();
  command.add_option("--context", flags.context, "Tokens in the KV cache of each")
      ->check(tokens)
      ->capture_default_str();
  command.add_option("--micro-batches", flags.micro_batches, "Of a decode step; a stage each if left out")
      ->check(count);
  command.add_option("--steps", flags.steps, "Decode steps, one after the other without a pause")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command.add_option("--prefill", flags.prefill, "Prompts of this many tokens instead of a decode step")->check(tokens);
  command.add_option("--chunk", flags.chunk, "... in chunks of this many; a stage each if left out")->check(tokens);
  command.add_option("--dtype", flags.dtype, "Of weights, KV cache and what travels")
      ->check(CLI::IsMember({"bfloat16", "float16", "float32"}))
      ->capture_default_str();
  command.add_option("--peak-tflops", flags.peak_tflops, "Of a GPU that is not known: dense 16-bit")
      ->check(CLI::PositiveNumber);
  command.add_option("--read-gb-per-s", flags.read_gb_per_s, "... and what its memory gives")
      ->check(CLI::PositiveNumber);
  command.add_option("--operation-us", flags.operation_us, "Time to start an operation (a kernel of a CUDA graph)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

}  // namespace

void add_plan_simulate(CLI::App& plan, Program& program) {
  CLI::App* command = plan.add_subcommand(
      "simulate", "A step or a collective as events on the links of a cluster: shared links, stragglers, a trace");
  auto flags = std::make_shared<Flags>();
  flags->shape.model = "llama-3-70b";
  std::vector<std::string> presets, collectives;
  for (const topology::PresetInfo& preset : topology::presets()) presets.emplace_back(preset.name);
  for (const Collective collective : kCollectives) collectives.emplace_back(name_of(collective));
  flags->shape.add_to(*command);
  CLI::Option* file = command->add_option("--topology", flags->topology, "A cluster's JSON file");
  command->add_option("--preset", flags->preset, fmt::format("A cluster from datasheets: {}", fmt::join(presets, ", ")))
      ->excludes(file);
  command->add_option("--nodes", flags->nodes, "Hosts of the preset; its usual number if left out")
      ->check(CLI::Range(1, 1 << 16));
  command->add_option("--placement", flags->placement,
                      "Which rank is on which GPU: a file of lane place --format json; free GPUs in order if left out");
  add_work_flags(*command, *flags);
  command->add_option("--collective", flags->collective, "One collective of all ranks instead of a step")
      ->check(CLI::IsMember(collectives));
  command->add_option("--bytes", flags->bytes, "... of vectors of this size")->capture_default_str();
  command->add_option("--ranks", flags->ranks, "... among the first so many GPUs; all if left out")
      ->check(CLI::Range(1, kMaxRanks));
  command->add_option("--algorithm", flags->algorithm,
                      "Of the collective, or of the all-reduces (lane plan schedule --list); the cheapest if left out");
  command->add_option("--eager-bytes", flags->eager_bytes,
                      "Larger messages wait until their receiver has come to them; none do if left out");
  command->add_option("--slow", flags->slow, "RANK:FACTOR: its computing takes so many times as long")
      ->type_name("R:F");
  command->add_option("--cut-link", flags->cut_links, "LINK:FACTOR: what is left of the rate of links so called")
      ->type_name("LINK:F");
  command->add_flag("--one-by-one", flags->one_by_one,
                    "Simulate each rank, also those that behave alike: the same result, later");
  command->add_option("--links", flags->links, "How many of the busiest links to show")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command->add_option("--trace", flags->trace, "Where to write a trace for ui.perfetto.dev");
  command->add_option("--csv", flags->csv, "Where to write the load of every link");
  command->add_flag("--json", flags->json, "One JSON document");
  command->footer(
      "Examples: lane plan simulate --preset h100-dgx-ndr --nodes 512 --tp 16 --pp 4 --replicas 64 --batch 64\n"
      "          lane plan simulate --preset h100-dgx-ndr --nodes 4 --tp 16 --pp 2 --slow 3:1.2 --trace step.json\n"
      "          lane plan simulate --preset h100-dgx-ndr --nodes 2 --collective all_reduce --bytes 256K\n"
      "What is modelled and what is not: docs/simulating.md.");
  command->callback([&program, flags] { program.run = [flags] { return run(*flags); }; });
}

}  // namespace lane::cli
