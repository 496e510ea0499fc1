#include <fmt/format.h>

#include <cstdio>

#include "cli/job.h"
#include "cli/progress.h"
#include "cli/results.h"
#include "lane/base/file.h"
#include "lane/base/process.h"
#include "lane/base/random.h"
#include "lane/base/trace.h"

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
    const int64_t start_ns = now_ns();
    for (int64_t i = 0; i < flags_.num_prompts; ++i) engine.add(make_request(i, session.config().shape.vocab_size));
    ProgressBar bar("measuring", ProgressBar::Unit::kItems, !flags_.engine.no_progress);
    while (!engine.idle()) {
      if (interrupted()) throw Error(ErrorCode::kCancelled, "interrupted");
      for (const Completion& completion : engine.step()) metrics_.add(completion);
      bar.update(metrics_.num_requests, flags_.num_prompts);
    }
    metrics_.wall_s = static_cast<double>(now_ns() - start_ns) * 1e-9;
    stats_ = engine.stats();
  }

  int report(const JobProfile& profile) {
    Json all = metrics_.to_json();
    all["requests_per_s"] = static_cast<double>(metrics_.num_requests) / metrics_.wall_s;
    all["num_ranks"] = profile.num_ranks;
    all["num_steps"] = stats_.num_steps;
    all["num_preemptions"] = stats_.num_preemptions;
    all["most_running"] = stats_.most_running;
    all.update(profile.to_json());
    if (!flags_.output_json.empty()) write_file(flags_.output_json, all.dump(2) + "\n");
    if (flags_.json) {
      fmt::print("{}\n", all.dump(2));
      return kExitOk;
    }
    fmt::print("{}{:.2f} requests/s, {:.1f} tokens/s in and out; {} steps, at most {} sequences at once, {} set back\n",
               metrics_.to_text(), static_cast<double>(metrics_.num_requests) / metrics_.wall_s,
               static_cast<double>(metrics_.prompt_tokens + metrics_.completion_tokens) / metrics_.wall_s,
               stats_.num_steps, stats_.most_running, stats_.num_preemptions);
    if (flags_.engine.breakdown) fmt::print("\n{}", profile.to_text());
    return kExitOk;
  }

 private:
  int64_t length_around(int64_t mean, uint64_t key, int64_t i) const {
    const double offset = flags_.spread * (2 * random_uniform(mix64(flags_.seed ^ key), static_cast<uint64_t>(i)) - 1);
    return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(mean) * (1 + offset)));
  }

  Request make_request(int64_t i, int64_t vocab) const {
    Request request{.id = i, .prompt = {}, .sampling = {}};
    const int64_t length = length_around(flags_.input_len, 1, i);
    for (int64_t token = 0; token < length; ++token)
      request.prompt.push_back(static_cast<int32_t>(
          random_bits(mix64(flags_.seed) + static_cast<uint64_t>(i), static_cast<uint64_t>(token)) %
          static_cast<uint64_t>(vocab)));
    request.sampling.max_tokens = length_around(flags_.output_len, 2, i);
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    return request;
  }

  Flags& flags_;
  RunMetrics metrics_;
  Engine::Stats stats_;
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
      return run_job(flags->engine, program,
                     {.work = [&](Session& session) { run.run(session); },
                      .report = [&](Session&, const JobProfile& profile) { return run.report(profile); }});
    };
  });
}

}  // namespace lane::cli
