#include <fmt/format.h>

#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>
#include <unordered_map>

#include "cli/job.h"
#include "cli/progress.h"
#include "cli/requests.h"
#include "cli/results.h"
#include "cli/sampling_flags.h"
#include "lane/base/file.h"
#include "lane/base/log.h"
#include "lane/base/process.h"
#include "lane/base/trace.h"

namespace lane::cli {
namespace {

struct Flags {
  EngineFlags engine;
  std::string input, output;
  bool resume = false;
};

enum class Endpoint { kCompletions, kChat };

struct Pending {
  std::string custom_id;
  Endpoint endpoint;
  PromptItem item;
};

// The OpenAI batch format: lines {"custom_id", "method": "POST", "url", "body"} in, lines {"id", "custom_id",
// "response", "error"} out, each written as soon as its request is done. A line that is wrong becomes an error line;
// the others go on.
class Batch {
 public:
  explicit Batch(Flags& flags) : flags_(flags) {}

  void run(Session& session) {
    session_ = &session;
    SamplingParams defaults = sampling_defaults(session.defaults());
    // In the order of the API: /v1/completions gives 16 tokens unless told, /v1/chat/completions as many as fit.
    completions_.emplace(session.tokenizer(), false, defaults);
    defaults.max_tokens = session.max_model_len();
    chat_.emplace(session.tokenizer(), true, defaults);
    if (flags_.input != "-") {
      file_.open(flags_.input);
      if (!file_) throw_system_error("opening " + flags_.input);
    }
    open_output();

    Engine& engine = session.engine();
    const int64_t start_ns = now_ns();
    ProgressBar bar("batch", ProgressBar::Unit::kItems, !flags_.engine.no_progress);
    const auto ahead = static_cast<size_t>(2 * session.max_num_seqs());  // enough to never run dry
    bool more = true;
    while (more || !engine.idle()) {
      if (interrupted()) break;
      while (more && pending_.size() < ahead) more = read_one(engine);
      for (const Completion& completion : engine.step()) finish_one(completion);
      bar.update(metrics_.num_requests, next_id_, fmt::format("{} failed", num_failed_));
    }
    cancelled_ = interrupted();
    for (const auto& [id, unused] : pending_) engine.cancel(id);
    while (!engine.idle()) engine.step();
    metrics_.wall_s = static_cast<double>(now_ns() - start_ns) * 1e-9;
  }

  int report(const JobProfile& profile) const {
    fmt::print(stderr, "{}", metrics_.to_text());
    if (num_skipped_ > 0) fmt::print(stderr, "{} requests were already in {}\n", num_skipped_, flags_.output);
    if (num_failed_ > 0)
      fmt::print(stderr, "{} requests failed; their lines in {} say why\n", num_failed_, flags_.output);
    if (cancelled_) fmt::print(stderr, "interrupted; run again with --resume to go on\n");
    if (flags_.engine.breakdown) fmt::print(stderr, "\n{}", profile.to_text());
    return cancelled_ ? kExitInterrupted : kExitOk;
  }

 private:
  // With --resume keeps the whole lines that an interrupted run wrote and remembers what they answer.
  void open_output() {
    std::uintmax_t whole_bytes = 0;
    if (std::ifstream before(flags_.output, std::ios::binary); before && flags_.resume) {
      int64_t number = 0;
      for (std::string line; std::getline(before, line) && !before.eof(); whole_bytes += line.size() + 1) {
        const Json json = parse_json(line, fmt::format("{}, line {}", flags_.output, ++number));
        // An error line is tried again: what was wrong may have been mended.
        if (json_string(json, "custom_id", "", flags_.output).empty()) continue;
        if (json.contains("error") && !json["error"].is_null()) continue;
        answered_.insert(json["custom_id"].get<std::string>());
      }
      before.close();
      std::filesystem::resize_file(flags_.output, whole_bytes);
    } else if (before && std::filesystem::file_size(flags_.output) > 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  flags_.output + " exists; give --resume to go on with it, or remove it to start anew");
    }
    output_.open(flags_.output, std::ios::app | std::ios::binary);
    if (!output_) throw_system_error("opening " + flags_.output);
  }

