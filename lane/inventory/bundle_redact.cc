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

bool is_zero(std::string_view word) { return word.find_first_not_of("0x:-.") == word.npos; }

bool is_hex_of(std::string_view part, size_t min, size_t max) {
  return part.size() >= min && part.size() <= max && std::all_of(part.begin(), part.end(), is_hex);
}

// 16 hexadecimal digits behind 0x, or some of them letters: decimal digits alone may be a counter.
bool is_guid(std::string_view part) {
  const std::string_view digits = part.starts_with("0x") ? part.substr(2) : part;
  return is_hex_of(digits, 16, 16) &&
         (digits.size() != part.size() || !std::all_of(digits.begin(), digits.end(), is_digit));
}

// What is between two colons.
std::string masked_part(std::string_view part) {
  constexpr size_t kUuid = 36;
  if (is_zero(part)) return std::string(part);
  for (size_t at = 0; at + kUuid <= part.size(); ++at)
    if (is_uuid(part.substr(at, kUuid)))
      return std::string(part.substr(0, at)) + pseudonym(std::string(part.substr(at, kUuid))) +
             masked_part(part.substr(at + kUuid));
  if (is_guid(part)) return std::string(part.substr(0, part.size() - 16)) + "0000000000000001";
  if (is_ipv4(part)) return "192.0.2.1";  // RFC 5737: for documents
  if (part.ends_with('.')) return masked_part(part.substr(0, part.size() - 1)) + ".";
  return std::string(part);
}

// How many parts from `at` on have as many hexadecimal digits as `min` to `max`.
size_t count_hex(const std::vector<std::string_view>& parts, size_t at, size_t min, size_t max) {
  size_t count = 0;
  while (at + count < parts.size() && is_hex_of(parts[at + count], min, max)) ++count;
  return count;
}

// A word of letters, digits and ":.-". Addresses may have a name before and a port behind them: eth0:10.0.0.1:80.
std::string masked(std::string_view word) {
  if (is_zero(word)) return std::string(word);
  const std::vector<std::string_view> parts = split(word, ':');
  std::vector<std::string> kept;
  for (size_t i = 0; i < parts.size();) {
    const size_t quads = count_hex(parts, i, 4, 4), pairs = count_hex(parts, i, 2, 2), any = count_hex(parts, i, 1, 4);
    const auto text = [&](size_t count) {
      return word.substr(static_cast<size_t>(parts[i].data() - word.data()), 5 * count - 1);
    };
    if (quads >= 8) {
      kept.push_back(is_zero(text(8)) ? std::string(text(8)) : without_address(text(8)));
      i += 8;
    } else if (quads >= 4) {
      kept.push_back(is_zero(text(4)) ? std::string(text(4)) : "0000:0000:0000:0001");
      i += 4;
    } else if (pairs >= 6) {  // an Ethernet address; InfiniBand's have 20
      kept.emplace_back("00:00:00:00:00:01");
      i += pairs;
    } else if (any > 0 && i + any < parts.size() && parts[i + any].empty() && i + any + 1 < parts.size()) {
      kept.emplace_back("2001:db8::1");  // RFC 3849; a short IPv6 address
      while (i < parts.size() && (parts[i].empty() || is_hex_of(parts[i], 1, 4))) ++i;
    } else {
      kept.push_back(masked_part(parts[i++]));
    }
  }
  std::string joined;
  for (size_t i = 0; i < kept.size(); ++i) joined += (i == 0 ? "" : ":") + kept[i];
  return joined;
}

std::string without_addresses(std::string_view line) {
  constexpr std::string_view kHomes = "/home/";
  std::string kept;
  for (size_t at = 0; at < line.size();) {
    size_t end = at;
    while (end < line.size() && is_part_of_address(line[end])) ++end;
    kept += masked(line.substr(at, end - at));
    if (end < line.size()) kept += line[end];
    at = end + 1;
    if (at > line.size() || !line.substr(0, at).ends_with(kHomes)) continue;
    while (at < line.size() && line[at] != '/' && line[at] != ' ') ++at;  // a user's name
    kept += "user";
  }
  return kept;
}

// Behind ":" or between the quotes of value="...": what the line's name says to be a serial number.
std::string without_value(std::string_view line) {
  const size_t quoted = line.find("value=\"");
  const size_t begin = quoted != line.npos ? quoted + 7 : line.find(':') + 1;
  if (quoted == line.npos && begin == 0) return "removed";
  const size_t end = quoted != line.npos ? std::min(line.find('"', begin), line.size()) : line.size();
  return without_addresses(line.substr(0, begin)) + (quoted != line.npos ? "" : " ") + "removed" +
         without_addresses(line.substr(end));
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
    kept += names_a_serial_number(line) ? without_value(line) : without_addresses(line);
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
