#include "lane/base/error.h"
#include "lane/net/import/readers.h"

namespace lane::net {
namespace {

// Copies JSON and mends what it meets on the way.
class Mender {
 public:
  explicit Mender(std::string_view text) : text_(text) {}

  std::string mend() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"')
        copy_string();
      else if (c == '{' || c == '[')
        open_.push_back(c == '{' ? '}' : ']'), put(c);
      else if (c == '}' || c == ']')
        close(c);
      else if (c == ',' || c == ':' || c == ' ' || c == '\t' || c == '\n' || c == '\r')
        put(c);
      else
        copy_word();
    }
    while (!open_.empty()) finish_value(), out_ += open_.back(), open_.pop_back();
    return out_;
  }

 private:
  void put(char c) { out_ += c, ++at_; }

  char last() const {
    const size_t end = out_.find_last_not_of(" \t\r\n");
    return end == std::string::npos ? '\0' : out_[end];
  }

  // Before a bracket closes: `"key":` gets a value, `"key"` of an object too, a comma goes.
  void finish_value() {
    out_.resize(out_.find_last_not_of(" \t\r\n") + 1);
    if (last() == ',') out_.pop_back();
    if (last() == ':') out_ += "null";
    if (last() == '"' && !open_.empty() && open_.back() == '}' && key_is_last_) out_ += ":null";
  }

  void close(char c) {
    finish_value();
    if (open_.empty() || open_.back() != c) {  // not the one that is open: not ours to mend
      put(c);
      return;
    }
    open_.pop_back();
    key_is_last_ = false;
    put(c);
  }

  void copy_string() {
    key_is_last_ = last() != ':';
    put('"');
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '\\' && at_ + 1 < text_.size()) {
        put(c), put(text_[at_]);
        continue;
      }
      if (c == '\\') break;
      if (c == '"') return put('"');
      if (static_cast<unsigned char>(c) < 0x20)
        out_ += ' ', ++at_;  // nccl-tests and perftest do not escape them
      else
        put(c);
    }
    at_ = text_.size();
    out_ += '"';
  }

  // nan and inf are no JSON; a number or `true` cut off at the end of the file may be either: it becomes a string.
  void copy_word() {
    key_is_last_ = false;
    const size_t end = std::min(text_.find_first_of(",:{}[]\" \t\r\n", at_), text_.size());
    const std::string_view word = text_.substr(at_, end - at_);
    const bool is_whole = end < text_.size();
    const bool is_number = printed_number(word).has_value() && word.back() != '.';
    if (is_whole && (is_number || word == "true" || word == "false" || word == "null")) {
      out_ += word;
    } else {
      key_is_last_ = last() != ':';
      out_ += '"';
      for (const char c : word)
        if (c != '\\' && static_cast<unsigned char>(c) >= 0x20) out_ += c;
      out_ += '"';
    }
    at_ = end;
  }

  std::string_view text_;
  size_t at_ = 0;
  std::string out_, open_;
  bool key_is_last_ = false;
};

}  // namespace

Json parse_torn_json(std::string_view text, const std::string& where, bool* repaired) {
  *repaired = false;
  try {
    return parse_json(text, where);
  } catch (const Error&) {
    *repaired = true;
  }
  return parse_json(Mender(text).mend(), where);
}

}  // namespace lane::net
