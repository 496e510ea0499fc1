#include <algorithm>
#include <array>

#include "lane/inventory/calls.h"
#include "lane/inventory/ib.h"
#include "lane/inventory/redact.h"

namespace lane::inventory {
namespace {

bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_part_of_address(char c) { return is_word(c) || c == ':' || c == '.' || c == '-'; }

// Groups of `digits` hexadecimal digits, `count` of them.
bool is_groups(std::string_view word, char separator, size_t digits, size_t count) {
  if (word.size() != count * (digits + 1) - 1) return false;
  for (size_t i = 0; i < word.size(); ++i)
    if (i % (digits + 1) == digits ? word[i] != separator : !is_hex(word[i])) return false;
  return true;
}

bool is_uuid(std::string_view word) {
  if (word.size() != 36) return false;
  for (size_t i = 0; i < word.size(); ++i)
    if (i == 8 || i == 13 || i == 18 || i == 23 ? word[i] != '-' : !is_hex(word[i])) return false;
  return true;
}

bool is_ipv4(std::string_view word) {
  const auto parts = split(word, '.');
  return parts.size() == 4 && std::all_of(parts.begin(), parts.end(), [](std::string_view part) {
           return !part.empty() && part.size() <= 3 && std::all_of(part.begin(), part.end(), is_digit) &&
                  *whole_number(part) <= 255;
         });
}

// "fe80::a00:1" and the like; "::" alone or ends of it stay.
bool is_short_ipv6(std::string_view word) {
  return word.find("::") != word.npos && word.size() > 4 &&
         std::all_of(word.begin(), word.end(), [](char c) { return is_hex(c) || c == ':'; });
}

bool is_zero(std::string_view word) { return word.find_first_not_of("0x:-.") == word.npos; }

std::string masked(std::string_view word) {
  if (is_zero(word)) return std::string(word);
  if (is_uuid(word)) return pseudonym(std::string(word));
  if ((word.starts_with("GPU-") || word.starts_with("MIG-")) && is_uuid(word.substr(4)))
    return std::string(word.substr(0, 4)) + pseudonym(std::string(word.substr(4)));
  const std::string_view digits = word.starts_with("0x") ? word.substr(2) : word;
  // 16 decimal digits without 0x may be a counter.
  const bool has_letter = std::any_of(digits.begin(), digits.end(), [](char c) { return !is_digit(c); });
  if (digits.size() == 16 && std::all_of(digits.begin(), digits.end(), is_hex) &&
      (has_letter || digits.size() != word.size()))
    return std::string(word.substr(0, word.size() - 16)) + "0000000000000001";
  if (is_groups(word, ':', 4, 8)) return without_address(word);
  if (is_groups(word, ':', 4, 4)) return "0000:0000:0000:0001";
  if (is_groups(word, ':', 2, 6) || is_groups(word, '-', 2, 6)) return "00:00:00:00:00:01";
  if (is_ipv4(word)) return "192.0.2.1";          // RFC 5737: for documents
  if (is_short_ipv6(word)) return "2001:db8::1";  // RFC 3849
  // An address with a port behind it, or a full stop.
  if (const size_t colon = word.rfind(':'); colon != word.npos && is_ipv4(word.substr(0, colon)))
    return "192.0.2.1" + std::string(word.substr(colon));
  if (word.ends_with('.') || word.ends_with(':')) return masked(word.substr(0, word.size() - 1)) + word.back();
  return std::string(word);
}

// Behind ":" or between the quotes of value="...": what the line's name says to be a serial number.
std::string without_value(std::string_view line) {
  const size_t quoted = line.find("value=\"");
  const size_t begin = quoted != line.npos ? quoted + 7 : line.find(':') + 1;
  if (quoted == line.npos && begin == 0) return "removed";
  const size_t end = quoted != line.npos ? std::min(line.find('"', begin), line.size()) : line.size();
  return std::string(line.substr(0, begin)) + (quoted != line.npos ? "" : " ") + "removed" +
         std::string(line.substr(end));
}

bool names_a_serial_number(std::string_view line) {
  constexpr std::array<std::string_view, 3> kNames = {"Serial", "serial", "SERIAL"};
  return std::any_of(kNames.begin(), kNames.end(), [&](auto name) { return line.find(name) != line.npos; });
}

// "(buildd@host)" says who built a kernel, and where.
std::string without_builders(std::string_view text) {
  std::string kept;
  for (size_t open; (open = text.find('(')) != text.npos;) {
    const size_t close = text.find(')', open), at = text.find('@', open);
    if (close == text.npos) break;
    kept += text.substr(0, at < close ? open : close + 1);
    text.remove_prefix(close + 1);
  }
  return kept.append(text);
}

// The rows of /proc/net/route with the gateway's and networks' addresses zeroed: which interface has the default route
// is all that counts.
std::string without_gateways(std::string_view text) {
  std::string kept;
  for (const std::string_view row : split(text, '\n')) {
    auto words = split(row, '\t');
    if (words.size() < 8) continue;
    const bool is_default = words[1] == "00000000" && words[7] == "00000000";
    if (!is_default && kept.size() > 0) continue;
    if (is_default) words[2] = "00000000";
    for (size_t i = 0; i < words.size(); ++i) kept.append(i == 0 ? "" : "\t").append(words[i]);
    kept += '\n';
  }
  return kept;
}

std::string lines_that(std::string_view text, auto is_wanted) {
  std::string kept;
  for (const std::string_view line : split(text, '\n'))
    if (is_wanted(line)) kept.append(line).append("\n");
  return kept;
}

std::string words_that(std::string_view text, auto is_wanted) {
  std::string kept;
  for (const std::string_view word : split(trim(text), ' '))
    if (is_wanted(word)) kept.append(kept.empty() ? "" : " ").append(word);
  return kept + "\n";
}

}  // namespace

std::string without_identities(std::string_view text) {
  std::string kept;
  for (size_t begin = 0; begin < text.size();) {
    const size_t newline = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, newline - begin);
    if (names_a_serial_number(line)) {
      kept += without_value(line);
    } else {
      for (size_t at = 0; at < line.size();) {
        size_t end = at;
        while (end < line.size() && is_part_of_address(line[end])) ++end;
        if (end > at) kept += masked(line.substr(at, end - at));
        if (end < line.size()) kept += line[end];
        at = end + 1;
        if (!kept.ends_with('/') || !line.substr(0, at).ends_with("/home/")) continue;
        while (at < line.size() && line[at] != '/' && line[at] != ' ') ++at;  // a user's name
        kept += "user";
      }
    }
    if (newline < text.size()) kept += '\n';
    begin = newline + 1;
  }
  return kept;
}

