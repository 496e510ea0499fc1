#define PCRE2_CODE_UNIT_WIDTH 8
#include "lane/model/tokenizers/pattern.h"

#include <pcre2.h>

#include <chrono>

#include "lane/base/error.h"
#include "lane/model/tokenizers/unicode.h"
#include "lane/model/tokenizers/unicode_versions.h"

namespace lane::tokenizers {
namespace {

constexpr size_t kMaxExpressionBytes = 1 << 16;

// Rewrites what Oniguruma and PCRE2 read differently:
//   \s, \S     Unicode's White_Space; PCRE2 adds U+180E
//   \w         letters, marks, numbers and connectors; PCRE2 has no marks and connectors
//   \v         the vertical tab; for PCRE2 every line end
//   x{1,3}+    a repeated repeat; for PCRE2 a possessive one
// and refuses what would need more: \h (a hex digit there), \b, sets within sets, {,n}, {n}?.
class Translator {
 public:
  Translator(std::string_view in, const std::string& where) : in_(in), where_(where) {}

  std::string run() {
    std::vector<size_t> groups;  // where each open group begins in out_
    size_t atom = 0;             // where the last atom begins in out_
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '(') {
        if (in_.substr(at_, 2) == "(*") refuse("a verb");
        groups.push_back(out_.size());
        out_ += in_[at_++];
      } else if (c == ')') {
        if (!groups.empty()) atom = groups.back(), groups.pop_back();
        out_ += in_[at_++];
      } else if (c == '{') {
        interval(atom);
      } else if (c == '*' || c == '+' || c == '?') {
        out_ += in_[at_++];
      } else {
        atom = out_.size();
        if (c == '[') {
          set();
        } else if (c == '\\') {
          escape(false);
        } else {
          const auto length = std::min(static_cast<size_t>(utf8_length(c)), in_.size() - at_);
          out_ += in_.substr(at_, length);
          at_ += length;
        }
      }
    }
    return std::move(out_);
  }

 private:
  static constexpr const char* kSpace = "\\p{Z}\\t-\\r\\x{85}";
  static constexpr const char* kWord =
      "\\p{L}\\p{M}\\p{N}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{"
      "1f189}";

  [[noreturn]] void refuse(const std::string& what) {
    throw Error(ErrorCode::kUnsupported,
                where_ + ": the regular expression has " + what + ", which is not supported: " + std::string(in_));
  }

  void escape(bool in_set) {
    if (at_ + 1 == in_.size()) refuse("a lone backslash at its end");
    const char c = in_[at_ + 1];
    const bool negated = c == 'S' || c == 'W';
    if (c == 's' || c == 'S' || c == 'w' || c == 'W') {
      const char* members = c == 's' || c == 'S' ? kSpace : kWord;
      if (in_set && negated) refuse(std::string("\\") + c + " within a set");
      out_ += in_set ? members : std::string(negated ? "[^" : "[") + members + "]";
      at_ += 2;
      return;
    }
    if (c == 'v') {
      out_ += "\\x0b";
      at_ += 2;
      return;
    }
    if (std::string_view("bBhHGKRXCNOQEyYgk").find(c) != std::string_view::npos) refuse(std::string("\\") + c);
    out_ += in_.substr(at_, 2);
    at_ += 2;
    if ((c == 'p' || c == 'P' || c == 'x') && at_ < in_.size() && in_[at_] == '{') {
      const size_t end = in_.find('}', at_);
      if (end == std::string_view::npos) refuse("an open brace");
      out_ += in_.substr(at_, end + 1 - at_);
      at_ = end + 1;
    }
  }

  void set() {
    out_ += in_[at_++];
    if (at_ < in_.size() && in_[at_] == '^') out_ += in_[at_++];
    if (at_ < in_.size() && in_[at_] == ']') refuse("a set that begins with a bracket");
    while (at_ < in_.size() && in_[at_] != ']') {
      if (in_[at_] == '\\') {
        escape(true);
        continue;
      }
      if (in_[at_] == '[') refuse("a set within a set");
      if (in_.substr(at_, 2) == "&&") refuse("an intersection of sets");
      out_ += in_[at_++];
    }
    if (at_ == in_.size()) refuse("an open set");
    out_ += in_[at_++];
  }

