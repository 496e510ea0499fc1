#include "lane/inventory/text.h"

#include <fmt/format.h>

#include <charconv>

#include "lane/base/error.h"

namespace lane::inventory {
namespace {

template <class Number>
std::optional<Number> parse_whole(std::string_view text) {
  Number number{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  return error == std::errc{} && stop == end ? std::optional(number) : std::nullopt;
}

// Where a code such as "[4m" or "[0;31m" that starts at `begin` ends; `begin` if there is none.
size_t end_of_code(std::string_view text, size_t begin) {
  size_t at = begin;
  if (at >= text.size() || text[at] != '[') return begin;
  const size_t digits = ++at;
  while (at < text.size() && (std::isdigit(static_cast<unsigned char>(text[at])) || text[at] == ';')) ++at;
  return at < text.size() && at > digits && text[at] == 'm' ? at + 1 : begin;
}

}  // namespace

std::vector<Line> lines_of(std::string_view text) {
  std::vector<Line> lines;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    lines.push_back({number, line});
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

std::string_view without_blanks(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n\f\v";
  const size_t begin = text.find_first_not_of(kBlanks);
  return begin == text.npos ? std::string_view() : text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  while (!(text = without_blanks(text)).empty()) {
    const size_t end = std::min(text.find_first_of(" \t"), text.size());
    words.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return words;
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

std::string without_terminal_codes(std::string_view text) {
  constexpr char kEscape = '\x1b';
  std::string plain;
  for (size_t at = 0; at < text.size();) {
    const size_t end = end_of_code(text, text[at] == kEscape ? at + 1 : at);
    const bool is_code = end > at + 1;
    if (!is_code && text[at] != kEscape) plain += text[at];
    at = is_code ? end : at + 1;
  }
  return plain;
}

std::optional<int64_t> int_of(std::string_view text) { return parse_whole<int64_t>(text); }
std::optional<double> number_of(std::string_view text) { return parse_whole<double>(text); }

KeyValue key_value_of(std::string_view line) {
  const size_t colon = line.find(':');
  if (colon == line.npos) return {without_blanks(line), {}, false};
  return {without_blanks(line.substr(0, colon)), without_blanks(line.substr(colon + 1)), true};
}

void corrupt(const std::string& where, int line, const std::string& what) {
  throw Error(ErrorCode::kCorruptData, fmt::format("{}:{}: {}", where, line, what));
}

bool note_text(Inventory& inventory, const std::string& name, const std::string& tool, const std::string& where,
               std::string_view text) {
  const bool has_text = !without_blanks(text).empty();
  inventory.facts["text." + name] = {.value = has_text ? tool : "",
                                     .source = where,
                                     .why_unknown = has_text ? "" : "the output of " + tool + " is empty"};
  return has_text;
}

}  // namespace lane::inventory
