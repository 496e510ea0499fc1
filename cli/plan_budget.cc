#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "cli/commands.h"
#include "cli/shape_flags.h"
#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/json.h"
#include "lane/base/units.h"
#include "lane/plan/sweep.h"
#include "lane/topology/presets.h"

namespace lane::cli {
namespace {

using plan::Basis;
using plan::Budget;
using plan::Estimate;
using plan::PhaseBudget;

constexpr int kSchema = 1;
constexpr int64_t kTopologyLimit = int64_t{1} << 28;
const std::vector<std::string> kCollectives = {"auto", "nccl", "lane", "measured", "alpha-beta"};
const std::map<std::string, int> kDtypes = {{"bfloat16", 2}, {"float16", 2}, {"float32", 4}, {"fp8", 1}};

struct Flags {
  ShapeFlags shape;
  std::string topology, preset, dtype = "bfloat16", kv_dtype = "bfloat16", collectives = "auto", svg;
  int nodes = 0, tensor = 0, pipeline = 1, replicas = 1, batch = 1, micro_batches = 0;
  int64_t input_tokens = 1024, output_tokens = 256, prefill_tokens = 8192;
  double peak_tflops = 0, read_gb_per_s = 0;
  bool sweep = false, json = false;
};

// A time with its bounds in the time's own unit: "4.80 ms (4.10 to 5.50)".
std::string with_bounds(const Estimate& time) {
  const double size = std::abs(time.seconds), scale = size < 1e-3 ? 1e6 : size < 1 ? 1e3 : 1;
  const auto number = [&](double seconds) {
    const double value = seconds * scale;
    return std::abs(value) >= 1000 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}", value);
  };
  return fmt::format("{} ({} to {})", format_duration(time.seconds), number(time.low_s), number(time.high_s));
}

topology::Topology load_topology(const Flags& flags) {
  if (flags.topology.empty() == flags.preset.empty())
    throw Error(ErrorCode::kInvalidArgument,
                "give one of --topology FILE (lane doctor --json prints one) and --preset NAME");
  if (!flags.preset.empty()) return topology::preset(flags.preset, flags.nodes);
  if (flags.nodes > 0) throw Error(ErrorCode::kInvalidArgument, "--nodes goes with --preset; a file has its own hosts");
  const std::string text = read_file(flags.topology, kTopologyLimit);
  const Json json = parse_json(text, flags.topology);
  if (json.is_object() && json.contains("topology"))  // all of what lane doctor --json prints
    return topology::topology_from_json(json["topology"].dump(), flags.topology);
  return topology::topology_from_json(text, flags.topology);
}

plan::PlannerOptions options_of(const Flags& flags) {
  plan::PlannerOptions options{.collectives = *plan::collectives_of(flags.collectives),
                               .micro_batches = flags.micro_batches,
                               .prefill_tokens = flags.prefill_tokens};
  if ((flags.peak_tflops > 0) != (flags.read_gb_per_s > 0))
    throw Error(ErrorCode::kInvalidArgument, "--peak-tflops and --read-gb-per-s go together");
  if (flags.peak_tflops > 0) options.peaks = {"GPU as given", flags.peak_tflops * 1e12, flags.read_gb_per_s * 1e9, 0};
  return options;
}

void print_phase(const char* title, const PhaseBudget& phase) {
  fmt::print("\n{:<18} {:>28} {:>7}  {:<13} {}\n", title, "time (low to high)", "share", "class", "how");
  for (const plan::BudgetRow& row : phase.rows)
    fmt::print("{:<18} {:>28} {:>5.1f} %  {:<13} {}\n", row.name, with_bounds(row.time),
               100 * row.time.seconds / phase.total.seconds, name_of(row.time.basis), row.note);
  fmt::print("{:<18} {:>28} {:>7}  {}\n", "total", with_bounds(phase.total), "", name_of(phase.total.basis));
}

void print_crossings(const Budget& budget) {
  if (budget.crossings.empty()) return;
  fmt::print("\nTP {} goes over {}.", budget.plan.tensor, name_of(budget.widest));
  for (const plan::Crossing& one : budget.crossings) {
    const char* within = one.tier == plan::Tier::kNvlink ? "one NVLink domain"
                         : one.tier == plan::Tier::kLeaf ? "one leaf switch"
                                                         : "one spine";
    Estimate cost = one.cost;
    if (std::abs(cost.seconds) < 1e-3 * budget.decode.total.seconds) {
      fmt::print(" More than {} costs nothing to speak of.", within);
      continue;
    }
    if (cost.seconds < 0) cost = {-cost.seconds, -cost.high_s, -cost.low_s, cost.basis, cost.source};
    fmt::print(" More than {} {} {} of a step.", within, one.cost.seconds < 0 ? "saves" : "costs", with_bounds(cost));
  }
  fmt::print("\n");
}

std::string bytes_text(int64_t bytes) { return format_bytes(static_cast<double>(bytes)); }

Json json_of(const Estimate& time) {
  return {{"seconds", time.seconds},
          {"low_s", time.low_s},
          {"high_s", time.high_s},
          {"class", name_of(time.basis)},
          {"source", time.source}};
}

Json json_of(const plan::MemoryBudget& memory) {
  return {{"weights_bytes", memory.weights},
          {"kv_bytes", memory.kv},
          {"buffers_bytes", memory.buffers},
          {"total_bytes", memory.total()},
          {"available_bytes", memory.available}};
}

Json json_of(const plan::ParallelPlan& plan) {
  return {{"tensor", plan.tensor}, {"pipeline", plan.pipeline}, {"replicas", plan.replicas}};
}

Json json_of(const PhaseBudget& phase) {
  Json rows = Json::array();
  for (const plan::BudgetRow& row : phase.rows) {
    Json one = json_of(row.time);
    one["name"] = row.name;
    one["note"] = row.note;
    rows.push_back(std::move(one));
  }
  return {{"rows", rows},
          {"total", json_of(phase.total)},
          {"micro_batches", phase.micro_batches},
          {"all_reduce",
           {{"algorithm", phase.algorithm},
            {"bytes", phase.message_bytes},
            {"count", phase.num_messages},
            {"total", json_of(phase.communication)}}}};
}

Json head_of(const Flags& flags, const std::string& model, const plan::Planner& planner,
             const topology::Topology& topology) {
  return {{"schema", kSchema},
          {"model", model},
          {"topology", topology.name},
          {"gpu", planner.peaks().name},
          {"num_gpus", planner.num_gpus()},
          {"batch", flags.batch},
          {"input_tokens", flags.input_tokens},
          {"output_tokens", flags.output_tokens},
          {"collectives", flags.collectives}};
}

void print_budget(const Flags& flags, const std::string& model, plan::Planner& planner,
                  const topology::Topology& topology, const Budget& budget) {
  const plan::ParallelPlan& p = budget.plan;
  fmt::print(
      "{} in {} on {}: TP {} x PP {} x {} replica{} = {} of {} {}, {} sequence{} a replica, {} tokens in, {} out\n",
      model, flags.dtype, topology.name, p.tensor, p.pipeline, p.replicas, p.replicas == 1 ? "" : "s", p.num_ranks(),
      planner.num_gpus(), planner.peaks().name, flags.batch, flags.batch == 1 ? "" : "s",
      format_count(flags.input_tokens), format_count(flags.output_tokens));
  print_phase("decode step", budget.decode);
  print_phase("prefill", budget.prefill);
  const plan::MemoryBudget& memory = budget.memory;
  fmt::print("\nmemory of a rank: weights {} + KV cache {} + buffers {} = {} of {}\n", bytes_text(memory.weights),
             bytes_text(memory.kv), bytes_text(memory.buffers), bytes_text(memory.total()),
             bytes_text(memory.available));
  fmt::print("first token after {}, then one each {}\n", with_bounds(budget.time_to_first_token()),
             with_bounds(budget.time_between_tokens()));
  fmt::print("tokens/s while decoding: {:.0f} a replica, {:.0f} in all\n", budget.tokens_per_s(),
             budget.tokens_per_s() * p.replicas);
  print_crossings(budget);
  fmt::print("\n{}\n", planner.advice(budget));
}

void print_json(const Flags& flags, const std::string& model, plan::Planner& planner,
                const topology::Topology& topology, const Budget& budget) {
  Json json = head_of(flags, model, planner, topology);
  Json crossings = Json::array();
  for (const plan::Crossing& one : budget.crossings)
    crossings.push_back({{"more_than", name_of(one.tier)}, {"cost", json_of(one.cost)}});
  json["plan"] = json_of(budget.plan);
  json["decode"] = json_of(budget.decode);
  json["prefill"] = json_of(budget.prefill);
  json["memory"] = json_of(budget.memory);
  json["time_to_first_token"] = json_of(budget.time_to_first_token());
  json["time_between_tokens"] = json_of(budget.time_between_tokens());
  json["tokens_per_s"] = {{"replica", budget.tokens_per_s()}, {"total", budget.tokens_per_s() * budget.plan.replicas}};
  json["widest_tier"] = name_of(budget.widest);
  json["crossings"] = crossings;
  json["advice"] = planner.advice(budget);
  fmt::print("{}\n", json.dump(1));
}

int run_sweep(const Flags& flags, const std::string& model, plan::Planner& planner,
              const topology::Topology& topology) {
  const std::vector<plan::SweepPoint> points = plan::sweep(planner);
  const std::string title = fmt::format("{} on {} {} ({}), {} sequences a replica", model, planner.num_gpus(),
                                        planner.peaks().name, topology.name, flags.batch);
  if (!flags.svg.empty()) write_file(flags.svg, plan::sweep_chart(title, points));
  if (flags.json) {
    Json json = head_of(flags, model, planner, topology);
    json["plans"] = Json::array();
    for (const plan::SweepPoint& point : points)
      json["plans"].push_back({{"plan", json_of(point.plan)},
                               {"time_between_tokens", json_of(point.step)},
                               {"time_to_first_token", json_of(point.first_token)},
                               {"tokens_per_s", point.tokens_per_s},
                               {"memory", json_of(point.memory)},
                               {"is_best", point.is_best}});
    fmt::print("{}\n", json.dump(1));
    return kExitOk;
  }
  const auto best = std::count_if(points.begin(), points.end(), [](const auto& point) { return point.is_best; });
  fmt::print("{}: {} plans fit; for these {} no other gives both more tokens/s and less time between tokens\n\n", title,
             points.size(), best);
  fmt::print("{:>4} {:>4} {:>8} {:>28} {:>12} {:>16} {:>11}  {}\n", "TP", "PP", "replicas", "between tokens",
             "first token", "tokens/s in all", "memory", "class");
  for (const plan::SweepPoint& point : points)
    if (point.is_best)
      fmt::print("{:>4} {:>4} {:>8} {:>28} {:>12} {:>16.0f} {:>11}  {}\n", point.plan.tensor, point.plan.pipeline,
                 point.plan.replicas, with_bounds(point.step), format_duration(point.first_token.seconds),
                 point.tokens_per_s, bytes_text(point.memory.total()), name_of(point.step.basis));
  if (!flags.svg.empty()) fmt::print("\nwrote {}\n", flags.svg);
  return kExitOk;
}

int run(const Flags& flags) {
  if (!flags.svg.empty() && !flags.sweep)
    throw Error(ErrorCode::kInvalidArgument, "--svg draws a sweep: give --sweep too");
  const auto [model, shape] = flags.shape.finish();
  const topology::Topology topology = load_topology(flags);
  const plan::Reach reach(topology);
  const plan::Work work{.shape = shape,
                        .batch = flags.batch,
                        .input_tokens = flags.input_tokens,
                        .output_tokens = flags.output_tokens,
                        .weight_bytes = kDtypes.at(flags.dtype),
                        .kv_bytes = kDtypes.at(flags.kv_dtype),
                        .activation_bytes = flags.dtype == "float32" ? 4 : 2};
  plan::Planner planner(reach, work, options_of(flags));
  if (flags.sweep) return run_sweep(flags, model, planner, topology);
  // Without --tp: all free GPUs of a host, as far as the model's heads can be dealt to them.
  plan::ParallelPlan plan{flags.tensor, flags.pipeline, flags.replicas};
  if (plan.tensor == 0)
    for (plan.tensor = static_cast<int>(topology.hosts.front().gpus.size()); plan.tensor > 1; --plan.tensor)
      if (shape.num_heads % plan.tensor == 0 &&
          (shape.num_kv_heads % plan.tensor == 0 || plan.tensor % shape.num_kv_heads == 0))
        break;
  plan.tensor = std::max(1, plan.tensor);
  const Budget budget = planner.budget(plan);
  (flags.json ? print_json : print_budget)(flags, model, planner, topology, budget);
  return kExitOk;
}

void add_work_flags(CLI::App& plan, Flags& flags) {
  const auto count = CLI::Range(1, 1 << 20);
  const auto tokens = CLI::Range(int64_t{1}, int64_t{1} << 24);
  plan.add_option("--tp", flags.tensor, "Tensor-parallel ranks; a host's GPUs if left out")->check(count);
  plan.add_option("--pp", flags.pipeline, "Pipeline stages")->check(count)->capture_default_str();
  plan.add_option("--replicas", flags.replicas, "Copies side by side")->check(count)->capture_default_str();
  plan.add_option("--batch", flags.batch, "Sequences of a replica at a time")->check(count)->capture_default_str();
  plan.add_option("--input-len", flags.input_tokens, "Tokens of a prompt")->check(tokens)->capture_default_str();
  plan.add_option("--output-len", flags.output_tokens, "Tokens of an answer")->check(tokens)->capture_default_str();
  plan.add_option("--dtype", flags.dtype, "Of the weights; fp8 is multiplied in 16 bits")
      ->check(CLI::IsMember(kDtypes))
      ->capture_default_str();
  plan.add_option("--kv-dtype", flags.kv_dtype, "Of the KV cache")
      ->check(CLI::IsMember(kDtypes))
      ->capture_default_str();
  plan.add_option("--micro-batches", flags.micro_batches, "Of a decode step; a stage each if left out")->check(count);
  plan.add_option("--prefill-tokens", flags.prefill_tokens, "Tokens of prompts under way at a time")
      ->check(tokens)
      ->capture_default_str();
}

}  // namespace

