#include "lane/base/log.h"

#include <unistd.h>

#include <mutex>

#include "lane/base/error.h"
#include "lane/base/settings.h"

namespace lane {
namespace {

std::mutex prefix_mutex;
std::string prefix;  // guarded by prefix_mutex

LogLevel level_in_force() {
  static const LogLevel kLevel = [] {
    const std::string text = setting("LANE_LOG");
    if (text == "error") return LogLevel::kError;
    if (text == "warn") return LogLevel::kWarn;
    if (text == "info") return LogLevel::kInfo;
    if (text == "debug") return LogLevel::kDebug;
    throw Error(ErrorCode::kInvalidArgument, "LANE_LOG=" + text + ": expected error, warn, info or debug");
  }();
  return kLevel;
}

}  // namespace

void set_log_prefix(std::string text) {
  const std::lock_guard lock(prefix_mutex);
  prefix = std::move(text);
}

bool log_enabled(LogLevel level) { return level <= level_in_force(); }

void log(LogLevel level, std::string_view line) {
  if (!log_enabled(level)) return;
  static constexpr std::string_view kNames[] = {"error: ", "warning: ", "", "debug: "};
  std::string text;
  {
    const std::lock_guard lock(prefix_mutex);
    text = prefix;
  }
  text.append(kNames[static_cast<int>(level)]).append(line).push_back('\n');
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) return;  // nowhere left to complain
}

}  // namespace lane
