#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

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
  int64_t batch_size = 8, input_len = 32, output_len = 128;
  int64_t warmup_output_len = 0;  // 0: output_len
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
      if (iteration == flags_.num_warmup && !on_gpu) session.engine().restart_trace();
      const bool counts = iteration >= flags_.num_warmup;
      const bool is_short = !counts && flags_.warmup_output_len > 0;
      run_once(session, iteration, is_short ? flags_.warmup_output_len : flags_.output_len, counts);
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
    const Numbers numbers = work_out(session, profile);
    Json all = to_json(numbers, profile.num_ranks);
    all["first_token_after_start_s"] = profile.ready_s + first_token_s_;
    all.update(profile.to_json());
    if (!flags_.output_json.empty()) write_file(flags_.output_json, all.dump(2) + "\n");
    if (flags_.json)
      fmt::print("{}\n", all.dump(2));
    else
      print(numbers, profile);
    return kExitOk;
  }

 private:
  struct Numbers {
    double batch = 0, prefill_s = 0, prefill_tokens = 0, prefill_flops = 0;
    double step_s = 0, step_bytes = 0;  // of decoding
    double mean_s = 0, deviation_s = 0;
    Ceilings ceilings;
    double prefill_flops_per_s() const { return prefill_flops / prefill_s; }
  };

  Numbers work_out(const Session& session, const JobProfile& profile) {
    const int64_t batch = flags_.batch_size, input = flags_.input_len;
    Numbers n;
    n.batch = static_cast<double>(batch);
    n.prefill_s = percentile(prefills_s_, 0.5);
    n.prefill_tokens = n.batch * static_cast<double>(input);
    n.prefill_flops = n.batch * plan::forward_flops(session.config().shape, 0, input, 1);
    n.step_s = percentile(metrics_.token_gaps_s, 0.5);
    // The mean context of a step is the prompt and half of the output. All ranks together read each weight once.
    n.step_bytes =
        static_cast<double>(profile.num_ranks * session.bytes_per_decode_step(batch, input + flags_.output_len / 2));
    const auto count = static_cast<double>(latencies_.size());
    n.mean_s = std::accumulate(latencies_.begin(), latencies_.end(), 0.0) / count;
    double variance = 0;
    for (const double latency : latencies_) variance += (latency - n.mean_s) * (latency - n.mean_s);
    n.deviation_s = std::sqrt(variance / count);
    n.ceilings = profile.ceilings;
    return n;
  }

  Json to_json(const Numbers& n, int num_ranks) const {
    Json percentiles = Json::object();
    for (const int p : {10, 25, 50, 75, 90, 99}) percentiles[std::to_string(p)] = percentile(latencies_, p / 100.0);
    const double output = static_cast<double>(flags_.output_len);
    return {{"avg_latency", n.mean_s},
            {"std_latency", n.deviation_s},
            {"latencies", latencies_},
            {"percentiles", percentiles},
            {"batch_size", flags_.batch_size},
            {"input_len", flags_.input_len},
            {"output_len", flags_.output_len},
            {"num_ranks", num_ranks},
            {"output_tokens_per_s", n.batch * output / n.mean_s},
            {"ttft_p50_s", percentile(metrics_.first_token_s, 0.5)},
            {"ttft_p99_s", percentile(metrics_.first_token_s, 0.99)},
            {"tbt_p50_s", n.step_s},
            {"tbt_p99_s", percentile(metrics_.token_gaps_s, 0.99)},
            {"prefill_s", n.prefill_s},
            {"prefill_tokens_per_s", n.prefill_tokens / n.prefill_s},
            {"prefill_flops", n.prefill_flops},
            {"prefill_flops_per_s_per_rank", n.prefill_flops_per_s() / num_ranks},
            {"peak_flops_per_s", n.ceilings.flops_per_s > 0 ? Json(n.ceilings.flops_per_s) : Json()},
            {"mfu", share_of(n.prefill_flops_per_s(), n.ceilings.flops_per_s)},
            {"decode_step_p50_s", n.step_s},
            {"decode_step_p99_s", percentile(metrics_.token_gaps_s, 0.99)},
            {"decode_tokens_per_s", n.step_s > 0 ? n.batch / n.step_s : 0},
            {"bytes_per_step", n.step_bytes},
            {"read_bandwidth_bytes_per_s", n.ceilings.read_bytes_per_s},
            {"read_bandwidth_of_ranks_bytes_per_s", n.ceilings.read_bytes_per_s_of_ranks},
            {"mbu", n.step_s > 0 ? share_of(n.step_bytes / n.step_s, n.ceilings.read_bytes_per_s) : Json()}};
  }

  void print(const Numbers& n, const JobProfile& profile) const {
    const int ranks = profile.num_ranks;
    fmt::print("batch {}, {} tokens in, {} out, {} rank{}, {} iterations: {:.1f} tokens/s\n", flags_.batch_size,
               flags_.input_len, flags_.output_len, ranks, ranks == 1 ? "" : "s", latencies_.size(),
               n.batch * static_cast<double>(flags_.output_len) / n.mean_s);
    fmt::print("  {:<20} {:>10} {:>10} {:>10}\n", "", "mean", "p50", "p99");
    const auto line = [](const char* name, const std::vector<double>& samples) {
      const double sum = std::accumulate(samples.begin(), samples.end(), 0.0);
      fmt::print("  {:<20} {:>10} {:>10} {:>10}\n", name, format_duration(sum / static_cast<double>(samples.size())),
                 format_duration(percentile(samples, 0.5)), format_duration(percentile(samples, 0.99)));
    };
    line("latency", latencies_);
    line("time to first token", metrics_.first_token_s);
    if (n.step_s > 0) line("time between tokens", metrics_.token_gaps_s);
    fmt::print("  prefill: {:.0f} tokens in {}, {:.1f} tokens/s, {:.4g} TFLOP/s a rank", n.prefill_tokens,
               format_duration(n.prefill_s), n.prefill_tokens / n.prefill_s, n.prefill_flops_per_s() * 1e-12 / ranks);
    if (n.ceilings.flops_per_s > 0)
      fmt::print(" of {:.4g}: MFU {}", n.ceilings.flops_per_s * 1e-12 / ranks,
                 percent_of(n.prefill_flops_per_s(), n.ceilings.flops_per_s));
    fmt::print("\n");
    if (n.step_s > 0 && n.ceilings.read_bytes_per_s > 0)
      fmt::print("  decode: {:.1f} tokens/s; {} to read at {}, {} a step: MBU {}\n", n.batch / n.step_s,
                 format_bytes(n.step_bytes), format_rate(n.ceilings.read_bytes_per_s),
                 format_duration(n.step_bytes / n.ceilings.read_bytes_per_s),
                 percent_of(n.step_bytes / n.step_s, n.ceilings.read_bytes_per_s));
    else if (n.step_s > 0)
      fmt::print(
          "  decode: {:.1f} tokens/s; too little memory was free to measure how fast it can be read: MBU unknown\n",
          n.batch / n.step_s);
    fmt::print("  start: the engine was ready after {}, the first token was there after {}\n",
               format_duration(profile.ready_s), format_duration(profile.ready_s + first_token_s_));
    if (profile.load.bytes_read > 0) {
      const auto bytes = static_cast<double>(profile.load.bytes_read);
      fmt::print("  loading: {} in {}, {}\n", format_bytes(bytes), format_duration(profile.load.seconds),
                 format_rate(bytes / profile.load.seconds));
    }
    fmt::print("{}", profile.graphs_to_text());
    if (flags_.engine.breakdown) fmt::print("\n{}", profile.to_text());
  }

  void run_once(Session& session, int iteration, int64_t output_len, bool counts) {
    if (interrupted()) throw Error(ErrorCode::kCancelled, "interrupted");
    Engine& engine = session.engine();
    const auto vocab = static_cast<uint64_t>(session.config().shape.vocab_size);
    std::vector<Request> requests;
    for (int64_t i = 0; i < flags_.batch_size; ++i) {
      Request& request = requests.emplace_back();
      request.id = iteration * flags_.batch_size + i;
      for (int64_t token = 0; token < flags_.input_len; ++token)  // never the same twice: no prefix is shared
        request.prompt.push_back(
            static_cast<int32_t>(random_bits(static_cast<uint64_t>(request.id), static_cast<uint64_t>(token)) % vocab));
      request.sampling.max_tokens = output_len;
      request.sampling.temperature = 0;
      request.sampling.ignore_eos = true;
    }
    const int64_t start_ns = now_ns();
    for (Request& request : requests) engine.add(std::move(request));
    double prefill_s = 0, first_token_s = 0;
    while (!engine.idle())
      for (const Completion& completion : engine.step()) {
        prefill_s = std::max(prefill_s, completion.first_token_s);
        first_token_s =
            first_token_s > 0 ? std::min(first_token_s, completion.first_token_s) : completion.first_token_s;
        if (counts) metrics_.add(completion);
      }
    if (iteration == 0) first_token_s_ = first_token_s;
    if (!counts) return;
    prefills_s_.push_back(prefill_s);
    latencies_.push_back(static_cast<double>(now_ns() - start_ns) * 1e-9);
  }

  Flags& flags_;
  RunMetrics metrics_;
  std::vector<double> latencies_, prefills_s_;
  double first_token_s_ = 0;  // of the very first run, after the engine was ready
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
  command
      ->add_option("--warmup-output-len", flags->warmup_output_len,
                   "Tokens of runs not counted, where whole ones would take minutes (default: --output-len)")
      ->check(CLI::Range(1, 1 << 24));
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
           .watches_from_restart = true,
           .wants_ceilings = true});
    };
  });
}

}  // namespace lane::cli
