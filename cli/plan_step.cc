#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/demo_model.h"
#include "cli/fabric_flags.h"
#include "lane/base/json.h"
#include "lane/base/thread_pool.h"
#include "lane/base/units.h"
#include "lane/model/config.h"
#include "lane/plan/step.h"
#include "lane/profile/roofline.h"

namespace lane::cli {
namespace {

constexpr int kMaxRanks = 256;

struct Flags {
  std::string model, dtype = "bfloat16";
  int batch = 1;
  int64_t context = 512;
  double read_gb_per_s = 0, operation_us = 2;
  FabricFlags fabric;
  bool json = false;
};

int run(const Flags& flags) {
  const ModelConfig config = load_model_config(flags.model.empty() ? demo_model_folder() : flags.model);
  const plan::Fabric fabric = flags.fabric.finish(kMaxRanks, "lane plan step");
  const int num_ranks = fabric.layout.num_ranks();
  double read_rate = flags.read_gb_per_s * 1e9;
  if (read_rate == 0) {
    ThreadPool one(1);
    read_rate = profile::measure_read_bandwidth(one);
  }
  const int bytes = flags.dtype == "float32" ? 4 : 2;
  const plan::StepWork work{.shape = config.shape,
                            .plan = {.tensor = num_ranks},
                            .batch = flags.batch,
                            .context = flags.context,
                            .weight_bytes = bytes,
                            .kv_bytes = bytes};
  const plan::StepCost cost = plan::cost_of_step(work, fabric, {read_rate, flags.operation_us * 1e-6});
  if (flags.json) {
    Json collectives = Json::array();
    for (const plan::StepCollective& one : cost.collectives)
      collectives.push_back({{"name", one.name},
                             {"algorithm", one.algorithm},
                             {"count", one.count},
                             {"bytes", one.bytes},
                             {"seconds_each", one.seconds}});
    fmt::print("{}\n", Json{{"step_s", cost.total_s()},
                            {"weights_s", cost.weights_s},
                            {"kv_s", cost.kv_s},
                            {"operations_s", cost.operations_s},
                            {"communication_s", cost.communication_s},
                            {"weight_bytes", cost.weight_bytes},
                            {"kv_bytes", cost.kv_bytes},
                            {"collectives", collectives}}
                           .dump(2));
    return kExitOk;
  }
  fmt::print("a decode step of batch {} with {} tokens of context each, tensor parallel over {}: {}\n\n", flags.batch,
             flags.context, words_for(fabric.layout), words_for_links(fabric));
  const double total = cost.total_s();
  const auto row = [&](const std::string& name, double seconds, const std::string& why) {
    fmt::print("{:<16} {:>10} {:>6.1f} %   {}\n", name, format_duration(seconds), 100 * seconds / total, why);
  };
  row("weights", cost.weights_s,
      fmt::format("{} at {}", format_bytes(static_cast<double>(cost.weight_bytes)), format_rate(read_rate)));
  row("KV cache", cost.kv_s, format_bytes(static_cast<double>(cost.kv_bytes)));
  row("operations", cost.operations_s, fmt::format("{} to start each", format_duration(flags.operation_us * 1e-6)));
  row("communication", cost.communication_s, "");
  for (const plan::StepCollective& one : cost.collectives)
    fmt::print("{:<16} {:>10}            {} x {} of {} by {}, {} each\n", "", format_duration(one.count * one.seconds),
               one.count, one.name, format_bytes(static_cast<double>(one.bytes)), one.algorithm,
               format_duration(one.seconds));
  row("step", total, fmt::format("{:.1f} tokens/s", flags.batch / total));
  return kExitOk;
}

}  // namespace

void add_plan_step(CLI::App& plan, Program& program) {
  CLI::App* command = plan.add_subcommand("step", "How long a decode step takes on ranks and networks you do not have");
  auto flags = std::make_shared<Flags>();
  command->add_option("--model,-m", flags->model, "Folder with config.json (weights are not needed); the demo model");
  command->add_option("--dtype", flags->dtype, "Of weights and KV cache")
      ->check(CLI::IsMember({"bfloat16", "float16", "float32"}))
      ->capture_default_str();
  command->add_option("--batch", flags->batch, "Sequences")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  command->add_option("--context", flags->context, "Tokens in the KV cache of each")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
  command
      ->add_option("--read-gb-per-s", flags->read_gb_per_s,
                   "What one rank reads from its memory; measured here, on one core, if left out")
      ->check(CLI::PositiveNumber);
  command->add_option("--operation-us", flags->operation_us, "Time to start an operation: a kernel or a parallel loop")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  flags->fabric.add_to(*command);
  command->add_flag("--json", flags->json, "One JSON document");
  command->footer(
      "Example: lane plan step --model Llama-3-70B --nodes 4 --ranks-per-node 4 --fabric nvlink_slingshot "
      "--read-gb-per-s 1500");
  command->callback([&program, flags] { program.run = [flags] { return run(*flags); }; });
}

}  // namespace lane::cli
