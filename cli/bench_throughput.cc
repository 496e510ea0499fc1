#include <fmt/format.h>

#include <cstdio>

#include "cli/ceilings.h"
#include "cli/job.h"
#include "cli/progress.h"
#include "cli/results.h"
#include "lane/base/file.h"
#include "lane/base/process.h"
#include "lane/base/random.h"
#include "lane/base/trace.h"
#include "lane/base/units.h"
#include "lane/plan/step.h"

namespace lane::cli {
namespace {

struct Flags {
  EngineFlags engine;
  int64_t num_prompts = 64, input_len = 128, output_len = 64;
  double spread = 0.5;
  uint64_t seed = 0;
  std::string output_json;
  bool json = false;
};

// Many requests at once, of lengths around the given ones: what continuous batching makes of the machine.
class ThroughputBench {
 public:
  explicit ThroughputBench(Flags& flags) : flags_(flags) {}

  void run(Session& session) {
    Engine& engine = session.engine();
    run_all(session, 0, true);
    stats_ = engine.stats();
    if (!flags_.engine.watches_gpu()) return;
    // Once more for what the GPU does: watched steps are slower, so they are none of those that were timed.
    engine.restart_trace();
    run_all(session, flags_.num_prompts, false);
  }

  int report(Session& session, const JobProfile& profile) {
    const Ceilings& ceilings = profile.ceilings;
    const double wall_s = metrics_.wall_s, requests_per_s = static_cast<double>(metrics_.num_requests) / wall_s;
    const double weight_bytes = static_cast<double>(session.bytes_per_decode_step(0, 0));
    const double bytes = profile.num_ranks * (weight_bytes * static_cast<double>(stats_.num_steps) + kv_bytes_);
    Json all = metrics_.to_json();
    all["requests_per_s"] = requests_per_s;
    all["num_ranks"] = profile.num_ranks;
    all["num_steps"] = stats_.num_steps;
    all["num_preemptions"] = stats_.num_preemptions;
    all["most_running"] = stats_.most_running;
    all["bytes_read"] = bytes;
    all["flops"] = flops_;
    all["read_bandwidth_bytes_per_s"] = ceilings.read_bytes_per_s;
    all["peak_flops_per_s"] = ceilings.flops_per_s > 0 ? Json(ceilings.flops_per_s) : Json();
    all["mbu"] = share_of(bytes / wall_s, ceilings.read_bytes_per_s);
    all["mfu"] = share_of(flops_ / wall_s, ceilings.flops_per_s);
    all.update(profile.to_json());
    if (!flags_.output_json.empty()) write_file(flags_.output_json, all.dump(2) + "\n");
    if (flags_.json) {
      fmt::print("{}\n", all.dump(2));
      return kExitOk;
    }
    fmt::print("{}{:.2f} requests/s, {:.1f} tokens/s in and out; {} steps, at most {} sequences at once, {} set back\n",
               metrics_.to_text(), requests_per_s,
               static_cast<double>(metrics_.prompt_tokens + metrics_.completion_tokens) / wall_s, stats_.num_steps,
               stats_.most_running, stats_.num_preemptions);
    fmt::print("over the whole run: {} of weights and KV read at {}, MBU {}; {:.4g} TFLOP/s a rank, MFU {}\n",
               format_bytes(bytes), format_rate(bytes / wall_s), percent_of(bytes / wall_s, ceilings.read_bytes_per_s),
               flops_ / wall_s * 1e-12 / profile.num_ranks, percent_of(flops_ / wall_s, ceilings.flops_per_s));
    fmt::print("{}", profile.graphs_to_text());
    if (flags_.engine.breakdown) fmt::print("\n{}", profile.to_text());
    return kExitOk;
  }

 private:
  int64_t length_around(int64_t mean, uint64_t key, int64_t i) const {
    const double offset = flags_.spread * (2 * random_uniform(mix64(flags_.seed ^ key), static_cast<uint64_t>(i)) - 1);
    return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(mean) * (1 + offset)));
  }

