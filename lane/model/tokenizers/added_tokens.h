#pragma once
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "lane/model/tokenizers/vocabulary.h"

namespace lane::tokenizers {

// A token that is looked for in the text itself, before the model sees it.
struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool single_word = false;             // not inside a word
  bool lstrip = false, rstrip = false;  // takes the white space on that side along
  bool normalized = true;               // is looked for after the normalizer, in its own normalized form
  bool special = false;                 // decode() may skip it
};

// A part of a text: an added token, or what lies between two of them (id -1).
struct Segment {
  size_t begin, end;
  int32_t id;
};

// Finds added tokens: the leftmost match, of several there the longest, and on behind it.
class TokenFinder {
 public:
  // Of two tokens with the same form the first stays. Error{kUnsupported} for a form above kMaxFormBytes, which bounds
  // the cost of find() per byte.
  void add(std::string_view form, const AddedToken& token, const std::string& where);
  void find(std::string_view text, std::vector<Segment>& out) const;

  static constexpr size_t kMaxFormBytes = 1024;

 private:
  int longest_match(std::string_view text, size_t& length) const;  // index in tokens_; -1: none

  std::vector<AddedToken> tokens_;
  KeyMap<uint32_t> edges_;     // node << 8 | byte -> node; the root is 0
  std::vector<int> ends_{-1};  // [node] the token that ends there
  std::array<bool, 256> begins_{};
};

}  // namespace lane::tokenizers