void add_plan_budget(CLI::App& plan, Program& program) {
  auto flags = std::make_shared<Flags>();
  std::vector<std::string> names;
  for (const topology::PresetInfo& preset : topology::presets()) names.emplace_back(preset.name);
  flags->shape.add_to(plan);
  CLI::Option* file = plan.add_option("--topology", flags->topology, "A cluster's JSON file");
  plan.add_option("--preset", flags->preset, fmt::format("A cluster from datasheets: {}", fmt::join(names, ", ")))
      ->excludes(file);
  plan.add_option("--nodes", flags->nodes, "Hosts of the preset; its usual number if left out")
      ->check(CLI::Range(1, 1 << 16));
  add_work_flags(plan, *flags);
  plan.add_option("--collectives", flags->collectives,
                  "Whose all-reduce: auto takes Lane's or NCCL's, whichever is known better or, else, faster")
      ->check(CLI::IsMember(kCollectives))
      ->capture_default_str();
  plan.add_option("--peak-tflops", flags->peak_tflops, "Of a GPU that is not known: dense 16-bit")
      ->check(CLI::PositiveNumber);
  plan.add_option("--read-gb-per-s", flags->read_gb_per_s, "... and what its memory gives")->check(CLI::PositiveNumber);
  plan.add_flag("--sweep", flags->sweep, "All plans for these GPUs, and which of them are best");
  plan.add_option("--svg", flags->svg, "Where to draw the sweep");
  plan.add_flag("--json", flags->json, "One JSON document");
  plan.footer(
      "Examples: lane plan --model llama-3-70b --preset h100-dgx-ndr --nodes 2 --tp 16 --batch 16 --input-len 2048\n"
      "          lane plan --config config.json --topology cluster.json --sweep --svg plans.svg\n"
      "Classes: measured (a table has it), interpolated (between its entries), extrapolated (a model with constants\n"
      "measured elsewhere), datasheet (a vendor's peak times a measured share). docs/planning.md explains each "
      "figure.");
  plan.callback([&plan, &program, flags] {
    if (plan.get_subcommands().empty()) program.run = [flags] { return run(*flags); };
  });
}

}  // namespace lane::cli
