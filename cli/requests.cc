#include "cli/requests.h"

#include <fmt/format.h>

#include <fstream>
#include <iostream>
#include <iterator>

#include "lane/base/error.h"

namespace lane::cli {
namespace {

[[noreturn]] void bad_field(const std::string& where, const char* field, const Json& value, const char* expected) {
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{}: \"{}\" is {}; expected {}", where, field, value.dump(-1, ' ', true), expected));
}

std::vector<int32_t> parse_token_ids(const Json& list, const char* field, const std::string& where) {
  if (!list.is_array()) bad_field(where, field, list, "a list of token ids");
  std::vector<int32_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) bad_field(where, field, id, "a list of token ids");
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

}  // namespace

void apply_sampling_fields(const Json& fields, SamplingParams& params, const std::string& where) {
  const auto number = [&](const char* field, double& value) { value = json_number(fields, field, value, where); };
  const auto whole = [&](const char* field, int64_t& value) { value = json_int(fields, field, value, where); };
  whole("max_tokens", params.max_tokens);
  whole("max_completion_tokens", params.max_tokens);
  whole("min_tokens", params.min_tokens);
  whole("top_k", params.top_k);
  number("temperature", params.temperature);
  number("top_p", params.top_p);
  number("min_p", params.min_p);
  number("repetition_penalty", params.repetition_penalty);
  number("presence_penalty", params.presence_penalty);
  number("frequency_penalty", params.frequency_penalty);
  params.seed = static_cast<uint64_t>(json_int(fields, "seed", static_cast<int64_t>(params.seed), where));
  params.ignore_eos = json_bool(fields, "ignore_eos", params.ignore_eos, where);
  params.include_stop_str_in_output =
      json_bool(fields, "include_stop_str_in_output", params.include_stop_str_in_output, where);
  if (fields.contains("stop") && !fields["stop"].is_null()) {
    const Json& stop = fields["stop"];
    const Json list = stop.is_array() ? stop : Json::array({stop});
    params.stop.clear();
    for (const Json& text : list) {
      if (!text.is_string()) bad_field(where, "stop", stop, "a string or a list of strings");
      params.stop.push_back(text.get<std::string>());
    }
  }
  if (fields.contains("stop_token_ids") && !fields["stop_token_ids"].is_null())
    params.stop_token_ids = parse_token_ids(fields["stop_token_ids"], "stop_token_ids", where);
  // A number in /v1/completions; true and top_logprobs in /v1/chat/completions.
  if (fields.contains("logprobs") && fields["logprobs"].is_boolean())
    params.logprobs =
        fields["logprobs"].get<bool>() ? static_cast<int>(json_int(fields, "top_logprobs", 0, where)) : -1;
  else
    params.logprobs = static_cast<int>(json_int(fields, "logprobs", params.logprobs, where));
  if (json_int(fields, "n", 1, where) != 1)
    bad_field(where, "n", fields["n"], "1: ask again with another seed for another answer");
  try {
    check(params);
  } catch (const Error& error) {
    throw Error(error.code(), where + ": " + error.what());
  }
}

std::vector<ChatMessage> parse_messages(const Json& messages, const std::string& where) {
  if (!messages.is_array() || messages.empty())
    bad_field(where, "messages", messages, "a list of at least one message");
  std::vector<ChatMessage> parsed;
  for (const Json& message : messages) {
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string() ||
        !message.contains("content"))
      bad_field(where, "messages", message, "objects with role and content");
    ChatMessage out{.role = message["role"].get<std::string>(), .content = {}};
    if (out.role != "system" && out.role != "user" && out.role != "assistant")
      bad_field(where, "role", message["role"], "system, user or assistant");
    const Json& content = message["content"];
    if (content.is_string()) {
      out.content = content.get<std::string>();
    } else if (content.is_array()) {
      for (const Json& part : content) {
        if (!part.is_object() || part.value("type", "") != "text" || !part.contains("text") ||
            !part["text"].is_string())
          bad_field(where, "content", part, "text: this model reads nothing else");
        out.content += part["text"].get<std::string>();
      }
    } else {
      bad_field(where, "content", content, "a string");
    }
    parsed.push_back(std::move(out));
  }
  return parsed;
}

PromptReader::PromptReader(const Tokenizer* tokenizer, bool chat, const SamplingParams& defaults)
    : tokenizer_(tokenizer), chat_(chat), defaults_(defaults) {}

const Tokenizer& PromptReader::need_tokenizer() const {
  if (!tokenizer_)
    throw Error(ErrorCode::kInvalidArgument,
                "this model folder has no tokenizer.json; give prompt_token_ids in a JSONL file (--prompts)");
  return *tokenizer_;
}

PromptItem PromptReader::from_text(const std::string& text, const std::string& id) const {
  if (chat_) {
    PromptItem item = from_messages({{.role = "user", .content = text}}, id);
    item.text = text;
    return item;
  }
  return {.id = id, .text = text, .token_ids = need_tokenizer().encode(text), .sampling = defaults_};
}

PromptItem PromptReader::from_messages(const std::vector<ChatMessage>& messages, const std::string& id) const {
  const std::string text = render_chat(detect_chat_format(need_tokenizer()), messages);
  return {.id = id, .text = text, .token_ids = need_tokenizer().encode(text), .sampling = defaults_};
}

PromptItem PromptReader::from_json(const Json& line, const std::string& id, const std::string& where) const {
  if (!line.is_object()) throw Error(ErrorCode::kInvalidArgument, where + ": expected a JSON object");
  std::string own_id = id;
  if (line.contains("id")) own_id = line["id"].is_string() ? line["id"].get<std::string>() : line["id"].dump();
  PromptItem item;
  if (line.contains("prompt_token_ids")) {
    item = {.id = own_id,
            .text = {},
            .token_ids = parse_token_ids(line["prompt_token_ids"], "prompt_token_ids", where),
            .sampling = defaults_};
    if (tokenizer_) item.text = tokenizer_->decode(item.token_ids, false);
  } else if (line.contains("messages")) {
    item = from_messages(parse_messages(line["messages"], where), own_id);
  } else if (line.contains("prompt") && line["prompt"].is_array()) {
    item = {
        .id = own_id, .text = {}, .token_ids = parse_token_ids(line["prompt"], "prompt", where), .sampling = defaults_};
    if (tokenizer_) item.text = tokenizer_->decode(item.token_ids, false);
  } else if (line.contains("prompt") && line["prompt"].is_string()) {
    item = from_text(line["prompt"].get<std::string>(), own_id);
  } else {
    throw Error(ErrorCode::kInvalidArgument, where + ": expected \"prompt\", \"prompt_token_ids\" or \"messages\"");
  }
  apply_sampling_fields(line, item.sampling, where);
  return item;
}

std::vector<PromptItem> PromptReader::from_file(const std::string& path) const {
  std::ifstream file;
  if (path != "-") {
    file.open(path);
    if (!file) throw_system_error("opening " + path);
  }
  std::istream& input = path == "-" ? std::cin : file;
  const std::string name = path == "-" ? "standard input" : path;
  std::vector<PromptItem> items;
  bool json = false;
  int64_t number = 0;
  for (std::string line; std::getline(input, line);) {
    if (++number == 1) json = line.starts_with('{');
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    const std::string id = std::to_string(items.size()), where = fmt::format("{}, line {}", name, number);
    items.push_back(json ? from_json(parse_json(line, where), id, where) : from_text(line, id));
  }
  return items;
}

}  // namespace lane::cli
