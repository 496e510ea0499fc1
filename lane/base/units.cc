#include "lane/base/units.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

#include "lane/base/error.h"

namespace lane {

int64_t parse_bytes(std::string_view text, std::string_view what) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
  bool known = error == std::errc{} && std::isfinite(number) && number >= 0;
  double scale = 1;
  if (!suffix.empty() && suffix != "B") {
    const std::string_view tail = suffix.substr(1);
    const size_t power = std::string_view("KMGT").find(suffix[0]);
    known = known && (tail.empty() || tail == "B" || tail == "iB");
    if (suffix[0] == 'k')
      scale = 1000;
    else if (power != std::string_view::npos)
      scale = std::pow(1024.0, static_cast<double>(power + 1));
    else
      known = false;
  }
  if (!known || number * scale > 9e18)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} {}: expected a number of bytes such as 4096, 512M or 2G", what, text));
  return static_cast<int64_t>(number * scale);
}

std::string format_bytes(double bytes) {
  static constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (std::abs(bytes) >= 1024 && unit + 1 < kUnits.size()) bytes /= 1024, ++unit;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.2f} {}", bytes, kUnits[unit]);
}

std::string format_rate(double bytes_per_s) {
  static constexpr std::array kUnits = {"B/s", "kB/s", "MB/s", "GB/s", "TB/s"};
  size_t unit = 0;
  while (std::abs(bytes_per_s) >= 1000 && unit + 1 < kUnits.size()) bytes_per_s /= 1000, ++unit;
  return fmt::format("{:.3g} {}", bytes_per_s, kUnits[unit]);
}

std::string format_duration(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.3g} µs", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.3g} ms", seconds * 1e3);
  if (seconds < 120) return fmt::format("{:.3g} s", seconds);
  const auto whole = static_cast<int64_t>(seconds);
  return fmt::format("{} min {} s", whole / 60, whole % 60);
}

std::string format_count(int64_t count) {
  std::string digits = std::to_string(count);
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > (count < 0 ? 1 : 0); at -= 3)
    digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

}  // namespace lane
