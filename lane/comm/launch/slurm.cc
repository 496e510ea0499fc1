#include "lane/comm/launch/slurm.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "lane/base/error.h"

namespace lane {
namespace {

constexpr size_t kMaxEntries = 1 << 17;

[[noreturn]] void throw_unreadable(std::string_view what, std::string_view text) {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("\"{}\" is no list of {} as Slurm writes it", text, what));
}

std::optional<long> number(std::string_view text) {
  long value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

// What is between commas that are not inside brackets.
std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> parts;
  int depth = 0;
  size_t start = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i == text.size() || (text[i] == ',' && depth == 0)) {
      parts.push_back(text.substr(start, i - start));
      start = i + 1;
    } else if (text[i] == '[') {
      ++depth;
    } else if (text[i] == ']') {
      --depth;
    }
  }
  return parts;
}

// "01-03,7" -> 01 02 03 7
std::vector<std::string> expand_range_list(std::string_view list, std::string_view whole) {
  std::vector<std::string> result;
  for (const std::string_view part : split(list)) {
    const size_t dash = part.find('-');
    const std::string_view first = part.substr(0, dash);
    const auto from = number(first), to = dash == part.npos ? from : number(part.substr(dash + 1));
    if (!from || !to || *to < *from || static_cast<size_t>(*to - *from) > kMaxEntries) throw_unreadable("hosts", whole);
    for (long i = *from; i <= *to; ++i) result.push_back(fmt::format("{:0{}}", i, first.size()));
  }
  return result;
}

}  // namespace

std::vector<std::string> expand_hostlist(std::string_view text) {
  std::vector<std::string> hosts;
  for (const std::string_view entry : split(text)) {
    if (entry.empty()) throw_unreadable("hosts", text);
    std::vector<std::string> names = {""};
    for (size_t at = 0; at < entry.size();) {
      const size_t open = std::min(entry.find('[', at), entry.size());
      std::vector<std::string> middles = {""};
      size_t next = open;
      if (open < entry.size()) {
        const size_t close = entry.find(']', open);
        if (close == entry.npos) throw_unreadable("hosts", text);
        middles = expand_range_list(entry.substr(open + 1, close - open - 1), text);
        next = close + 1;
      }
      std::vector<std::string> longer;
      if (names.size() * middles.size() > kMaxEntries) throw_unreadable("hosts", text);
      for (const std::string& name : names)
        for (const std::string& middle : middles)
          longer.push_back(name + std::string(entry.substr(at, open - at)) + middle);
      names = std::move(longer);
      at = next;
    }
    hosts.insert(hosts.end(), names.begin(), names.end());
  }
  return hosts;
}

std::vector<int> expand_tasks_per_node(std::string_view text) {
  std::vector<int> result;
  for (std::string_view part : split(text)) {
    long times = 1;
    if (const size_t open = part.find("(x"); open != part.npos) {
      if (part.back() != ')') throw_unreadable("task counts", text);
      times = number(part.substr(open + 2, part.size() - open - 3)).value_or(0);
      part = part.substr(0, open);
    }
    const auto count = number(part);
    if (!count || *count > 1'000'000 || times < 1 || static_cast<size_t>(times) > kMaxEntries)
      throw_unreadable("task counts", text);
    result.insert(result.end(), static_cast<size_t>(times), static_cast<int>(*count));
  }
  return result;
}

}  // namespace lane
