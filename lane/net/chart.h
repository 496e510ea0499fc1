#pragma once
#include <string>
#include <utility>
#include <vector>

namespace lane::net {

struct Curve {
  std::string name;
  std::vector<std::pair<double, double>> points;  // bytes, seconds
  bool is_other = false;                          // drawn dashed: not ours
};

// A picture of times over sizes, both axes logarithmic, as SVG; legible on light and dark pages. Pure.
std::string latency_chart(const std::string& title, const std::vector<Curve>& curves);

}  // namespace lane::net
