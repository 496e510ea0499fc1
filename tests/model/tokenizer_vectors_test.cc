// Ids and texts against those of Hugging Face's `tokenizers`; tools/fixtures/make_tokenizer_fixtures.py made them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "lane/base/json.h"
#include "lane/model/tokenizer.h"

namespace lane {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

std::vector<fs::path> families() {
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(fs::path(LANE_SOURCE_DIR) / "tests/fixtures/tokenizers"))
    if (entry.is_directory()) folders.push_back(entry.path());
  return folders;
}

int for_each_line(const fs::path& path, const std::function<void(const Json&)>& use) {
  std::ifstream file(path);
  int num_lines = 0;
  for (std::string line; std::getline(file, line); ++num_lines) use(Json::parse(line));
  return num_lines;
}

// Streams `ids` and checks on the way that no piece ends within a character.
std::string stream(const Tokenizer& tokenizer, const Ids& ids, bool skip_special) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string all;
  const auto take = [&](const std::string& piece) {
    EXPECT_NO_THROW(Json(piece).dump()) << "a piece that is not UTF-8";
    all += piece;
  };
  for (const int32_t id : ids) take(decoder.push(id));
  take(decoder.finish());
  return all;
}

// Fields that equal another one are left out of the files; these rules put them back.
struct Vector {
  explicit Vector(const Json& line)
      : text(line.at("text")),
        ids(line.at("ids").get<Ids>()),
        plain(line.contains("ids_no_special") ? line["ids_no_special"].get<Ids>() : ids),
        is_plain_given(line.contains("ids_no_special")),
        decoded(line.value("decoded", text)),
        decoded_skip(line.value("decoded_skip", text)) {}
  std::string text;
  Ids ids, plain;
  bool is_plain_given;
  std::string decoded, decoded_skip;
};

TEST(TokenizerVectors, EncodesAndDecodesAsHuggingFace) {
  int num_families = 0;
  for (const auto& folder : families()) {
    SCOPED_TRACE(folder.filename().string());
    const Tokenizer tokenizer = Tokenizer::load(folder.string());
    const int num_before = static_cast<int>(tokenizer.encode("").size());
    int num_wrong = 0;
    const int num_lines = for_each_line(folder / "vectors.jsonl", [&](const Json& line) {
      Vector want(line);
      if (!want.is_plain_given) want.plain.erase(want.plain.begin(), want.plain.begin() + num_before);
      if (tokenizer.encode(want.text) == want.ids && tokenizer.encode(want.text, false) == want.plain &&
          tokenizer.decode(want.plain, false) == want.decoded && tokenizer.decode(want.ids, true) == want.decoded_skip)
        return;
      if (++num_wrong > 5) return;
      EXPECT_EQ(tokenizer.encode(want.text), want.ids) << line;
      EXPECT_EQ(tokenizer.encode(want.text, false), want.plain) << line;
      EXPECT_EQ(tokenizer.decode(want.plain, false), want.decoded) << line;
      EXPECT_EQ(tokenizer.decode(want.ids, true), want.decoded_skip) << line;
    });
    EXPECT_EQ(num_wrong, 0);
    EXPECT_GE(num_lines, 2000);
    ++num_families;
  }
  EXPECT_GE(num_families, 4);
}

TEST(TokenizerVectors, DecodesRandomIdsAsHuggingFace) {
  for (const auto& folder : families()) {
    SCOPED_TRACE(folder.filename().string());
    const Tokenizer tokenizer = Tokenizer::load(folder.string());
    const int num_lines = for_each_line(folder / "decode.jsonl", [&](const Json& line) {
      const Ids ids = line.at("ids").get<Ids>();
      EXPECT_EQ(tokenizer.decode(ids, false), line.at("decoded").get<std::string>()) << line;
      EXPECT_EQ(tokenizer.decode(ids, true), line.at("decoded_skip").get<std::string>()) << line;
    });
    EXPECT_GT(num_lines, 0);
  }
}

TEST(TokenizerVectors, StreamedPiecesAddUpToTheText) {
  for (const auto& folder : families()) {
    SCOPED_TRACE(folder.filename().string());
    const Tokenizer tokenizer = Tokenizer::load(folder.string());
    const auto check = [&](const Json& line) {
      const Ids ids = line.at("ids").get<Ids>();
      for (const bool skip : {false, true})
        ASSERT_EQ(stream(tokenizer, ids, skip), tokenizer.decode(ids, skip)) << line;
    };
    for_each_line(folder / "vectors.jsonl", check);
    for_each_line(folder / "decode.jsonl", check);
  }
}

}  // namespace
}  // namespace lane
