#include "lane/model/chat.h"

#include <algorithm>
#include <array>

#include "lane/base/error.h"
#include "lane/model/tokenizers/unicode.h"

namespace lane {
namespace {

constexpr std::array<std::string_view, 3> kLlama3Tokens{"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
constexpr std::array<std::string_view, 2> kChatMlTokens{"<|im_start|>", "<|im_end|>"};

template <size_t N>
bool has_all(const Tokenizer& tokenizer, const std::array<std::string_view, N>& tokens) {
  for (const auto token : tokens)
    if (!tokenizer.token_id(token)) return false;
  return true;
}

// Jinja's trim, which is Python's str.strip(): white space, and the four separators of ASCII.
std::string_view trim(std::string_view text) {
  const auto is_space = [](char32_t c) { return tokenizers::is_whitespace(c) || (c >= 0x1c && c <= 0x1f); };
  size_t begin = 0, end = 0;  // `end` is behind the last character that stays
  bool in_front = true;
  for (size_t i = 0; i < text.size();) {
    const auto length = std::min(static_cast<size_t>(tokenizers::utf8_length(text[i])), text.size() - i);
    // Text from outside may end within a sequence, and bytes that are no text are no space.
    const bool whole = tokenizers::is_valid_utf8(text.substr(i, length));
    const size_t next = i + (whole ? length : 1);
    if (!whole || !is_space(tokenizers::read_utf8(&text[i]))) {
      if (in_front) begin = i;
      in_front = false;
      end = next;
    }
    i = next;
  }
  return text.substr(begin, end - begin);
}

}  // namespace

ChatFormat detect_chat_format(const Tokenizer& tokenizer) {
  if (has_all(tokenizer, kLlama3Tokens)) return ChatFormat::kLlama3;
  if (has_all(tokenizer, kChatMlTokens)) return ChatFormat::kChatMl;
  std::string names;
  for (const auto token : kLlama3Tokens) names += (names.empty() ? "" : " ") + std::string(token);
  names += ", nor those of ChatML (Qwen):";
  for (const auto token : kChatMlTokens) names += " " + std::string(token);
  throw Error(ErrorCode::kUnsupported,
              "this model's chat format is not known: its vocabulary has neither the tokens of Llama 3: " + names);
}

std::string render_chat(ChatFormat format, const std::vector<ChatMessage>& messages) {
  for (const auto& message : messages)
    if (message.role != "system" && message.role != "user" && message.role != "assistant")
      throw Error(ErrorCode::kInvalidArgument,
                  "a chat message has the role \"" + message.role + "\"; known are system, user and assistant");
  std::string text;
  switch (format) {
    case ChatFormat::kLlama3:
      for (const auto& [role, content] : messages) {
        text += "<|start_header_id|>" + role + "<|end_header_id|>\n\n";
        text += trim(content);
        text += "<|eot_id|>";
      }
      return text + "<|start_header_id|>assistant<|end_header_id|>\n\n";
    case ChatFormat::kChatMl:
      for (const auto& [role, content] : messages) text += "<|im_start|>" + role + "\n" + content + "<|im_end|>\n";
      return text + "<|im_start|>assistant\n";
  }
  ensure(false, "every chat format is rendered");
  return text;
}

}  // namespace lane
