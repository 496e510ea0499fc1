// Damaged tokenizer.json files: each one is read or refused with a lane::Error, soon and in little memory.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "lane/base/error.h"
#include "lane/base/random.h"
#include "lane/model/tokenizer.h"
#include "tokenizer_json.h"

namespace lane {
namespace {

class Dice {
 public:
  explicit Dice(uint64_t seed) : seed_(seed) {}
  size_t below(size_t end) { return random_bits(seed_, counter_++) % end; }
  std::string bytes(size_t count) {
    std::string out;
    for (size_t i = 0; i < count; ++i) out += static_cast<char>(below(256));
    return out;
  }

 private:
  uint64_t seed_, counter_ = 0;
};

std::vector<std::string> originals() {
  Json bytes = test::byte_level_json({{"a", "b"}, {"ab", "c"}});
  bytes["added_tokens"] = {test::added_token("<|end|>"), test::added_token("word", false)};
  bytes["normalizer"] = {{"type", "NFC"}};
  Json pieces = test::sentencepiece_json({"▁", "a", "b"}, {{"▁", "a"}, {"a", "b"}});
  Json metaspace = pieces;
  metaspace["normalizer"] = nullptr;
  metaspace["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}, {"split", true}};
  metaspace["decoder"] = metaspace["pre_tokenizer"];
  Json small = bytes;
  small["model"]["vocab"] = {{"a", 0}, {"b", 1}, {"ab", 2}};  // so that most of the file is structure
  small["model"]["merges"] = {"a b"};
  return {bytes.dump(), pieces.dump(), metaspace.dump(), small.dump(), small.dump(1), small.dump()};
}

const std::vector<std::string> kWords{"null",
                                      "true",
                                      "[]",
                                      "{}",
                                      "\"\"",
                                      "-1",
                                      "0",
                                      "1e308",
                                      "4294967296",
                                      "18446744073709551616",
                                      "-9223372036854775808",
                                      "0.5",
                                      "[[[[[[[[",
                                      "]]]]",
                                      "}",
                                      ",",
                                      ":",
                                      "\"",
                                      "\\",
                                      "\\u0000",
                                      "\\ud800",
                                      "\"BPE\"",
                                      "\"Sequence\"",
                                      "\"Split\"",
                                      "\"Metaspace\"",
                                      "\"ByteLevel\"",
                                      "\"Strip\"",
                                      "\"Replace\"",
                                      "\"Fuse\"",
                                      "\"Removed\"",
                                      "\"Contiguous\"",
                                      "\"String\"",
                                      "\"Regex\"",
                                      "(a+)+b",
                                      "(?:a|a)*",
                                      "{1000}",
                                      "{1,3}+",
                                      "(((((",
                                      "[^",
                                      "\\\\p{",
                                      "\\\\p{L}",
                                      "(?R)",
                                      "(?<=a)",
                                      "\\\\1",
                                      "$",
                                      "^",
                                      "(?!",
                                      "*+",
                                      "|",
                                      "\xff",
                                      "\xe2\x96",
                                      "▁"};

std::string mutated(std::string text, Dice& dice) {
  for (size_t left = 1 + dice.below(3); left > 0; --left) {
    const size_t at = dice.below(text.size()), to = std::min(text.size(), at + 1 + dice.below(40));
    const auto& word = kWords[dice.below(kWords.size())];
    switch (dice.below(8)) {
      case 0:
        text[at] = static_cast<char>(text[at] ^ (1 << dice.below(8)));
        break;
      case 1:
        text[at] = static_cast<char>(dice.below(256));
        break;
      case 2:
        text.resize(std::max<size_t>(at, 1));
        break;
      case 3:
        text.erase(at, to - at);
        break;
      case 4:
        text.insert(dice.below(text.size()), text.substr(at, to - at));
        break;
      case 5:
        text.insert(at, word);
        break;
      case 6: {  // another value of a field
        const size_t colon = text.find(':', at), end = text.find_first_of(",}", std::min(colon, text.size()));
        if (end != std::string::npos) text.replace(colon + 1, end - colon - 1, word);
        break;
      }
      default: {  // two strings change places
        const size_t a = text.find('"', at), b = text.find('"', dice.below(text.size()));
        const size_t a_end = text.find('"', a + 1), b_end = text.find('"', b + 1);
        if (a == std::string::npos || b == std::string::npos || b_end == std::string::npos || a_end >= b) break;
        const std::string first = text.substr(a, a_end - a), second = text.substr(b, b_end - b);
        text.replace(b, second.size(), first);
        text.replace(a, first.size(), second);
      }
    }
    if (text.empty()) text = " ";
  }
  if (dice.below(200) == 0) text.insert(dice.below(text.size()), std::string(20000, "[{"[dice.below(2)]));
  return text;
}

int64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{1024} * usage.ru_maxrss;
}

TEST(TokenizerFuzz, DamagedFilesAreReadOrRefused) {
  constexpr int kNumFiles = 12000;
  const auto files = originals();
  const int64_t before = peak_bytes();
  int num_read = 0, num_refused = 0, num_encoded = 0;
  for (int i = 0; i < kNumFiles; ++i) {
    Dice dice(static_cast<uint64_t>(i));
    const std::string text = mutated(files[static_cast<size_t>(i) % files.size()], dice);
    try {
      const Tokenizer tokenizer = Tokenizer::parse(text, "fuzz");
      ++num_read;
      for (const auto& input :
           {std::string("a ab\tabc  \u00e9 42 <|end|>word"), dice.bytes(24), std::string(40, 'a')}) {
        const auto ids = tokenizer.encode(input);
        StreamDecoder stream(tokenizer);
        std::string all;
        for (const int32_t id : ids) all += stream.push(id);
        ASSERT_EQ(all + stream.finish(), tokenizer.decode(ids)) << text;
        ++num_encoded;
      }
    } catch (const Error& error) {
      ASSERT_NE(error.code(), ErrorCode::kBug) << error.what() << "\n" << text;
      ++num_refused;
    }
  }
  EXPECT_GT(num_read, kNumFiles / 20);  // else the mutations are too coarse to test anything but the JSON parser
  EXPECT_GT(num_refused, kNumFiles / 20);
  EXPECT_GT(num_encoded, kNumFiles / 20);
  EXPECT_LT(peak_bytes() - before, int64_t{1} << 29);
}

TEST(TokenizerFuzz, AnyBytesCanBeEncodedAndAnyIdsDecoded) {
  for (const auto& text : originals()) {
    const Tokenizer tokenizer = Tokenizer::parse(text, "test");
    for (uint64_t i = 0; i < 2000; ++i) {
      Dice dice(i);
      const auto encoded = tokenizer.encode(dice.bytes(dice.below(60)));
      for (const int32_t id : encoded) ASSERT_FALSE(tokenizer.token(id).empty());
      std::vector<int32_t> ids;
      for (size_t left = dice.below(20); left > 0; --left) ids.push_back(static_cast<int32_t>(dice.below(300)) - 10);
      for (const bool skip : {false, true}) {
        StreamDecoder stream(tokenizer, skip);
        std::string all;
        for (const int32_t id : ids) {
          const std::string piece = stream.push(id);
          ASSERT_NO_THROW(Json(piece).dump());  // throws for what is not UTF-8
          all += piece;
        }
        ASSERT_EQ(all + stream.finish(), tokenizer.decode(ids, skip));
      }
    }
  }
}

}  // namespace
}  // namespace lane