  // False at the end of the input.
  bool read_one(Engine& engine) {
    std::string line;
    if (!std::getline(flags_.input == "-" ? std::cin : file_, line)) return false;
    const std::string where =
        fmt::format("{}, line {}", flags_.input == "-" ? "standard input" : flags_.input, ++line_number_);
    if (line.find_first_not_of(" \t\r") == std::string::npos) return true;
    std::string custom_id;
    try {
      const Json json = parse_json(line, where);
      custom_id = json_string(json, "custom_id", "", where);
      if (custom_id.empty()) throw Error(ErrorCode::kInvalidArgument, where + ": no \"custom_id\"");
      if (answered_.contains(custom_id)) {
        ++num_skipped_;
        return true;
      }
      if (!seen_.insert(custom_id).second)
        throw Error(ErrorCode::kInvalidArgument, where + ": custom_id " + custom_id + " was used by an earlier line");
      const std::string url = json_string(json, "url", "", where), method = json_string(json, "method", "POST", where);
      if (method != "POST" || (url != "/v1/completions" && url != "/v1/chat/completions"))
        throw Error(ErrorCode::kInvalidArgument,
                    where + ": " + method + " " + url + "; expected POST /v1/completions or /v1/chat/completions");
      if (!json.contains("body")) throw Error(ErrorCode::kInvalidArgument, where + ": no \"body\"");
      const Endpoint endpoint = url == "/v1/completions" ? Endpoint::kCompletions : Endpoint::kChat;
      PromptItem item = read_body(endpoint, json["body"], where);
      engine.add({.id = next_id_, .prompt = item.token_ids, .sampling = item.sampling});
      pending_.emplace(next_id_++, Pending{std::move(custom_id), endpoint, std::move(item)});
    } catch (const Error& error) {
      ++num_failed_;
      write({{"id", fmt::format("batch_req_{}", line_number_)},
             {"custom_id", custom_id.empty() ? Json() : Json(custom_id)},
             {"response", {{"status_code", 400}, {"request_id", ""}, {"body", Json::object()}}},
             {"error", {{"code", "invalid_request"}, {"message", error.what()}}}});
    }
    return true;
  }

  PromptItem read_body(Endpoint endpoint, const Json& body, const std::string& where) const {
    if (!body.is_object()) throw Error(ErrorCode::kInvalidArgument, where + ": \"body\" is not an object");
    if (json_bool(body, "stream", false, where))
      throw Error(ErrorCode::kInvalidArgument, where + ": \"stream\" is true; a batch answers in whole lines");
    const char* field = endpoint == Endpoint::kChat ? "messages" : "prompt";
    if (!body.contains(field)) throw Error(ErrorCode::kInvalidArgument, where + ": no \"" + field + "\" in the body");
    return (endpoint == Endpoint::kChat ? *chat_ : *completions_).from_json(body, "", where);
  }

  void finish_one(const Completion& completion) {
    const auto at = pending_.find(completion.id);
    const Pending& request = at->second;
    const std::string id =
        fmt::format("{}-{}", request.endpoint == Endpoint::kChat ? "chatcmpl" : "cmpl", completion.id);
    const Json result = result_to_json(request.item, completion, session_->tokenizer());
    Json choice{
        {"index", 0}, {"finish_reason", name_of(completion.reason)}, {"logprobs", result.value("logprobs", Json())}};
    if (request.endpoint == Endpoint::kChat)
      choice["message"] = {{"role", "assistant"}, {"content", completion.text}};
    else
      choice["text"] = completion.text;
    const auto num_output = static_cast<int64_t>(completion.tokens.size());
    const Json body{{"id", id},
                    {"object", request.endpoint == Endpoint::kChat ? "chat.completion" : "text_completion"},
                    {"created", static_cast<int64_t>(std::time(nullptr))},
                    {"model", flags_.engine.session.model},
                    {"choices", Json::array({choice})},
                    {"usage",
                     {{"prompt_tokens", completion.prompt_tokens},
                      {"completion_tokens", num_output},
                      {"total_tokens", completion.prompt_tokens + num_output}}}};
    write({{"id", "batch_req_" + id},
           {"custom_id", request.custom_id},
           {"response", {{"status_code", 200}, {"request_id", id}, {"body", body}}},
           {"error", nullptr}});
    metrics_.add(completion);
    pending_.erase(at);
  }

  void write(const Json& line) {
    output_ << line.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n' << std::flush;
    if (!output_) throw_system_error("writing " + flags_.output);
  }

  Flags& flags_;
  Session* session_ = nullptr;
  std::optional<PromptReader> completions_, chat_;
  std::ifstream file_;
  std::ofstream output_;
  std::set<std::string> answered_;  // by an earlier run
  std::set<std::string> seen_;      // in this one
  std::unordered_map<int64_t, Pending> pending_;
  int64_t next_id_ = 0, line_number_ = 0, num_failed_ = 0, num_skipped_ = 0;
  RunMetrics metrics_;
  bool cancelled_ = false;
};

}  // namespace

void add_run_batch(CLI::App& app, Program& program) {
  CLI::App* command = app.add_subcommand("run-batch", "Answer a file of requests in the OpenAI batch format");
  command->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  auto flags = std::make_shared<Flags>();
  command->add_option("-i,--input", flags->input, "Requests, JSONL; - is standard input")->required();
  command->add_option("-o,--output", flags->output, "Results, JSONL, written as they finish")->required();
  command->add_flag("--resume", flags->resume, "Keep the results that are there and do the rest");
  flags->engine.add_to(*command);
  command->footer("Example: lane run-batch -i requests.jsonl -o results.jsonl --tp 2");
  command->callback([&program, flags] {
    program.run = [&program, flags] {
      Batch batch(*flags);
      return run_job(flags->engine, program,
                     {.work = [&](Session& session) { batch.run(session); },
                      .report = [&](Session&, const JobProfile& profile) { return batch.report(profile); }});
    };
  });
}

}  // namespace lane::cli
