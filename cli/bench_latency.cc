#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <numeric>

#include "cli/job.h"
#include "cli/progress.h"
#include "cli/results.h"
#include "lane/base/file.h"
#include "lane/base/process.h"
#include "lane/base/random.h"
#include "lane/base/trace.h"
#include "lane/base/units.h"
#include "lane/profile/roofline.h"

namespace lane::cli {
namespace {

struct Flags {
  EngineFlags engine;
  int64_t batch_size = 8, input_len = 32, output_len = 128;
  int num_warmup = 1, num_iters = 3;
  std::string output_json;
  bool json = false;
};

// One batch of random prompts, generated to full length again and again. Definitions are in docs/measuring.md.
class LatencyBench {
 public:
  explicit LatencyBench(Flags& flags) : flags_(flags) {}

  void run(Session& session) {
    ProgressBar bar("measuring", ProgressBar::Unit::kItems, !flags_.engine.no_progress);
    const bool on_gpu = flags_.engine.session.device.kind == DeviceKind::kCuda;
    const int total = flags_.num_warmup + flags_.num_iters;
    int iteration = 0;
    for (; iteration < total; ++iteration) {
      if (interrupted()) throw Error(ErrorCode::kCancelled, "interrupted");
      if (iteration == flags_.num_warmup && !on_gpu) session.engine().restart_trace();
      run_once(session, iteration, flags_.output_len, iteration >= flags_.num_warmup);
      bar.update(iteration + 1, total);
    }
    if (!flags_.engine.watches_gpu()) return;
    // Watched steps are slower, so they are none of those that were timed. The first ones, while the profiler sets
    // itself up, are forgotten.
    for (const int64_t tokens : {std::min<int64_t>(flags_.output_len, 8), flags_.output_len}) {
      session.engine().restart_trace();
      run_once(session, iteration++, tokens, false);
    }
  }

  int report(Session& session, const JobProfile& profile) {
    // After the run, when the other ranks are at rest, on as many threads as all ranks had together.
    const int threads_of_rank = flags_.engine.session.num_threads;
    ThreadPool all_threads(threads_of_rank > 0 ? threads_of_rank * profile.num_ranks
                                               : topology::discover().num_threads());
    const double read_rate = profile::measure_read_bandwidth(all_threads);
    const auto batch = static_cast<double>(flags_.batch_size);
    const double step_s = percentile(metrics_.token_gaps_s, 0.5), prefill_s = percentile(metrics_.first_token_s, 0.5);
    // The mean context of a step is the prompt and half of the output. All ranks together read each weight once.
    const int64_t step_bytes =
        profile.num_ranks * session.bytes_per_decode_step(flags_.batch_size, flags_.input_len + flags_.output_len / 2);
    const double mbu = step_s > 0 ? static_cast<double>(step_bytes) / step_s / read_rate : 0;
    const double mean =
        std::accumulate(latencies_.begin(), latencies_.end(), 0.0) / static_cast<double>(latencies_.size());
    double variance = 0;
    for (const double latency : latencies_) variance += (latency - mean) * (latency - mean);

    Json percentiles = Json::object();
    for (const int p : {10, 25, 50, 75, 90, 99}) percentiles[std::to_string(p)] = percentile(latencies_, p / 100.0);
    Json all{{"avg_latency", mean},
             {"std_latency", std::sqrt(variance / static_cast<double>(latencies_.size()))},
             {"latencies", latencies_},
             {"percentiles", percentiles},
             {"batch_size", flags_.batch_size},
             {"input_len", flags_.input_len},
             {"output_len", flags_.output_len},
             {"num_ranks", profile.num_ranks},
             {"prefill_s", prefill_s},
             {"prefill_tokens_per_s", batch * static_cast<double>(flags_.input_len) / prefill_s},
             {"decode_step_p50_s", step_s},
             {"decode_step_p99_s", percentile(metrics_.token_gaps_s, 0.99)},
             {"decode_tokens_per_s", step_s > 0 ? batch / step_s : 0},
             {"bytes_per_step", step_bytes},
             {"read_bandwidth_bytes_per_s", read_rate},
             {"mbu", mbu}};
    all.update(profile.to_json());
    if (!flags_.output_json.empty()) write_file(flags_.output_json, all.dump(2) + "\n");
    if (flags_.json) {
      fmt::print("{}\n", all.dump(2));
      return kExitOk;
    }
    fmt::print("batch {}, {} tokens in, {} out, {} rank{}, {} iterations\n", flags_.batch_size, flags_.input_len,
               flags_.output_len, profile.num_ranks, profile.num_ranks == 1 ? "" : "s", latencies_.size());
    fmt::print("  latency        mean {}, p50 {}, p99 {}\n", format_duration(mean),
               format_duration(percentile(latencies_, 0.5)), format_duration(percentile(latencies_, 0.99)));
    fmt::print("  prefill        {} ({:.1f} tokens/s)\n", format_duration(prefill_s),
               batch * static_cast<double>(flags_.input_len) / prefill_s);
    if (step_s > 0) {
      fmt::print("  decode step    p50 {}, p99 {} ({:.1f} tokens/s)\n", format_duration(step_s),
                 format_duration(percentile(metrics_.token_gaps_s, 0.99)), batch / step_s);
      fmt::print("  floor          {} to read at {}: {} a step; MBU {:.1f} %\n",
                 format_bytes(static_cast<double>(step_bytes)), format_rate(read_rate),
                 format_duration(static_cast<double>(step_bytes) / read_rate), 100 * mbu);
    }
    if (flags_.engine.breakdown) fmt::print("\n{}", profile.to_text());
    return kExitOk;
  }

