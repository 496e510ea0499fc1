#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>

#include "lane/base/units.h"
#include "lane/plan/sweep.h"

namespace lane::plan {
namespace {

constexpr double kWidth = 920, kHeight = 560, kLeft = 92, kRight = 150, kTop = 56, kBottom = 62;

// Okabe and Ito's colours, which people who see fewer can tell apart; each stands out on white and on black.
constexpr std::array kColors = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#999999"};

constexpr const char* kStyle =
    "<style>\n"
    "  .page { fill: #ffffff } text { fill: #24292f; font: 13px system-ui, sans-serif }\n"
    "  .title { font-size: 15px; font-weight: 600 } .grid { stroke: #d0d7de } .best { fill: none; stroke: #24292f;\n"
    "  stroke-width: 1.5; stroke-dasharray: 5 4 } .label { font-size: 11px }\n"
    "  @media (prefers-color-scheme: dark) {\n"
    "    .page { fill: #0d1117 } text { fill: #e6edf3 } .grid { stroke: #3b434b } .best { stroke: #e6edf3 }\n"
    "  }\n"
    "</style>\n";

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text)
    out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return out;
}

// Logarithmic, with a little air at both ends.
struct Axis {
  double from, to, low = std::numeric_limits<double>::max(), high = 0;

  void include(double value) { low = std::min(low, value), high = std::max(high, value); }
  void round_out() { low /= 1.15, high *= 1.15; }
  double at(double value) const { return from + (to - from) * std::log(value / low) / std::log(high / low); }
  // 1, 2 and 5 times powers of ten.
  std::vector<double> marks() const {
    std::vector<double> marks;
    for (double decade = std::pow(10, std::floor(std::log10(low))); decade <= high; decade *= 10)
      for (const double step : {1.0, 2.0, 5.0})
        if (decade * step >= low && decade * step <= high) marks.push_back(decade * step);
    return marks;
  }
};

std::string name_of(const ParallelPlan& plan) {
  return fmt::format("TP {} x PP {} x {}", plan.tensor, plan.pipeline, plan.replicas);
}

}  // namespace

std::string sweep_chart(const std::string& title, const std::vector<SweepPoint>& points) {
  Axis x{kLeft, kWidth - kRight}, y{kHeight - kBottom, kTop};
  std::set<int> tensors;
  for (const SweepPoint& point : points) {
    x.include(point.step.seconds);
    y.include(point.tokens_per_s);
    tensors.insert(point.plan.tensor);
  }
  x.round_out();
  y.round_out();
  const auto color = [&](int tensor) {
    return kColors[static_cast<size_t>(std::distance(tensors.begin(), tensors.find(tensor))) % kColors.size()];
  };
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" "
      "aria-label=\"{2}\">\n{3}<rect class=\"page\" width=\"{0}\" height=\"{1}\"/>\n"
      "<text class=\"title\" x=\"{4}\" y=\"28\">{2}</text>\n",
      kWidth, kHeight, escaped(title), kStyle, kLeft);
  const auto text = [&](const char* anchor, double at_x, double at_y, const std::string& words,
                        const char* kind = "axis") {
    svg += fmt::format("<text class=\"{}\" text-anchor=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", kind, anchor,
                       at_x, at_y, escaped(words));
  };
  const auto line = [&](double x1, double y1, double x2, double y2) {
    svg +=
        fmt::format("<line class=\"grid\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", x1, y1, x2, y2);
  };
  for (const double mark : x.marks()) {
    line(x.at(mark), y.from, x.at(mark), y.to);
    text("middle", x.at(mark), y.from + 18, format_duration(mark));
  }
  for (const double mark : y.marks()) {
    line(x.from, y.at(mark), x.to, y.at(mark));
    text("end", x.from - 8, y.at(mark) + 4, format_count(std::llround(mark)));
  }
  text("middle", (x.from + x.to) / 2, kHeight - 16, "time between tokens");
  svg += fmt::format(
      "<text text-anchor=\"middle\" transform=\"translate(20 {:.1f}) rotate(-90)\">tokens per second of "
      "all replicas</text>\n",
      (y.from + y.to) / 2);
  for (const SweepPoint& point : points)
    svg += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"{}\" fill-opacity=\"{}\"><title>{}: {} between tokens ({} "
        "to "
        "{}), {:.0f} tokens/s</title></circle>\n",
        x.at(point.step.seconds), y.at(point.tokens_per_s), point.is_best ? 5 : 3, color(point.plan.tensor),
        point.is_best ? "1" : "0.45", name_of(point.plan), format_duration(point.step.seconds),
        format_duration(point.step.low_s), format_duration(point.step.high_s), point.tokens_per_s);
  std::string way;
  double last_x = -1e9, last_y = 1e9;
  for (const SweepPoint& point : points) {
    if (!point.is_best) break;
    const double at_x = x.at(point.step.seconds), at_y = y.at(point.tokens_per_s);
    way += fmt::format("{}{:.1f} {:.1f}", way.empty() ? "M" : " L", at_x, at_y);
    if (at_x - last_x < 100 && last_y - at_y < 16) continue;  // labels must not lie on each other
    text("start", at_x + 8, at_y + 14, fmt::format("TP {} x PP {}", point.plan.tensor, point.plan.pipeline), "label");
    last_x = at_x, last_y = at_y;
  }
  svg += fmt::format("<path class=\"best\" d=\"{}\"/>\n", way);
  double at_y = kTop + 12;
  for (const int tensor : tensors) {
    svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\" fill=\"{}\"/>\n", kWidth - kRight + 24, at_y - 4,
                       color(tensor));
    text("start", kWidth - kRight + 36, at_y, fmt::format("TP {}", tensor));
    at_y += 20;
  }
  svg += fmt::format("<path class=\"best\" d=\"M{:.1f} {:.1f} h24\"/>\n", kWidth - kRight + 12, at_y - 4);
  text("start", kWidth - kRight + 42, at_y, "best plans");
  return svg + "</svg>\n";
}

}  // namespace lane::plan
