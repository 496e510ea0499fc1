#include "lane/net/import/text.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>

namespace lane::net {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f'; }

size_t skip_digits(std::string_view text, size_t at) {
  while (at < text.size() && is_digit(text[at])) ++at;
  return at;
}

// "2025-01-31T12:00:00.123Z " or "2025-01-31 12:00:00 ": its length, 0 if there is none. Where one blank ends it, more
// belong to the line: columns count.
size_t date_length(std::string_view text) {
  constexpr std::string_view kShape = "dddd-dd-dd?dd:dd:dd";
  if (text.size() <= kShape.size()) return 0;
  for (size_t i = 0; i < kShape.size(); ++i) {
    const char c = text[i], want = kShape[i];
    if (want == 'd' ? !is_digit(c) : want == '?' ? c != 'T' && c != ' ' : c != want) return 0;
  }
  size_t end = kShape.size();
  while (end < text.size() && !is_blank(text[end])) ++end;
  return std::min(end + 1, text.size());
}

// "[1,0]<stdout>:", "Thu Jul 18 15:41:05 2024<stdout>:", "[node01:0]<stderr>: ": Open MPI.
size_t mpirun_length(std::string_view text, std::string* source) {
  constexpr size_t kFarthest = 120;
  for (const std::string_view tag : {"<stdout>:", "<stderr>:", "<stddiag>:"}) {
    const size_t at = text.substr(0, kFarthest).find(tag);
    if (at == std::string_view::npos) continue;
    const size_t open = text.substr(0, at).rfind('[');
    if (open != std::string_view::npos && at > open + 1) *source = std::string(text.substr(open + 1, at - open - 2));
    return at + tag.size();
  }
  return 0;
}

// "0: " of srun -l (padded where there are ten or more), "[0] " of MPICH's -prepend-rank, "node01: " of pdsh.
size_t label_length(std::string_view text, std::string* source) {
  size_t at = 0;
  while (at < text.size() && text[at] == ' ' && at < 6) ++at;
  size_t end = skip_digits(text, at);
  if (end > at && end - at <= 6 && end + 1 < text.size() && text[end] == ':' && text[end + 1] == ' ') {
    *source = std::string(text.substr(at, end - at));
    return end + 2;
  }
  if (text.size() > 2 && text[0] == '[' && is_digit(text[1])) {
    end = skip_digits(text, 1);
    if (end + 1 < text.size() && text[end] == ']' && text[end + 1] == ' ') {
      *source = std::string(text.substr(1, end - 1));
      return end + 2;
    }
  }
  end = 0;
  while (end < text.size() && end < 64 &&
         (is_letter(text[end]) || is_digit(text[end]) || text[end] == '-' || text[end] == '.' || text[end] == '_'))
    ++end;
  // Words that tools print themselves before a colon are not hosts: what follows must look like a table.
  if (end > 0 && end + 2 < text.size() && text[end] == ':' && text[end + 1] == ' ' &&
      (text[end + 2] == '#' || (text[end + 2] == ' ' && text.size() > end + 30))) {
    *source = std::string(text.substr(0, end));
    return end + 2;
  }
  return 0;
}

// The length of a "[3] " at the end: another writer's label, whose line goes on where ours was cut.
size_t other_label_length(std::string_view text) {
  if (text.size() < 4 || text.substr(text.size() - 2) != "] ") return 0;
  size_t at = text.size() - 2;
  while (at > 0 && is_digit(text[at - 1])) --at;
  return at > 0 && at < text.size() - 2 && text[at - 1] == '[' ? text.size() - at + 1 : 0;
}

// The text without these labels, but for the "[0] " of NCCL's messages, which is a GPU.
std::string without(std::string_view text, std::string_view label) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t found = std::min(text.find(label, at), text.size());
    out += text.substr(at, found - at);
    at = std::min(found + label.size(), text.size());
    const std::string_view rest = text.substr(at);
    const bool is_gpu =
        found > 0 && found < text.size() && text[found - 1] == ' ' &&
        (rest.substr(0, 5) == "NCCL " || rest.substr(0, 120).find(" NCCL WARN ") != std::string_view::npos);
    if (is_gpu) out += label;
  }
  return out;
}

}  // namespace

bool starts_with(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }
bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

std::vector<Word> words_of(std::string_view line) {
  std::vector<Word> words;
  for (size_t at = 0; at < line.size();) {
    while (at < line.size() && is_blank(line[at])) ++at;
    const size_t begin = at;
    while (at < line.size() && !is_blank(line[at])) ++at;
    if (at > begin) words.push_back({line.substr(begin, at - begin), at});
  }
  return words;
}

std::optional<PrintedNumber> printed_number(std::string_view text) {
  if (text.empty() || (!is_digit(text.front()) && text.front() != '-' && text.front() != '.')) return std::nullopt;
  PrintedNumber number;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number.value);
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(number.value)) return std::nullopt;
  const size_t e = text.find_first_of("eE"), dot = text.find('.');
  int exponent = 0;
  if (e != std::string_view::npos) {
    std::string_view power = text.substr(e + 1);
    if (starts_with(power, "+")) power.remove_prefix(1);
    std::from_chars(power.data(), power.data() + power.size(), exponent);
  }
  const size_t digits_end = std::min(e, text.size());
  if (dot != std::string_view::npos && dot < digits_end) exponent -= static_cast<int>(digits_end - dot - 1);
  number.half_unit = 0.5 * std::pow(10.0, exponent);
  return number;
}

std::optional<int64_t> whole_number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::vector<SourceLine> lines_of(std::string_view text) {
  std::vector<SourceLine> lines;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view inside = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!inside.empty() && inside.back() == '\r') inside.remove_suffix(1);
    inside.remove_prefix(date_length(inside));
    SourceLine line{.number = number};
    size_t prefix = mpirun_length(inside, &line.source);
    if (prefix == 0) prefix = label_length(inside, &line.source);
    const std::string_view label = inside.substr(0, prefix);
    inside.remove_prefix(prefix);
    line.text = label.empty() || label[0] != '[' || label.back() != ' ' ? std::string(inside) : without(inside, label);
    lines.push_back(std::move(line));
  }
  return lines;
}

size_t find_nccl_log(std::string_view line) {
  for (const std::string_view level : {" NCCL INFO ", " NCCL WARN ", " NCCL TRACE ", " NCCL ABORT "}) {
    const size_t said = line.find(level);
    if (said == std::string_view::npos) continue;
    // Back over "host:pid:tid [gpu] file.cc:12": to the host's first letter. A digit there may be the row's own.
    const size_t bracket = line.substr(0, said).rfind(" [");
    size_t at = bracket == std::string_view::npos ? said : bracket;
    int colons = 0;
    while (at > 0 && (is_digit(line[at - 1]) || (line[at - 1] == ':' && colons < 2))) colons += line[--at] == ':';
    size_t begin = at;
    const auto is_host = [](char c) { return is_letter(c) || is_digit(c) || c == '-' || c == '.' || c == '_'; };
    while (begin > 0 && is_host(line[begin - 1])) --begin;
    while (begin < at && !is_letter(line[begin])) ++begin;
    // A date in brackets, as NCCL_DEBUG_TIMESTAMP_FORMAT asks for, comes before the host.
    if (begin > 1 && line[begin - 1] == ' ' && line[begin - 2] == ']') {
      const size_t open = line.substr(0, begin).rfind('[');
      if (open != std::string_view::npos) begin = open;
    }
    return begin - other_label_length(line.substr(0, begin));
  }
  return std::string_view::npos;
}

}  // namespace lane::net