  void interval(size_t atom) {
    const size_t end = in_.find_first_not_of("0123456789,", at_ + 1);
    if (end == std::string_view::npos || in_[end] != '}' || end == at_ + 1 || in_[at_ + 1] == ',')
      refuse("a brace that is no repeat");
    const std::string_view repeat = in_.substr(at_, end + 1 - at_);
    out_ += repeat;
    at_ = end + 1;
    if (in_.substr(at_, 1) == "?" && repeat.find(',') == std::string_view::npos)
      refuse("an exact repeat made optional");
    if (in_.substr(at_, 1) == "+") {
      out_.insert(atom, "(?:");
      out_ += ")";
    }
  }

  std::string_view in_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
};

struct FreeMatch {
  void operator()(pcre2_match_data* data) const noexcept { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const noexcept { pcre2_match_context_free(context); }
  void operator()(pcre2_jit_stack* stack) const noexcept { pcre2_jit_stack_free(stack); }
  void operator()(pcre2_compile_context* context) const noexcept { pcre2_compile_context_free(context); }
};

template <class T>
std::unique_ptr<T, FreeMatch> own(T* made) {
  if (!made) throw std::bad_alloc();
  return std::unique_ptr<T, FreeMatch>(made);
}

std::string pcre2_message(int error) {
  PCRE2_UCHAR text[256];
  return pcre2_get_error_message(error, text, sizeof(text)) < 0 ? "error " + std::to_string(error)
                                                                : reinterpret_cast<const char*>(text);
}

// One search through one text. A match attempt has PCRE2's limit on backtracking, and a call tries only kWindow
// starts, so that the clock is read often enough to stop a bad expression.
class Search {
 public:
  Search(const pcre2_real_code_8* code, std::string_view text, const std::string& shown)
      : code_(code),
        text_(text),
        shown_(shown),
        data_(own(pcre2_match_data_create(1, nullptr))),
        context_(own(pcre2_match_context_create(nullptr))) {
    pcre2_set_match_limit(context_.get(), static_cast<uint32_t>(1000000 + 16 * std::min<size_t>(text.size(), 1 << 27)));
    pcre2_set_heap_limit(context_.get(), 256 << 10);  // KiB
  }

  // The first match at or after `from`.
  bool next(size_t from) {
    for (size_t window = from;; window += kWindow) {
      size_t start = window;
      while (start < text_.size() && is_continuation(text_[start])) ++start;  // a start must begin a character
      pcre2_set_offset_limit(context_.get(), window + kWindow - 1);
      const int result = match(start);
      if (result >= 0) return true;
      if (result != PCRE2_ERROR_NOMATCH) fail(pcre2_message(result));
      if (window + kWindow > text_.size()) return false;
      if (std::chrono::steady_clock::now() > deadline_) fail("it takes too long");
    }
  }
  size_t begin() const { return pcre2_get_ovector_pointer(data_.get())[0]; }
  size_t end() const { return pcre2_get_ovector_pointer(data_.get())[1]; }

 private:
  static constexpr size_t kWindow = 256;
  static bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

  int match(size_t from) {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text_.data());
    int result = pcre2_match(code_, subject, text_.size(), from, PCRE2_NO_UTF_CHECK, data_.get(), context_.get());
    if (result == PCRE2_ERROR_JIT_STACKLIMIT && !stack_) {  // the first 32 KiB were not enough
      stack_ = own(pcre2_jit_stack_create(64 << 10, 64 << 20, nullptr));
      pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
      result = pcre2_match(code_, subject, text_.size(), from, PCRE2_NO_UTF_CHECK, data_.get(), context_.get());
    }
    return result;
  }

  [[noreturn]] void fail(const std::string& why) {
    throw Error(ErrorCode::kUnsupported,
                "splitting " + std::to_string(text_.size()) + " bytes of text by " + shown_ + " failed: " + why);
  }

