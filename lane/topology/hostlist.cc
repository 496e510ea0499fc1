#include "lane/topology/hostlist.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdint>

#include "lane/base/error.h"
#include "lane/base/json.h"

namespace lane::topology {
namespace {

constexpr size_t kMaxDigits = 9;  // of a number in a name

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// A name's characters as they may stand in files of Slurm and MPI.
bool may_be_in_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.'; }

class Expander {
 public:
  Expander(std::string_view text, int limit) : text_(text), limit_(limit) {}

  std::vector<std::string> run() {
    while (at_ < text_.size()) {
      for (std::string& name : one_word()) all_.push_back(std::move(name));
      if (at_ == text_.size()) break;
      if (text_[at_] != ',') refuse(fmt::format("'{}' is not part of a name", text_[at_]));
      ++at_;
      if (at_ == text_.size()) refuse("it ends in a comma");
    }
    return std::move(all_);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("host list {}: {} (at character {}); write it like n[01-04,07]", in_quotes(text_), why, at_ + 1));
  }

  void check_count(size_t count) const {
    if (count + all_.size() > static_cast<size_t>(limit_))
      refuse(fmt::format("it stands for more than {} names", limit_));
  }

  // Up to a comma outside brackets: the product of its parts.
  std::vector<std::string> one_word() {
    std::vector<std::string> names{""};
    const size_t start = at_;
    while (at_ < text_.size() && text_[at_] != ',') {
      if (text_[at_] == '[') {
        ++at_;
        const std::vector<std::string> choices = bracket();
        check_count(names.size() * choices.size());
        std::vector<std::string> longer;
        longer.reserve(names.size() * choices.size());
        for (const std::string& name : names)
          for (const std::string& choice : choices) longer.push_back(name + choice);
        names = std::move(longer);
      } else {
        if (!may_be_in_name(text_[at_]))
          refuse(fmt::format("{} is not part of a name", in_quotes(text_.substr(at_, 1))));
        for (std::string& name : names) name += text_[at_];
        ++at_;
      }
    }
    if (at_ == start) refuse("a name is missing");
    check_count(names.size());
    return names;
  }

  // "01-04,07]"
  std::vector<std::string> bracket() {
    std::vector<std::string> choices;
    for (;;) {
      const std::string_view first = digits();
      std::string_view last = first;
      if (at_ < text_.size() && text_[at_] == '-') {
        ++at_;
        last = digits();
      }
      const int64_t begin = std::stoll(std::string(first)), end = std::stoll(std::string(last));
      if (end < begin) refuse(fmt::format("{}-{} runs backwards", first, last));
      check_count(choices.size() + static_cast<size_t>(end - begin) + 1);
      for (int64_t i = begin; i <= end; ++i) choices.push_back(fmt::format("{:0{}}", i, first.size()));
      if (at_ == text_.size()) refuse("a ']' is missing");
      const char next = text_[at_++];
      if (next == ']') return choices;
      if (next != ',') refuse("expected ',' or ']' after a number");
    }
  }

  std::string_view digits() {
    const size_t start = at_;
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
    if (at_ == start) refuse("a number is missing");
    if (at_ - start > kMaxDigits) refuse(fmt::format("a number has more than {} digits", kMaxDigits));
    return text_.substr(start, at_ - start);
  }

  std::string_view text_;
  size_t at_ = 0, limit_;
  std::vector<std::string> all_;
};

// A name as what stands before its last number, the number, and what stands behind it.
struct Split {
  std::string before, after;
  size_t width = 0;
  int64_t number = -1;  // -1: it has none
};

Split split(const std::string& name) {
  size_t end = name.size();
  while (end > 0 && !is_digit(name[end - 1])) --end;
  size_t begin = end;
  while (begin > 0 && is_digit(name[begin - 1]) && end - begin < kMaxDigits) --begin;
  if (begin == end) return {.before = name};
  return {name.substr(0, begin), name.substr(end), end - begin, std::stoll(name.substr(begin, end - begin))};
}

}  // namespace

std::vector<std::string> expand_hostlist(std::string_view text, int limit) { return Expander(text, limit).run(); }

std::string compress_hostlist(const std::vector<std::string>& names) {
  std::string list;
  for (size_t i = 0; i < names.size();) {
    const Split first = split(names[i]);
    std::string ranges;
    size_t next = i;
    const auto fits = [&](const Split& other) {
      return first.number >= 0 && other.number >= 0 && other.before == first.before && other.after == first.after &&
             other.width == first.width;
    };
    while (next < names.size() && fits(split(names[next]))) {
      const size_t run = next;
      Split last = split(names[run]);
      for (++next; next < names.size(); ++next) {
        const Split other = split(names[next]);
        if (!fits(other) || other.number != last.number + 1) break;
        last = other;
      }
      if (!ranges.empty()) ranges += ',';
      ranges += fmt::format("{:0{}}", split(names[run]).number, first.width);
      if (next - run > 1) ranges += fmt::format("-{:0{}}", last.number, first.width);
    }
    if (!list.empty()) list += ',';
    if (next <= i + 1) {
      list += names[i];
      next = i + 1;
    } else {
      list += fmt::format("{}[{}]{}", first.before, ranges, first.after);
    }
    i = next;
  }
  return list;
}

}  // namespace lane::topology
