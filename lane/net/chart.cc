#include "lane/net/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "lane/base/units.h"

namespace lane::net {
namespace {

constexpr double kWidth = 920, kHeight = 520, kLeft = 78, kRight = 250, kTop = 52, kBottom = 56;

// Okabe and Ito's colours, which people who see fewer can tell apart; each stands out on white and on black.
constexpr std::array kColors = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#999999"};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

std::string size_label(double bytes) {
  const std::string text = format_bytes(bytes);
  const size_t dot = text.find(".00");
  return dot == std::string::npos ? text : text.substr(0, dot) + text.substr(dot + 3);
}

// A logarithmic axis between whole powers of `base`.
struct Axis {
  double base, low = std::numeric_limits<double>::max(), high = 0, from, to;

  void include(double value) {
    if (value <= 0) return;
    low = std::min(low, value), high = std::max(high, value);
  }
  void round_out() {
    if (high <= 0) low = 1, high = base;
    low = std::pow(base, std::floor(std::log(low) / std::log(base) + 1e-9));
    high = std::pow(base, std::ceil(std::log(high) / std::log(base) - 1e-9));
    if (high <= low) high = low * base;
  }
  double at(double value) const { return from + (to - from) * std::log(value / low) / std::log(high / low); }
  int powers() const { return static_cast<int>(std::lround(std::log(high / low) / std::log(base))); }
};

}  // namespace

std::string latency_chart(const std::string& title, const std::vector<Curve>& curves) {
  Axis x{.base = 2, .from = kLeft, .to = kWidth - kRight}, y{.base = 10, .from = kHeight - kBottom, .to = kTop};
  for (const Curve& curve : curves)
    for (const auto& [bytes, seconds] : curve.points) x.include(bytes), y.include(seconds);
  x.round_out();
  y.round_out();

  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" "
      "aria-label=\"{2}\">\n"
      "<style>\n"
      "  .page {{ fill: #ffffff }} text {{ fill: #24292f; font: 13px system-ui, sans-serif }}\n"
      "  .title {{ font-size: 15px; font-weight: 600 }} .grid {{ stroke: #d0d7de }} .fine {{ stroke: #eceff2 }}\n"
      "  .curve {{ fill: none; stroke-width: 2; stroke-linejoin: round }}\n"
      "  @media (prefers-color-scheme: dark) {{\n"
      "    .page {{ fill: #0d1117 }} text {{ fill: #e6edf3 }} .grid {{ stroke: #3b434b }} .fine {{ stroke: #21262d }}\n"
      "  }}\n"
      "</style>\n"
      "<rect class=\"page\" width=\"{0}\" height=\"{1}\"/>\n"
      "<text class=\"title\" x=\"{3}\" y=\"28\">{2}</text>\n",
      kWidth, kHeight, escaped(title), kLeft);
  const auto line = [&](const char* kind, double x1, double y1, double x2, double y2) {
    svg += fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kind, x1, y1,
                       x2, y2);
  };
  const auto text = [&](const char* anchor, double at_x, double at_y, const std::string& words) {
    svg += fmt::format("<text text-anchor=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", anchor, at_x, at_y,
                       escaped(words));
  };
  const int step = std::max(1, (x.powers() + 8) / 9);  // nine labels fit
  for (int power = 0; power <= x.powers(); power += step) {
    const double value = x.low * std::pow(2.0, power);
    line("grid", x.at(value), y.from, x.at(value), y.to);
    text("middle", x.at(value), y.from + 20, size_label(value));
  }
  for (int power = 0; power <= y.powers(); ++power) {
    const double value = y.low * std::pow(10.0, power);
    for (int part = 2; part < 10 && power < y.powers(); ++part)
      line("fine", x.from, y.at(value * part), x.to, y.at(value * part));
    line("grid", x.from, y.at(value), x.to, y.at(value));
    text("end", x.from - 8, y.at(value) + 4, format_duration(value));
  }
  text("middle", (x.from + x.to) / 2, kHeight - 12, "size of the vector");

  double legend_y = kTop + 8;
  for (size_t i = 0; i < curves.size(); ++i, legend_y += 22) {
    const char* color = kColors[i % kColors.size()];
    const char* dashes = curves[i].is_other ? " stroke-dasharray=\"6 4\"" : "";
    std::string points;
    for (const auto& [bytes, seconds] : curves[i].points) {
      if (bytes <= 0 || seconds <= 0) continue;
      points += fmt::format("{:.1f},{:.1f} ", x.at(bytes), y.at(seconds));
      svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.6\" fill=\"{}\"/>\n", x.at(bytes), y.at(seconds),
                         color);
    }
    svg += fmt::format("<polyline class=\"curve\" stroke=\"{}\"{} points=\"{}\"/>\n", color, dashes, points);
    svg += fmt::format("<polyline class=\"curve\" stroke=\"{0}\"{1} points=\"{2:.1f},{4:.1f} {3:.1f},{4:.1f}\"/>\n",
                       color, dashes, x.to + 16, x.to + 46, legend_y);
    text("start", x.to + 54, legend_y + 4, curves[i].name);
  }
  return svg + "</svg>\n";
}

}  // namespace lane::net