  const pcre2_real_code_8* code_;
  std::string_view text_;
  const std::string& shown_;
  std::unique_ptr<pcre2_match_data, FreeMatch> data_;
  std::unique_ptr<pcre2_match_context, FreeMatch> context_;
  std::unique_ptr<pcre2_jit_stack, FreeMatch> stack_;
  // Ordinary expressions split 10 MB and more in a second.
  std::chrono::steady_clock::time_point deadline_ =
      std::chrono::steady_clock::now() + std::chrono::seconds(10 + text_.size() / 100000);
};

// `text` with characters that PCRE2 knows, at the same places; empty if it knows all of them.
std::string with_stand_ins(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0xe0) {  // all of the first 2048 code points are old
      i += static_cast<size_t>(utf8_length(text[i]));
      continue;
    }
    const char32_t point = read_utf8(&text[i]), known = as_unicode_14(point);
    const auto length = static_cast<size_t>(utf8_length(text[i]));
    if (known != point) {
      if (out.empty()) out = text;
      std::string stand_in;
      append_utf8(stand_in, known);
      ensure(stand_in.size() == length, "a stand-in has the length of what it stands for");
      out.replace(i, length, stand_in);
    }
    i += length;
  }
  return out;
}

}  // namespace

void Regex::Free::operator()(pcre2_real_code_8* code) const noexcept { pcre2_code_free(code); }

Regex::Regex(std::string_view expression, const std::string& where) {
  if (expression.size() > kMaxExpressionBytes)
    throw Error(ErrorCode::kUnsupported, where + ": a regular expression of " + std::to_string(expression.size()) +
                                             " bytes; at most " + std::to_string(kMaxExpressionBytes));
  shown_ = where + ": /" + std::string(expression) + "/";
  const std::string translated = Translator(expression, where).run();
  const auto context = own(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Oniguruma's ^ and $ always mean lines.
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_USE_OFFSET_LIMIT | PCRE2_NEVER_BACKSLASH_C,
                            &error, &offset, context.get()));
  if (!code_)
    throw Error(ErrorCode::kUnsupported, shown_ + " is not an expression that can be used: " + pcre2_message(error));
  pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // where it is refused, pcre2_match() interprets
}

void Regex::find(std::string_view text, std::vector<Span>& out) const {
  const std::string older = with_stand_ins(text);
  if (!older.empty()) text = older;
  Search search(code_.get(), text, shown_);
  size_t from = 0, done = 0;
  bool any = false;
  while (from <= text.size() && search.next(from)) {
    const size_t begin = search.begin(), end = search.end();
    if (begin == end && any && end == done) {  // an empty match right after a match does not count
      from += end < text.size() ? static_cast<size_t>(utf8_length(text[end])) : 1;
      continue;
    }
    if (done != begin) out.push_back({done, begin, false});
    out.push_back({begin, end, true});
    any = true;
    from = done = end;
  }
  if (done != text.size()) out.push_back({done, text.size(), false});
}

Pattern::Pattern(const Json& json, const std::string& where) {
  if (json.is_object() && json.size() == 1 && json.begin()->is_string()) {
    const auto& text = json.begin()->get_ref<const std::string&>();
    if (json.begin().key() == "Regex") {
      regex_ = std::make_unique<const Regex>(text, where);
      return;
    }
    if (json.begin().key() == "String") {
      if (text.empty()) throw Error(ErrorCode::kUnsupported, where + ": an empty \"String\" pattern is not supported");
      literal_ = text;
      return;
    }
  }
  throw Error(ErrorCode::kUnsupported, where + ": \"pattern\" must be {\"String\": ...} or {\"Regex\": ...}");
}

void Pattern::find(std::string_view text, std::vector<Span>& out) const {
  if (regex_) return regex_->find(text, out);
  size_t done = 0;
  for (size_t at; (at = text.find(literal_, done)) != std::string_view::npos; done = at + literal_.size()) {
    if (at != done) out.push_back({done, at, false});
    out.push_back({at, at + literal_.size(), true});
  }
  if (done != text.size()) out.push_back({done, text.size(), false});
}

}  // namespace lane::tokenizers
