#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "lane/base/trace.h"
#include "lane/base/units.h"

namespace lane::cli {

ProgressBar::ProgressBar(std::string label, Unit unit, bool wanted)
    : label_(std::move(label)), unit_(unit), wanted_(wanted && ::isatty(STDERR_FILENO)), start_ns_(now_ns()) {}
ProgressBar::~ProgressBar() { clear(); }

void ProgressBar::update(int64_t done, int64_t total, const std::string& note) {
  if (!wanted_ || total <= 0) return;
  const int64_t now = now_ns();
  if (now - last_draw_ns_ < 100'000'000) return;
  last_draw_ns_ = now;
  constexpr int kWidth = 30;
  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
  const double seconds = static_cast<double>(now - start_ns_) * 1e-9;
  const double rate = static_cast<double>(done) / std::max(seconds, 1e-9);
  const int filled = static_cast<int>(share * kWidth);
  std::string line =
      fmt::format("\r\x1b[K{} [{}{}{}] {:3.0f} %", label_, std::string(filled, '='), filled < kWidth ? ">" : "",
                  std::string(static_cast<size_t>(std::max(kWidth - 1 - filled, 0)), ' '), 100 * share);
  line += unit_ == Unit::kBytes ? fmt::format("  {}", format_rate(rate)) : fmt::format("  {}/{}", done, total);
  if (!note.empty()) line += "  " + note;
  if (done > 0 && seconds > 1)
    line += fmt::format("  {} left", format_duration(static_cast<double>(total - done) / rate));
  std::fputs(line.c_str(), stderr);
  shown_ = true;
}

void ProgressBar::clear() {
  if (shown_) std::fputs("\r\x1b[K", stderr);
  shown_ = false;
}

}  // namespace lane::cli
