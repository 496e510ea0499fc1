#include "lane/model/chat.h"

#include <gtest/gtest.h>

#include "lane/base/error.h"
#include "tokenizer_json.h"

namespace lane {
namespace {

const std::vector<ChatMessage> kTalk{
    {"system", "Be brief."}, {"user", "  Hi \n\n there\u3000\n"}, {"assistant", "Hello!"}, {"user", ""}};

TEST(Chat, RendersLlama3AsItsTemplate) {
  EXPECT_EQ(render_chat(ChatFormat::kLlama3, kTalk),
            "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi \n\n there<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

TEST(Chat, TrimsLikePythonAndKeepsWhatIsNoText) {
  const auto content = [](const std::string& text) {
    const std::string out = render_chat(ChatFormat::kLlama3, {{"user", text}});
    const size_t begin = out.find("\n\n") + 2;
    return out.substr(begin, out.find("<|eot_id|>") - begin);
  };
  EXPECT_EQ(content("\x1c\x1f\t a \u0085\u2028"), "a");
  EXPECT_EQ(content("\u200b a"), "\u200b a");  // a zero-width space is no white space
  EXPECT_EQ(content("\xff \xe2\x80"), "\xff \xe2\x80");
  EXPECT_EQ(content(" \n "), "");
}

TEST(Chat, RendersChatMlWithoutADefaultSystemMessage) {
  EXPECT_EQ(render_chat(ChatFormat::kChatMl, kTalk),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n  Hi \n\n there\u3000\n<|im_end|>\n"
            "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(render_chat(ChatFormat::kChatMl, {{"user", "Hi"}}),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

TEST(Chat, RefusesOtherRoles) {
  try {
    render_chat(ChatFormat::kChatMl, {{"user", "Hi"}, {"tool", "42"}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find("\"tool\""), std::string::npos);
  }
}

TEST(Chat, DetectsTheFormatByItsTokens) {
  const auto with = [](const std::vector<std::string>& tokens) {
    Json json = test::byte_level_json({});
    for (const auto& token : tokens) json["added_tokens"].push_back(test::added_token(token));
    return Tokenizer::parse(json.dump(), "test");
  };
  EXPECT_EQ(detect_chat_format(with({"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"})), ChatFormat::kLlama3);
  EXPECT_EQ(detect_chat_format(with({"<|im_start|>", "<|im_end|>"})), ChatFormat::kChatMl);
  try {
    detect_chat_format(with({"<|im_start|>", "<|eot_id|>"}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    for (const char* token : {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"})
      EXPECT_NE(std::string(error.what()).find(token), std::string::npos) << token;
  }
}

}  // namespace
}  // namespace lane
