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

// The prompt as text, ending where the assistant starts to speak. Special tokens are written out; a bos, where the
// format has one, is left to encode(add_special_tokens = true).
std::string render_chat(ChatFormat format, const std::vector<ChatMessage>& messages);

}  // namespace lane
