#pragma once
#include <string>
#include <vector>

#include "lane/model/tokenizer.h"

namespace lane {

struct ChatMessage {
  std::string role;  // system, user, assistant
  std::string content;
};

// The chat formats that Lane writes itself, told apart by the special tokens of the tokenizer.
enum class ChatFormat { kLlama3, kChatMl };

// Error{kUnsupported} when the vocabulary has the special tokens of neither; it names those that were looked for.
ChatFormat detect_chat_format(const Tokenizer& tokenizer);

// The prompt as text, ending where the assistant starts to speak: what the Jinja templates of Llama 3 and of Qwen make
// of plain messages. Special tokens are written out; a bos, where the format has one, is left to
// encode(add_special_tokens = true). Nothing is added that the caller did not write: not the default system message of
// Qwen2.5's template ("You are Qwen, ..."), not the dates of Llama 3.1's. Llama 3 trims white space around a content.
// Error{kInvalidArgument} for another role. Special tokens within a content are not escaped, as in those templates.
std::string render_chat(ChatFormat format, const std::vector<ChatMessage>& messages);

}  // namespace lane