  // `first`: of the requests' ids, which make their tokens; lengths are the same in every run.
  void run_all(Session& session, int64_t first, bool counts) {
    Engine& engine = session.engine();
    std::vector<Request> requests;
    for (int64_t i = 0; i < flags_.num_prompts; ++i)
      requests.push_back(make_request(first, i, session.config().shape.vocab_size));
    const int64_t start_ns = now_ns();
    for (Request& request : requests) engine.add(std::move(request));
    ProgressBar bar(counts ? "measuring" : "watching", ProgressBar::Unit::kItems, !flags_.engine.no_progress);
    int64_t done = 0;
    while (!engine.idle()) {
      if (interrupted()) throw Error(ErrorCode::kCancelled, "interrupted");
      for (const Completion& completion : engine.step()) {
        ++done;
        if (counts) count(session, completion);
      }
      bar.update(done, flags_.num_prompts);
    }
    if (counts) metrics_.wall_s = static_cast<double>(now_ns() - start_ns) * 1e-9;
  }

  // A token that is generated, but for the last, is computed once, and reads the keys and values of all before it and
  // its own. What is computed again after a set back is not counted: it is no use.
  void count(const Session& session, const Completion& completion) {
    metrics_.add(completion);
    const int64_t prompt = completion.prompt_tokens, tokens = static_cast<int64_t>(completion.tokens.size());
    const plan::ModelShape& shape = session.config().shape;
    flops_ += plan::forward_flops(shape, completion.cached_prompt_tokens, prompt, 1) +
              plan::forward_flops(shape, prompt, prompt + tokens - 1, tokens - 1);
    const auto bytes_per_token =
        static_cast<double>(session.bytes_per_decode_step(1, 1) - session.bytes_per_decode_step(0, 0));
    kv_bytes_ += bytes_per_token * static_cast<double>(tokens - 1) *
                 (static_cast<double>(prompt) + 0.5 * static_cast<double>(tokens));
  }

  Request make_request(int64_t first, int64_t i, int64_t vocab) const {
    Request request{.id = first + i, .prompt = {}, .sampling = {}};
    const int64_t length = length_around(flags_.input_len, 1, i);
    for (int64_t token = 0; token < length; ++token)
      request.prompt.push_back(static_cast<int32_t>(
          random_bits(mix64(flags_.seed) + static_cast<uint64_t>(first + i), static_cast<uint64_t>(token)) %
          static_cast<uint64_t>(vocab)));
    request.sampling.max_tokens = length_around(flags_.output_len, 2, i);
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    return request;
  }

  Flags& flags_;
  RunMetrics metrics_;
  Engine::Stats stats_;
  double flops_ = 0;     // of all ranks
  double kv_bytes_ = 0;  // of one rank's cache
};

}  // namespace

void add_bench_throughput(CLI::App& bench, Program& program) {
  CLI::App* command = bench.add_subcommand("throughput", "Many requests of mixed lengths: tokens per second");
  command->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  auto flags = std::make_shared<Flags>();
  command->add_option("--num-prompts", flags->num_prompts, "Requests")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--input-len", flags->input_len, "Mean prompt tokens")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--output-len", flags->output_len, "Mean generated tokens")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--range-ratio", flags->spread, "Lengths vary by this share up and down")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "Of lengths and tokens")->capture_default_str();
  command->add_option("--output-json", flags->output_json, "Write the numbers to this file");
  command->add_flag("--json", flags->json, "Print the numbers as JSON");
  flags->engine.add_to(*command);
  command->callback([&program, flags] {
    program.run = [&program, flags] {
      ThroughputBench run(*flags);
      return run_job(
          flags->engine, program,
          {.work = [&](Session& session) { run.run(session); },
           .report = [&](Session& session, const JobProfile& profile) { return run.report(session, profile); },
           .watches_from_restart = true,
           .wants_ceilings = true});
    };
  });
}

}  // namespace lane::cli
