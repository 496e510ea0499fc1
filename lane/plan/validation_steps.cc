#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "lane/base/units.h"
#include "lane/plan/budget.h"
#include "lane/plan/known_shapes.h"
#include "lane/plan/validation.h"
#include "lane/topology/presets.h"

namespace lane::plan {
namespace {

// The published study's work: Llama-70B, 16 sequences, prompts of 2,480 tokens, answers of 2,048.
Work study(bool decode_heavy) {
  return {.shape = *known_shape("llama-3-70b"),
          .batch = 16,
          .input_tokens = 2480,
          .output_tokens = decode_heavy ? 2048 : 1};
}

struct Curve {
  std::vector<Estimate> tensor, hybrid;  // at 4, 8, 16, 32 GPUs
};

Curve scale(const char* preset, bool prefill, int micro_batches) {
  Curve curve;
  for (const int gpus : {4, 8, 16, 32}) {
    const topology::Topology cluster = topology::preset(preset, gpus / 4);
    const Reach reach(cluster);
    Planner planner(reach, study(true), {.collectives = Collectives::kNccl, .micro_batches = micro_batches});
    const Budget tensor = planner.budget({gpus, 1, 1}, false), hybrid = planner.budget({4, gpus / 4, 1}, false);
    curve.tensor.push_back(prefill ? tensor.prefill.total : tensor.decode.total);
    curve.hybrid.push_back(prefill ? hybrid.prefill.total : hybrid.decode.total);
  }
  return curve;
}

std::string text_of(const std::vector<Estimate>& times) {
  std::string text;
  for (const Estimate& time : times) text += fmt::format("{}{:.4g}", text.empty() ? "" : ", ", time.seconds * 1e3);
  return text + " ms";
}

Check shape_check(std::string what, const std::vector<Estimate>& times, std::string goal, bool reached) {
  Check check{std::move(what), text_of(times), std::move(goal), reached};
  for (size_t i = 0; i < times.size(); ++i) check.numbers[fmt::format("gpus_{}", 4 << i)] = times[i].seconds;
  return check;
}

struct Anchor {
  const char *what, *preset, *model;
  int tensor, batch;
  int64_t input, output;
  Collectives collectives;
  double measured_ms, goal;
};

}  // namespace

CheckSection validate_scaling() {
  CheckSection section{"scaling",
                       "Strong scaling, 4 to 32 GPUs",
                       "Llama-70B, 16 sequences of 2,480 and 2,048 tokens on nodes of 4 A100 with Slingshot-11; NCCL. "
                       "Published (arXiv 2511.09557): decoding, TP stays about flat and TP 4 with PP over nodes gets "
                       "worse; prefill, TP with PP is better.",
                       {}};
  const Curve decode = scale("perlmutter-a100-slingshot", false, 0);
  const Curve whole = scale("perlmutter-a100-slingshot", false, 1);
  const Curve prefill = scale("perlmutter-a100-slingshot", true, 0);
  const double first_s = decode.tensor.front().seconds;
  bool holds = true;  // a flat line from the first point lies within all intervals
  for (const Estimate& time : decode.tensor) holds = holds && time.low_s <= first_s && first_s <= time.high_s;
  section.checks.push_back(shape_check("decode, TP over all GPUs", decode.tensor, "flat within the intervals", holds));
  section.checks.push_back(shape_check("decode, TP over all GPUs, NCCL as its model has it", decode.tensor,
                                       "8 x the GPUs: less than 2 x faster",
                                       first_s < 2 * decode.tensor.back().seconds));
  const auto rises = [](const std::vector<Estimate>& times) {
    return std::is_sorted(times.begin(), times.end(),
                          [](const Estimate& a, const Estimate& b) { return a.seconds < b.seconds; });
  };
  section.checks.push_back(
      shape_check("decode, TP 4 x PP, the batch in one piece", whole.hybrid, "rising", rises(whole.hybrid)));
  section.checks.push_back(
      shape_check("decode, TP 4 x PP, a micro-batch for each stage", decode.hybrid, "rising", rises(decode.hybrid)));
  bool slower = true;
  for (size_t i = 1; i < decode.tensor.size(); ++i)
    slower = slower && decode.hybrid[i].seconds > decode.tensor[i].seconds;
  section.checks.push_back(shape_check("decode, TP 4 x PP against TP", decode.hybrid, "slower from 8 GPUs on", slower));
  bool faster = true;
  for (size_t i = 1; i < prefill.tensor.size(); ++i)
    faster = faster && prefill.hybrid[i].seconds < prefill.tensor[i].seconds;
  section.checks.push_back(shape_check("prefill, TP over all GPUs", prefill.tensor, "", true));
  section.checks.push_back(shape_check("prefill, TP 4 x PP", prefill.hybrid, "faster than TP from 8 GPUs on", faster));
  return section;
}

CheckSection validate_steps() {
  CheckSection section{
      "steps",
      "Whole steps",
      "Times between tokens that were measured, against the sum of the parts. gpt-fast (torch.compile, CUDA graphs, "
      "NCCL "
      "through torch) on 4 x H200, our own runs: its first row set the 2 us of an operation, the others are "
      "predictions. vLLM: a silicon reference of AIConfigurator under continuous load, prefills of others included. "
      "The sum of the parts has no host work, no waiting of ranks for each other, and no prefills of others.",
      {}};
  constexpr Anchor kAnchors[] = {
      {"gpt-fast, Llama-3-8B, 1 x H200, batch 1", "h200-dgx-ndr", "llama-3-8b", 1, 1, 128, 200, Collectives::kNccl,
       4.59, 0.1},
      {"gpt-fast, Llama-3-8B, 1 x H200, batch 16", "h200-dgx-ndr", "llama-3-8b", 1, 16, 128, 200, Collectives::kNccl,
       5.23, 0.1},
      {"gpt-fast, Llama-3-8B, TP 4, batch 1", "h200-dgx-ndr", "llama-3-8b", 4, 1, 128, 200, Collectives::kNccl, 3.49,
       0.2},
      {"gpt-fast, Llama-3-8B, TP 4, batch 16", "h200-dgx-ndr", "llama-3-8b", 4, 16, 128, 200, Collectives::kNccl, 4.09,
       0.2},
      {"gpt-fast, Llama-3-70B, TP 4, batch 1", "h200-dgx-ndr", "llama-3-70b", 4, 1, 128, 200, Collectives::kNccl, 16.0,
       0.2},
      {"vLLM, Qwen3-32B, TP 2 H100, batch 32, 1,024 + 1,024", "h100-dgx-ndr", "qwen3-32b", 2, 32, 1024, 1024,
       Collectives::kMeasured, 20.06, 0.2},
  };
  for (const Anchor& one : kAnchors) {
    const topology::Topology cluster = topology::preset(one.preset, 1);
    const Reach reach(cluster);
    Planner planner(
        reach,
        {.shape = *known_shape(one.model), .batch = one.batch, .input_tokens = one.input, .output_tokens = one.output},
        {.collectives = one.collectives});
    const Estimate step = planner.budget({one.tensor, 1, 1}).decode.total;
    const double error = step.seconds / (one.measured_ms * 1e-3) - 1;
    Check check{one.what,
                fmt::format("{} predicted, {:.2f} ms measured: {:+.0f} %", format_duration(step.seconds),
                            one.measured_ms, 100 * error),
                fmt::format("{:.0f} %", 100 * one.goal), std::abs(error) <= one.goal};
    check.numbers = {{"predicted_s", step.seconds}, {"measured_s", one.measured_ms * 1e-3}, {"error", error}};
    section.checks.push_back(std::move(check));
  }
  return section;
}

}  // namespace lane::plan