std::optional<std::string> redacted(const std::string& path, const std::string& content) {
  if (path.starts_with("/text/")) return without_identities(content);
  if (path.ends_with("/config")) return without_serial_number(content);
  if (path.find("/gids/") != std::string::npos)
    return kind_of_gid(content).empty() ? std::nullopt : std::optional(without_address(content) + "\n");
  if (path == "/proc/net/route") return without_gateways(content);
  if (path == "/proc/version" || path == "/proc/driver/nvidia/version") return without_builders(content);
  if (path == "/proc/self/status")
    return lines_that(content, [](std::string_view line) { return line.starts_with("Cpus_allowed_list"); });
  if (path == "/proc/cpuinfo") {  // one CPU stands for all
    const size_t end = content.find("\n\n");
    return lines_that(content.substr(0, end), [](std::string_view line) { return !names_a_serial_number(line); });
  }
  if (path == "/proc/cmdline")
    return words_that(content, [](std::string_view word) {
      return word.starts_with("iommu") || word.starts_with("intel_iommu=") || word.starts_with("amd_iommu=");
    });
  if (path == "/proc/1/cgroup") {  // behind these words come ids of containers and pods
    std::string kept;
    for (const char* word : {"docker", "kubepods", "containerd", "libpod", "lxc", "garden", "crio"})
      if (content.find(word) != std::string::npos) kept += std::string("0::/") + word + "\n";
    return kept.empty() ? "0::/\n" : kept;
  }
  return content;
}

}  // namespace lane::inventory
