#pragma once
#include <optional>
#include <string>
#include <vector>

#include "lane/base/json.h"
#include "lane/model/chat.h"
#include "lane/model/tokenizer.h"
#include "lane/runtime/request.h"

namespace lane::cli {

// A prompt as somebody wrote it: text, ids or a conversation, with its own sampling fields on top of the defaults.
struct PromptItem {
  std::string id;    // as given, else its number in the input, from 0
  std::string text;  // of a plain prompt; the rendered conversation otherwise
  std::vector<int32_t> token_ids;
  SamplingParams sampling;
};

// Overwrites what `fields` names; names are those of the OpenAI API and vLLM. Unknown fields are left alone, since the
// formats carry many that do not concern sampling; a known one of a wrong type or value is an Error naming `where`.
void apply_sampling_fields(const Json& fields, SamplingParams& params, const std::string& where);

std::vector<ChatMessage> parse_messages(const Json& messages, const std::string& where);

// Makes PromptItems: encodes text, applies the chat format. One for a whole input.
class PromptReader {
 public:
  // `tokenizer` may be null (the folder has none): then only token ids are accepted.
  PromptReader(const Tokenizer* tokenizer, bool chat, const SamplingParams& defaults);

  PromptItem from_text(const std::string& text, const std::string& id) const;
  PromptItem from_messages(const std::vector<ChatMessage>& messages, const std::string& id) const;
  // {"prompt": ...} or {"prompt_token_ids": [...]} or {"messages": [...]}, optional "id" and sampling fields.
  PromptItem from_json(const Json& line, const std::string& id, const std::string& where) const;
  // A file of one prompt a line: JSONL if the first character of the file is '{', text otherwise. "-" is standard
  // input.
  std::vector<PromptItem> from_file(const std::string& path) const;

 private:
  const Tokenizer& need_tokenizer() const;
  const Tokenizer* tokenizer_;
  bool chat_;
  SamplingParams defaults_;
};

}  // namespace lane::cli