 private:
  void run_once(Session& session, int iteration, int64_t output_len, bool counts) {
    Engine& engine = session.engine();
    const auto vocab = static_cast<uint64_t>(session.config().shape.vocab_size);
    const int64_t start_ns = now_ns();
    for (int64_t i = 0; i < flags_.batch_size; ++i) {
      Request request{.id = iteration * flags_.batch_size + i, .prompt = {}, .sampling = {}};
      for (int64_t token = 0; token < flags_.input_len; ++token)  // never the same twice: no prefix is shared
        request.prompt.push_back(
            static_cast<int32_t>(random_bits(static_cast<uint64_t>(request.id), static_cast<uint64_t>(token)) % vocab));
      request.sampling.max_tokens = output_len;
      request.sampling.temperature = 0;
      request.sampling.ignore_eos = true;
      engine.add(std::move(request));
    }
    while (!engine.idle())
      for (const Completion& completion : engine.step())
        if (counts) metrics_.add(completion);
    if (counts) latencies_.push_back(static_cast<double>(now_ns() - start_ns) * 1e-9);
  }

  Flags& flags_;
  RunMetrics metrics_;
  std::vector<double> latencies_;
};

}  // namespace

void add_bench_latency(CLI::App& bench, Program& program) {
  CLI::App* command =
      bench.add_subcommand("latency", "One batch from first to last token, and its share of the memory floor");
  command->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  auto flags = std::make_shared<Flags>();
  command->add_option("--batch-size", flags->batch_size, "Sequences")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command->add_option("--input-len", flags->input_len, "Prompt tokens of each")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--output-len", flags->output_len, "Tokens generated for each")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--num-iters-warmup", flags->num_warmup, "Runs not counted")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--num-iters", flags->num_iters, "Runs counted")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--output-json", flags->output_json, "Write the numbers to this file");
  command->add_flag("--json", flags->json, "Print the numbers as JSON");
  flags->engine.add_to(*command);
  command->footer("Example: lane bench latency --batch-size 1 --input-len 64 --output-len 64 --breakdown");
  command->callback([&program, flags] {
    program.run = [&program, flags] {
      LatencyBench run(*flags);
      return run_job(
          flags->engine, program,
          {.work = [&](Session& session) { run.run(session); },
           .report = [&](Session& session, const JobProfile& profile) { return run.report(session, profile); },
           .watches_from_restart = true});
    };
  });
}

}  // namespace lane::cli
