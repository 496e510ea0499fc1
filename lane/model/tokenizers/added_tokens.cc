#include "lane/model/tokenizers/added_tokens.h"

#include <algorithm>

#include "lane/base/error.h"
#include "lane/model/tokenizers/unicode.h"

namespace lane::tokenizers {
namespace {

char32_t last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
  return read_utf8(&text[at]);
}

}  // namespace

void TokenFinder::add(std::string_view form, const AddedToken& token, const std::string& where) {
  if (form.size() > kMaxFormBytes)
    throw Error(ErrorCode::kUnsupported, where + ": an added token of " + std::to_string(form.size()) +
                                             " bytes is not supported; at most " + std::to_string(kMaxFormBytes));
  if (form.empty()) return;
  begins_[static_cast<unsigned char>(form[0])] = true;
  uint32_t node = 0;
  for (const char byte : form) {
    uint32_t& next = edges_[static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(byte)];
    if (next == 0) {
      next = static_cast<uint32_t>(ends_.size());
      ends_.push_back(-1);
    }
    node = next;
  }
  if (ends_[node] >= 0) return;
  ends_[node] = static_cast<int>(tokens_.size());
  tokens_.push_back(token);
}

int TokenFinder::longest_match(std::string_view text, size_t& length) const {
  int found = -1;
  uint64_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const uint32_t* next = edges_.find(node << 8 | static_cast<unsigned char>(text[i]));
    if (!next) break;
    node = *next;
    if (ends_[node] >= 0) found = ends_[node], length = i + 1;
  }
  return found;
}

// The details are those of Hugging Face's: a match that single_word refuses is passed over as a whole, and the white
// space that rstrip took may still begin the next token.
void TokenFinder::find(std::string_view text, std::vector<Segment>& out) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    size_t length = 0;
    const int index = begins_[static_cast<unsigned char>(text[at])] ? longest_match(text.substr(at), length) : -1;
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    size_t begin = at, end = at + length;
    at = end;
    if (token.single_word && ((begin > 0 && is_word(last_character(text.substr(0, begin)))) ||
                              (end < text.size() && is_word(read_utf8(&text[end])))))
      continue;
    if (token.lstrip) {
      while (begin > done) {
        const char32_t c = last_character(text.substr(0, begin));
        if (!is_whitespace(c)) break;
        begin -= c < 0x80 ? 1 : c < 0x800 ? 2 : 3;
      }
      begin = std::max(begin, done);
    }
    if (token.rstrip)
      while (end < text.size() && is_whitespace(read_utf8(&text[end])))
        end += static_cast<size_t>(utf8_length(text[end]));
    if (done < begin) out.push_back({done, begin, -1});
    out.push_back({begin, end, token.id});
    done = end;
  }
  if (done != text.size()) out.push_back({done, text.size(), -1});
}

}  // namespace lane::tokenizers
