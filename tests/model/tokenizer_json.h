#pragma once
#include <fmt/format.h>

#include <string>
#include <vector>

#include "lane/base/json.h"

namespace lane::test {

inline std::string byte_character(int byte) {  // byte-level BPE's character for a byte
  static const std::vector<std::string> table = [] {
    std::vector<std::string> made;
    int next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b != 0xad);
      const int c = printable ? b : next++;
      made.push_back(c < 0x80 ? std::string(1, static_cast<char>(c))
                              : std::string{static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))});
    }
    return made;
  }();
  return table[static_cast<size_t>(byte)];
}

inline Json added_token(const std::string& content, bool special = true) {
  return {{"content", content}, {"special", special}, {"normalized", false},
          {"lstrip", false},    {"rstrip", false},    {"single_word", false}};
}

// tokenizer.json in the form of Llama 3: the 256 bytes, then one token for each merge.
inline Json byte_level_json(const std::vector<std::pair<std::string, std::string>>& merges) {
  Json vocab = Json::object(), rules = Json::array();
  for (int byte = 0; byte < 256; ++byte) vocab[byte_character(byte)] = byte;
  for (const auto& [left, right] : merges) {
    vocab[left + right] = vocab.size();
    rules.push_back({left, right});
  }
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const Json split = {
      {"type", "Split"},
      {"behavior", "Isolated"},
      {"invert", false},
      {"pattern",
       {{"Regex",
         R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}}};
  return {{"version", "1.0"},
          {"added_tokens", Json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}}},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", rules}}}};
}

// In the form of Llama 2: <unk>, <s>, </s>, the 256 byte tokens, `characters`, then one token for each merge. The whole
// text is one word.
inline Json sentencepiece_json(const std::vector<std::string>& characters,
                               const std::vector<std::pair<std::string, std::string>>& merges) {
  Json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}}, rules = Json::array();
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = vocab.size();
  for (const auto& character : characters) vocab[character] = vocab.size();
  for (const auto& [left, right] : merges) {
    vocab[left + right] = vocab.size();
    rules.push_back(left + " " + right);
  }
  return {{"version", "1.0"},
          {"added_tokens", {added_token("<unk>"), added_token("<s>"), added_token("</s>")}},
          {"normalizer",
           {{"type", "Sequence"},
            {"normalizers",
             {{{"type", "Prepend"}, {"prepend", "▁"}},
              {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}}}}},
          {"pre_tokenizer", nullptr},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single",
             {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
            {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}}},
          {"decoder",
           {{"type", "Sequence"},
            {"decoders",
             {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
              {{"type", "ByteFallback"}},
              {{"type", "Fuse"}},
              {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"vocab", vocab},
            {"merges", rules}}}};
}

}  // namespace lane::test
