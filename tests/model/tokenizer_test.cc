#include "lane/model/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "lane/base/error.h"
#include "lane/base/random.h"
#include "tokenizer_json.h"

namespace lane {
namespace {

using Ids = std::vector<int32_t>;
using test::added_token;
using Merges = std::vector<std::pair<std::string, std::string>>;

Tokenizer made(const Json& json) { return Tokenizer::parse(json.dump(), "test.json"); }

std::vector<std::string> tokens(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<std::string> out;
  for (const int32_t id : tokenizer.encode(text, false)) out.push_back(tokenizer.token(id));
  return out;
}
using Tokens = std::vector<std::string>;

TEST(Tokenizer, MergesByRuleAndThenFromTheLeft) {
  const Tokenizer tokenizer = made(test::byte_level_json({{"b", "c"}, {"a", "b"}, {"a", "a"}, {"aa", "a"}}));
  EXPECT_EQ(tokens(tokenizer, "abc"), (Tokens{"a", "bc"}));
  EXPECT_EQ(tokens(tokenizer, "abb"), (Tokens{"ab", "b"}));
  EXPECT_EQ(tokens(tokenizer, "aaaaa"), (Tokens{"aa", "aaa"}));
  EXPECT_EQ(tokens(tokenizer, "aaa"), (Tokens{"aaa"}));
}

// Short words are merged by looking at all pairs, long ones by a heap.
TEST(Tokenizer, MergesShortAndLongWordsAlike) {
  Merges merges;
  const std::vector<std::string> parts{"ab", "ba", "aa", "bb", "abab", "abba", "aabb", "baab", "bbaa", "abaab"};
  for (const auto& part : parts) merges.emplace_back(part.substr(0, part.size() / 2), part.substr(part.size() / 2));
  merges.back() = {"ab", "aab"};  // of a part that is none
  merges.insert(merges.end() - 1, {"aa", "b"});
  const Tokenizer tokenizer = made(test::byte_level_json(merges));
  const std::string separator(40, 'c');  // no rule joins it, so it only makes the word long
  for (uint64_t i = 0; i < 500; ++i) {
    std::string text;
    for (uint64_t j = 0; j < 1 + i % 20; ++j) text += random_bits(i, j) % 2 == 0 ? 'a' : 'b';
    const Ids alone = tokenizer.encode(text);
    Ids within = tokenizer.encode(text + separator);
    within.resize(within.size() - separator.size());
    EXPECT_EQ(alone, within) << text;
  }
}

TEST(Tokenizer, EncodesAMegabyteThatIsOneWord) {
  constexpr size_t kBytes = 1000000;
  Merges merges;
  for (int i = 0; i < 6; ++i) merges.emplace_back(std::string(1u << i, 'a'), std::string(1u << i, 'a'));
  const Tokenizer llama2 = made(test::sentencepiece_json({"▁", "a"}, merges));
  const Ids ids = llama2.encode(std::string(kBytes, 'a'), false);
  ASSERT_EQ(ids.size(), 1 + kBytes / 64);
  EXPECT_EQ(llama2.token(ids.front()), "▁");
  for (size_t i = 1; i < ids.size(); ++i) ASSERT_EQ(llama2.token(ids[i]), std::string(64, 'a'));

  const Tokenizer llama3 = made(test::byte_level_json(merges));
  EXPECT_EQ(llama3.encode(std::string(kBytes, 'a')).size(), kBytes / 64);
  EXPECT_EQ(llama3.encode(std::string(kBytes, ' ')).size(), kBytes);
  EXPECT_EQ(llama3.encode(std::string(kBytes, '\n') + "a").size(), kBytes + 1);
}

// A long run of marks in the wrong order makes naive normalisation quadratic.
TEST(Tokenizer, NormalizesAMegabyteOfMarks) {
  Json json = test::byte_level_json({});
  json["normalizer"] = {{"type", "NFC"}};
  const Tokenizer tokenizer = made(json);
  std::string text = "a";
  for (int i = 0; i < 125000; ++i) text += "\u0301\u0323\u0301\u0323";
  std::string sorted = "\u1ea1";  // a with a dot below; the other dots and the accents follow
  for (int i = 1; i < 250000; ++i) sorted += "\u0323";
  for (int i = 0; i < 250000; ++i) sorted += "\u0301";
  EXPECT_TRUE(tokenizer.decode(tokenizer.encode(text)) == sorted);
}

TEST(Tokenizer, ReadsBadBytesAsReplacementCharacters) {
  const Tokenizer tokenizer = made(test::byte_level_json({}));
  const auto read = [&](std::string_view bytes) { return tokenizer.decode(tokenizer.encode(bytes)); };
  const std::string bad = "\ufffd";
  EXPECT_EQ(read("a\xff"
                 "b"),
            "a" + bad + "b");
  EXPECT_EQ(read("\xe4\xbd"), bad);  // one for a truncated sequence
  EXPECT_EQ(read("\xe4\xbd\xe4\xbd\xa0"), bad + "你");
  EXPECT_EQ(read("\xed\xa0\x80"), bad + bad + bad);  // a surrogate
  EXPECT_EQ(read("\xc0\x80"), bad + bad);            // an overlong form
  EXPECT_EQ(read("\xf0\x9f\x98"), bad);
  EXPECT_EQ(read("\xf5\x80"), bad + bad);
  EXPECT_EQ(read(std::string_view("a\0b", 3)), std::string("a\0b", 3));
}

TEST(Tokenizer, FallsBackToBytesAndThenToUnk) {
  Json json = test::sentencepiece_json({"▁", "a", "b"}, {{"▁", "a"}});
  EXPECT_EQ(tokens(made(json), "a é"), (Tokens{"▁a", "▁", "<0xC3>", "<0xA9>"}));
  json["model"]["byte_fallback"] = false;
  EXPECT_EQ(tokens(made(json), "aéëb"), (Tokens{"▁a", "<unk>", "b"}));
  json["model"]["fuse_unk"] = false;
  EXPECT_EQ(tokens(made(json), "aéëb"), (Tokens{"▁a", "<unk>", "<unk>", "b"}));
  json["model"]["unk_token"] = nullptr;
  EXPECT_EQ(tokens(made(json), "aéëb"), (Tokens{"▁a", "b"}));
  json["model"]["unk_token"] = "<missing>";
  EXPECT_THROW(made(json).encode("é"), Error);
}

TEST(Tokenizer, KnowsItsTokens) {
  Json json = test::byte_level_json({{"a", "b"}});
  json["added_tokens"] = {added_token("<|end|>"), added_token("plain", false)};
  const Tokenizer tokenizer = made(json);
  EXPECT_EQ(tokenizer.vocab_size(), 259);
  EXPECT_EQ(tokenizer.token_id("ab"), 256);
  EXPECT_EQ(tokenizer.token_id("<|end|>"), 257);
  EXPECT_EQ(tokenizer.token_id("nothing"), std::nullopt);
  EXPECT_EQ(tokenizer.token(258), "plain");
  EXPECT_EQ(tokenizer.token(259), "");
  EXPECT_EQ(tokenizer.token(-1), "");
  EXPECT_TRUE(tokenizer.is_special(257));
  EXPECT_FALSE(tokenizer.is_special(258));
  EXPECT_FALSE(tokenizer.is_special(1 << 30));
  EXPECT_EQ(tokenizer.encode("ab<|end|>plainab"), (Ids{256, 257, 258, 256}));
  EXPECT_EQ(tokenizer.decode(Ids{256, 257, 258, 1 << 30, -5}), "abplain");
  EXPECT_EQ(tokenizer.decode(Ids{256, 257, 258}, false), "ab<|end|>plain");
}

TEST(StreamDecoder, HoldsBackWhatCanStillChange) {
  const Tokenizer bytes = made(test::byte_level_json({}));
  StreamDecoder stream(bytes);
  Tokens pieces;
  for (const int32_t id : bytes.encode("é你\xf0\x9f\x98\x80!")) pieces.push_back(stream.push(id));
  EXPECT_EQ(pieces, (Tokens{"", "é", "", "", "你", "", "", "", "😀", "!"}));
  const Ids half = bytes.encode("你");
  EXPECT_EQ(stream.push(half[0]), "");
  EXPECT_EQ(stream.finish(), "\ufffd");

  const Tokenizer llama2 = made(test::sentencepiece_json({"▁", "a"}, {{"▁", "a"}}));
  const int32_t space_a = *llama2.token_id("▁a"), a = *llama2.token_id("a");
  const auto byte = [](int value) { return 3 + value; };
  StreamDecoder first(llama2);
  EXPECT_EQ(first.push(space_a), "a");  // the leading space of the text goes, no other does
  EXPECT_EQ(first.push(space_a), " a");
  EXPECT_EQ(first.push(byte(0xc3)), "");
  EXPECT_EQ(first.push(byte(0xa9)), "");  // a bad byte could still follow and spoil the run
  EXPECT_EQ(first.push(a), "éa");
  EXPECT_EQ(first.push(byte(0xc3)), "");
  EXPECT_EQ(first.push(byte(0xc3)), "\ufffd\ufffd");
  EXPECT_EQ(first.push(byte(0xa9)), "\ufffd");
  EXPECT_EQ(first.push(a), "a");
  EXPECT_EQ(first.push(byte(0xe4)), "");
  EXPECT_EQ(first.finish(), "\ufffd");
  StreamDecoder empty(llama2);
  EXPECT_EQ(empty.finish(), "");
}

struct BadFile {
  const char *name, *pointer, *value;  // what is put where; an empty value removes it
  ErrorCode code;
  const char* says;
};

TEST(TokenizerFile, EveryErrorNamesTheFileAndThePlace) {
  const std::vector<BadFile> table{
      {"version", "/version", R"("2.0")", ErrorCode::kUnsupported, "version"},
      {"no model", "/model", "", ErrorCode::kCorruptData, "\"model\" is missing"},
      {"model type", "/model/type", R"("WordPiece")", ErrorCode::kUnsupported, "WordPiece"},
      {"dropout", "/model/dropout", "0.5", ErrorCode::kUnsupported, "dropout"},
      {"prefix", "/model/continuing_subword_prefix", R"("##")", ErrorCode::kUnsupported, "continuing_subword_prefix"},
      {"suffix", "/model/end_of_word_suffix", R"("</w>")", ErrorCode::kUnsupported, "end_of_word_suffix"},
      {"vocab list", "/model/vocab", "[]", ErrorCode::kCorruptData, "vocab"},
      {"id text", "/model/vocab/a", R"("x")", ErrorCode::kCorruptData, "the id of \"a\""},
      {"id negative", "/model/vocab/a", "-1", ErrorCode::kCorruptData, "the id of \"a\""},
      {"id huge", "/model/vocab/a", "4000000000", ErrorCode::kCorruptData, "the id of \"a\""},
      {"merges object", "/model/merges", "{}", ErrorCode::kCorruptData, "merges"},
      {"merge of one", "/model/merges/0", R"("ab")", ErrorCode::kCorruptData, "\"merges\"[0]"},
      {"merge of three", "/model/merges/0", R"(["a", "b", "c"])", ErrorCode::kCorruptData, "\"merges\"[0]"},
      {"merge unknown", "/model/merges/0", R"("a zz")", ErrorCode::kCorruptData, "\"zz\" is not in the vocabulary"},
      {"merge result", "/model/merges/0", R"("b a")", ErrorCode::kCorruptData, "\"ba\" is not in the vocabulary"},
      {"normalizer", "/normalizer", R"({"type": "Precompiled"})", ErrorCode::kUnsupported,
       "normalizer: \"Precompiled\""},
      {"normalizers", "/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Bert"}]})",
       ErrorCode::kUnsupported, "normalizer[1]: \"Bert\""},
      {"prepend", "/normalizer", R"({"type": "Prepend"})", ErrorCode::kCorruptData, "normalizer: \"prepend\""},
      {"pre-tokenizer", "/pre_tokenizer", R"({"type": "Whitespace"})", ErrorCode::kUnsupported,
       "pre_tokenizer: \"Whitespace\""},
      {"untyped", "/pre_tokenizer", R"({"replacement": "_"})", ErrorCode::kUnsupported, "pre_tokenizer"},
      {"no object", "/pre_tokenizer", "5", ErrorCode::kCorruptData, "pre_tokenizer"},
      {"behavior", "/pre_tokenizer/pretokenizers/0/behavior", R"("Sideways")", ErrorCode::kUnsupported,
       "pre_tokenizer[0]"},
      {"regex", "/pre_tokenizer/pretokenizers/0/pattern/Regex", R"("(a")", ErrorCode::kUnsupported, "pre_tokenizer[0]"},
      {"regex of another kind", "/pre_tokenizer/pretokenizers/0/pattern/Regex", R"("[a-z&&[^b]]")",
       ErrorCode::kUnsupported, "an intersection of sets"},
      {"hex digit", "/pre_tokenizer/pretokenizers/0/pattern/Regex", R"("\\h+")", ErrorCode::kUnsupported, "\\h"},
      {"pattern", "/pre_tokenizer/pretokenizers/0/pattern", R"({"Glob": "*"})", ErrorCode::kUnsupported,
       "pre_tokenizer[0]"},
      {"metaspace", "/pre_tokenizer", R"({"type": "Metaspace", "replacement": "__"})", ErrorCode::kCorruptData,
       "replacement"},
      {"scheme", "/pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"})",
       ErrorCode::kUnsupported, "prepend_scheme"},
      {"roberta", "/post_processor", R"({"type": "RobertaProcessing"})", ErrorCode::kUnsupported, "RobertaProcessing"},
      {"template", "/post_processor",
       R"({"type": "TemplateProcessing", "special_tokens": {}, "single": [{"SpecialToken": {"id": "x"}}]})",
       ErrorCode::kCorruptData, "post_processor"},
      {"template id", "/post_processor",
       R"({"type": "TemplateProcessing", "special_tokens": {"x": {"ids": [99999]}}, "single": [{"SpecialToken": {"id": "x"}}]})",
       ErrorCode::kCorruptData, "post_processor"},
      {"pair only", "/post_processor",
       R"({"type": "TemplateProcessing", "special_tokens": {}, "single": [{"Sequence": {"id": "B"}}]})",
       ErrorCode::kCorruptData, "post_processor"},
      {"decoder", "/decoder", R"({"type": "WordPiece"})", ErrorCode::kUnsupported, "decoder: \"WordPiece\""},
      {"strip", "/decoder", R"({"type": "Strip", "content": " ", "start": -1, "stop": 0})", ErrorCode::kCorruptData,
       "decoder"},
      {"added tokens", "/added_tokens", R"({"a": 1})", ErrorCode::kCorruptData, "added_tokens"},
      {"added token", "/added_tokens", R"([{"id": 5}])", ErrorCode::kCorruptData, "added_tokens[0]"},
      {"added flag", "/added_tokens", R"([{"content": "x", "lstrip": "yes"}])", ErrorCode::kCorruptData,
       "added_tokens[0]"},
  };
  for (const auto& bad : table) {
    SCOPED_TRACE(bad.name);
    Json json = test::byte_level_json({{"a", "b"}});
    const Json::json_pointer at(bad.pointer);
    if (*bad.value == 0) {
      json[at.parent_pointer()].erase(at.back());
    } else {
      json[at] = Json::parse(bad.value);
    }
    try {
      made(json);
      ADD_FAILURE() << "it was accepted";
    } catch (const Error& error) {
      const std::string said = error.what();
      EXPECT_EQ(error.code(), bad.code) << said;
      EXPECT_EQ(said.find("test.json: "), 0u) << said;
      EXPECT_NE(said.find(bad.says), std::string::npos) << said;
    }
  }
  EXPECT_THROW(Tokenizer::parse("{", "test.json"), Error);
  EXPECT_THROW(Tokenizer::parse("[]", "test.json"), Error);
  EXPECT_THROW(Tokenizer::parse(std::string(1 << 20, '['), "test.json"), Error);
  EXPECT_THROW(Tokenizer::load("/nonexistent"), Error);
}

TEST(TokenizerFile, AnExpensiveExpressionIsAnErrorAndNoHang) {
  Json json = test::byte_level_json({});
  json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(?:a|a|aa)*[bc]";
  const Tokenizer tokenizer = made(json);
  try {
    tokenizer.encode(std::string(200, 'a'));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("test.json: pre_tokenizer[0]"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace lane
