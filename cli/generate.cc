#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <map>

#include "cli/job.h"
#include "cli/progress.h"
#include "cli/requests.h"
#include "cli/results.h"
#include "cli/sampling_flags.h"
#include "lane/base/process.h"
#include "lane/base/trace.h"

namespace lane::cli {
namespace {

struct Flags {
  EngineFlags engine;
  SamplingFlags sampling;
  std::vector<std::string> prompts;
  std::string prompts_file, output_file;
  std::optional<bool> chat;  // not given: yes for the demo model, which was trained on conversations alone
  bool json = false;
};

// Runs all prompts and hands results out: to the output file in input order as far as they are complete, or to standard
// output.
class Generation {
 public:
  explicit Generation(Flags& flags) : flags_(flags) {}

  void run(Session& session) {
    session_ = &session;
    const PromptReader reader(session.tokenizer(), flags_.chat.value_or(flags_.engine.uses_demo_model()),
                              flags_.sampling.resolve(session.defaults()));
    for (const std::string& text : flags_.prompts)
      items_.push_back(reader.from_text(text, std::to_string(items_.size())));
    if (!flags_.prompts_file.empty())
      for (PromptItem& item : reader.from_file(flags_.prompts_file)) items_.push_back(std::move(item));
    if (items_.empty()) throw Error(ErrorCode::kInvalidArgument, "no prompts: give --prompt TEXT or --prompts FILE");
    open_output();

    const int64_t start_ns = now_ns();
    Engine& engine = session.engine();
    for (size_t i = 0; i < items_.size(); ++i)
      engine.add({.id = static_cast<int64_t>(i), .prompt = items_[i].token_ids, .sampling = items_[i].sampling});
    if (streams()) {
      fmt::print("> {}\n", items_[0].text);
      engine.on_token = [](int64_t, std::string_view text) {
        fmt::print("{}", text);
        std::fflush(stdout);
      };
    }
    ProgressBar bar("generating", ProgressBar::Unit::kItems, !flags_.engine.no_progress && !streams());
    while (!engine.idle()) {
      if (interrupted() && !cancelled_) cancel_all(engine);
      for (Completion& completion : engine.step()) {
        metrics_.add(completion);
        done_.emplace(completion.id, std::move(completion));
      }
      if (has_ready()) bar.clear();
      write_ready();
      const double seconds = static_cast<double>(now_ns() - start_ns) * 1e-9;
      bar.update(metrics_.num_requests, static_cast<int64_t>(items_.size()),
                 fmt::format("{:.1f} tokens/s", static_cast<double>(engine.stats().num_decode_tokens) / seconds));
    }
    metrics_.wall_s = static_cast<double>(now_ns() - start_ns) * 1e-9;
  }

  int report(const JobProfile& profile) {
    if (flags_.json) {
      Json all{{"results", results_}, {"metrics", metrics_.to_json()}, {"num_ranks", profile.num_ranks}};
      if (flags_.engine.breakdown) all.update(profile.to_json());
      fmt::print("{}\n", all.dump(2, ' ', false, Json::error_handler_t::replace));
    }
    std::fflush(stdout);
    fmt::print(stderr, "\n{}", metrics_.to_text());
    if (flags_.engine.breakdown && !flags_.json) fmt::print(stderr, "\n{}", profile.to_text());
    return cancelled_ ? kExitInterrupted : kExitOk;
  }

 private:
  void open_output() {
    if (flags_.output_file.empty()) return;
    output_.open(flags_.output_file, std::ios::trunc);
    if (!output_) throw_system_error("creating " + flags_.output_file);
  }

  // A single answer is shown while it comes.
  bool streams() const { return items_.size() == 1 && !flags_.json && !output_.is_open(); }

  void cancel_all(Engine& engine) {
    cancelled_ = true;
    for (size_t i = 0; i < items_.size(); ++i)
      if (!done_.contains(static_cast<int64_t>(i))) engine.cancel(static_cast<int64_t>(i));
  }

  bool has_ready() const { return next_ < items_.size() && done_.contains(static_cast<int64_t>(next_)); }

  // Everything up to the first prompt that is still running.
  void write_ready() {
    for (; has_ready(); ++next_) {
      const Completion& completion = done_.at(static_cast<int64_t>(next_));
      const PromptItem& item = items_[next_];
      // An interrupt keeps what was finished; a prompt that was cut short is not a result.
      if (completion.reason == FinishReason::kCancelled) continue;
      const Json result = result_to_json(item, completion, session_->tokenizer());
      if (output_.is_open()) {
        output_ << result.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n' << std::flush;
        if (!output_) throw_system_error("writing " + flags_.output_file);
      } else if (flags_.json) {
        results_.push_back(result);
      } else if (streams()) {
        fmt::print("\n");
      } else {
        fmt::print("{}> {}\n{}\n", next_ == 0 ? "" : "\n", item.text, completion.text);
        std::fflush(stdout);
      }
    }
  }

  Flags& flags_;
  Session* session_ = nullptr;
  std::vector<PromptItem> items_;
  std::map<int64_t, Completion> done_;
  size_t next_ = 0;  // first item not written yet
  std::ofstream output_;
  Json results_ = Json::array();
  RunMetrics metrics_;
  bool cancelled_ = false;
};

}  // namespace

void add_generate(CLI::App& app, Program& program) {
  CLI::App* command = app.add_subcommand("generate", "Answer prompts with a model spread over one or many ranks");
  command->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  auto flags = std::make_shared<Flags>();
  command->add_option("--prompt,-p", flags->prompts, "A prompt; may be given several times")->take_all();
  command->add_option(
      "--prompts", flags->prompts_file,
      "File of prompts, one a line: text, or JSONL with \"prompt\", \"prompt_token_ids\" or \"messages\" and "
      "sampling fields; - is standard input");
  command->add_option("--output,-o", flags->output_file, "Write results to this JSONL file, in input order");
  command->add_flag("--json", flags->json, "Print results, metrics and breakdown as one JSON object");
  command->add_flag_callback(
      "--chat", [flags] { flags->chat = true; },
      "Put prompts into the model's chat format (default for the demo model)");
  command->add_flag_callback(
      "--no-chat", [flags] { flags->chat = false; }, "Take prompts as they are");
  flags->sampling.add_to(*command);
  flags->engine.add_to(*command);
  command->footer(
      "Examples:\n"
      "  lane generate --prompt 'What is 17 + 25?' --tp 2 --breakdown\n"
      "  lane generate --model ./Llama-3.2-1B-Instruct --chat --prompts questions.txt --output answers.jsonl\n"
      "  mpirun -np 4 lane generate --prompts questions.jsonl --temperature 0.7 --seed 1");
  command->callback([&program, flags] {
    program.run = [&program, flags] {
      Generation generation(*flags);
      return run_job(flags->engine, program,
                     {.work = [&](Session& session) { generation.run(session); },
                      .report = [&](Session&, const JobProfile& profile) { return generation.report(profile); }});
    };
  });
}

}  // namespace lane::cli
