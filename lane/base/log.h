#pragma once
#include <string>
#include <string_view>

namespace lane {

enum class LogLevel : int { kError, kWarn, kInfo, kDebug };

// Who speaks: "[rank 1/4] " in front of every line; empty for a process that is alone.
void set_log_prefix(std::string prefix);

bool log_enabled(LogLevel level);  // by LANE_LOG

// One line on standard error, written with a single write() so that the lines of several ranks never mix.
void log(LogLevel level, std::string_view line);

}  // namespace lane
