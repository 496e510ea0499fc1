#include "lane/base/settings.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "lane/base/error.h"

namespace lane {

std::string setting(std::string_view name) {
  for (const Setting& known : kSettings) {
    if (known.name != name) continue;
    const char* value = std::getenv(std::string(name).c_str());
    return value && *value ? std::string(value) : std::string(known.fallback);
  }
  throw Error(ErrorCode::kBug, "setting " + std::string(name) + " is not in the table of lane/base/settings.h");
}

std::chrono::milliseconds timeout_setting() {
  const std::string text = setting("LANE_TIMEOUT_MS");
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 1)
    throw Error(ErrorCode::kInvalidArgument,
                "LANE_TIMEOUT_MS=" + text + ": expected a whole number of milliseconds, 1 or more");
  return std::chrono::milliseconds(value);
}

std::optional<std::string> launcher_variable(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? std::optional<std::string>(value) : std::nullopt;
}

std::vector<std::pair<std::string, std::string>> environment_with_prefixes(std::span<const std::string_view> prefixes) {
  std::vector<std::pair<std::string, std::string>> found;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    if (std::any_of(prefixes.begin(), prefixes.end(),
                    [&](std::string_view prefix) { return text.starts_with(prefix); }))
      found.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  std::sort(found.begin(), found.end());
  return found;
}

bool colours_refused() {
  const char* value = std::getenv("NO_COLOR");
  return value != nullptr && *value != 0;
}

std::string home_folder() { return launcher_variable("HOME").value_or(""); }

}  // namespace lane
