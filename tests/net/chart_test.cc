#include "lane/net/chart.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace lane::net {
namespace {

size_t count_of(const std::string& text, const std::string& words) {
  size_t count = 0;
  for (size_t at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) ++count;
  return count;
}

TEST(LatencyChart, ShowsEachCurveWithItsNameAndBothThemes) {
  const std::string svg = latency_chart(
      "a < b", {{"ours", {{8, 1e-6}, {1024, 2e-6}, {1 << 20, 1e-4}}}, {"theirs & more", {{8, 3e-6}, {1024, 0}}, true}});
  EXPECT_EQ(svg.find("<svg "), 0u);
  EXPECT_EQ(count_of(svg, "<circle"), 4u) << "a time of 0 has no place on such an axis";
  EXPECT_EQ(count_of(svg, "stroke-dasharray"), 2u) << "the curve and its line in the legend";
  for (const char* words : {"a &lt; b", "theirs &amp; more", "prefers-color-scheme: dark", ">512 KiB<", ">10 µs<"})
    EXPECT_NE(svg.find(words), std::string::npos) << words;
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

TEST(LatencyChart, OfNothingOrOnePointIsStillAPicture) {
  for (const std::vector<Curve>& curves : {std::vector<Curve>{}, std::vector<Curve>{{"one", {{64, 1e-5}}}}}) {
    const std::string svg = latency_chart("empty", curves);
    EXPECT_NE(svg.find("</svg>"), std::string::npos);
    EXPECT_EQ(svg.find("nan"), std::string::npos);
  }
}

}  // namespace
}  // namespace lane::net
