#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lane/base/json.h"

struct pcre2_real_code_8;

namespace lane::tokenizers {

struct Span {
  size_t begin, end;
  bool matches;
};

// A regular expression as tokenizer.json files write it: Oniguruma's syntax with Unicode classes, run by PCRE2. What
// the two read differently is translated or refused. Immutable; any thread may use it.
class Regex {
 public:
  Regex(std::string_view expression, const std::string& where);

  // Appends the matches in `text`, which is valid UTF-8, and what lies between them, in order and without a gap.
  // Error{kUnsupported} if the search gets too expensive, so that no text can make it hang.
  void find(std::string_view text, std::vector<Span>& out) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const noexcept;
  };
  std::unique_ptr<pcre2_real_code_8, Free> code_;
  std::string shown_;  // for messages
};

// {"String": "..."} or {"Regex": "..."}.
class Pattern {
 public:
  Pattern(const Json& json, const std::string& where);
  void find(std::string_view text, std::vector<Span>& out) const;

 private:
  std::string literal_;
  std::unique_ptr<const Regex> regex_;  // null for a literal
};

}  // namespace lane::tokenizers
