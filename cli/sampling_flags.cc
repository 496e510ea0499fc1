#include "cli/sampling_flags.h"

namespace lane::cli {

void SamplingFlags::add_to(CLI::App& app) {
  const std::string group = "Sampling (defaults: the model's generation_config.json)";
  app.add_option("--max-tokens,-n", max_tokens, "Tokens to generate at most (default 256)")->group(group);
  app.add_option("--min-tokens", min_tokens, "Tokens before any stop counts")->group(group);
  app.add_option("--temperature", temperature, "0: always the most likely token")->group(group);
  app.add_option("--top-k", top_k, "Only the K most likely; 0: all")->group(group);
  app.add_option("--top-p", top_p, "Only the most likely that together reach probability P")->group(group);
  app.add_option("--min-p", min_p, "Only tokens at least P times as likely as the best")->group(group);
  app.add_option("--repetition-penalty", repetition_penalty, "Above 1: tokens seen before become less likely")
      ->group(group);
  app.add_option("--presence-penalty", presence_penalty, "Taken off the logits of tokens already generated")
      ->group(group);
  app.add_option("--frequency-penalty", frequency_penalty, "The same, times how often")->group(group);
  app.add_option("--seed", seed, "Same seed, same output")->capture_default_str()->group(group);
  app.add_option("--stop", stop, "Stop before this text; may be given several times")->take_all()->group(group);
  app.add_option("--stop-token-ids", stop_token_ids, "Stop after these tokens")
      ->delimiter(',')
      ->take_all()
      ->group(group);
  app.add_flag("--ignore-eos", ignore_eos, "Go on after the model's end-of-text token")->group(group);
  app.add_option("--logprobs", logprobs, "Report the chosen token's log-probability and the K most likely ones")
      ->group(group);
}

SamplingParams sampling_defaults(const GenerationDefaults& defaults) {
  return {.temperature = defaults.do_sample ? defaults.temperature : 0,
          .top_k = defaults.top_k,
          .top_p = defaults.top_p,
          .min_p = defaults.min_p,
          .repetition_penalty = defaults.repetition_penalty};
}

SamplingParams SamplingFlags::resolve(const GenerationDefaults& defaults) const {
  SamplingParams params = sampling_defaults(defaults);
  params.max_tokens = max_tokens.value_or(256);
  params.min_tokens = min_tokens.value_or(0);
  params.temperature = temperature.value_or(params.temperature);
  params.top_k = top_k.value_or(params.top_k);
  params.top_p = top_p.value_or(params.top_p);
  params.min_p = min_p.value_or(params.min_p);
  params.repetition_penalty = repetition_penalty.value_or(params.repetition_penalty);
  params.presence_penalty = presence_penalty.value_or(0);
  params.frequency_penalty = frequency_penalty.value_or(0);
  params.seed = seed;
  params.stop = stop;
  params.stop_token_ids = stop_token_ids;
  params.ignore_eos = ignore_eos;
  params.logprobs = logprobs;
  check(params);
  return params;
}

}  // namespace lane::cli
