#include "lane/plan/draw.h"

#include <gtest/gtest.h>

#include "lane/plan/messages.h"

namespace lane::plan {
namespace {

// Enough of an XML parser to say whether a reader would accept it: tags match, attributes are quoted and named once,
// and what is special is escaped.
std::string flaw_in_xml(const std::string& text) {
  std::vector<std::string> open;
  size_t roots = 0;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '&') {
      const size_t end = text.find(';', i);
      const std::string entity = end == std::string::npos ? "" : text.substr(i, end - i + 1);
      if (entity != "&amp;" && entity != "&lt;" && entity != "&gt;" && entity != "&quot;") return "a bare &";
      i = end + 1;
      continue;
    }
    if (text[i] == '>') return "a bare > near " + text.substr(i, 40);
    if (text[i] != '<') {
      if (open.empty() && text[i] != '\n') return "text outside of the root";
      ++i;
      continue;
    }
    size_t end = i + 1;
    bool quoted = false;
    for (; end < text.size() && (quoted || text[end] != '>'); ++end) {
      if (text[end] == '"') quoted = !quoted;
      if (text[end] == '<') return "< inside a tag near " + text.substr(i, 40);
    }
    if (end >= text.size()) return "a tag without end";
    const std::string tag = text.substr(i + 1, end - i - 1);
    const std::string name = tag.substr(0, tag.find_first_of(" /", 1));
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return "</" + tag.substr(1) + "> without its start";
      open.pop_back();
    } else if (tag.back() != '/') {
      if (open.empty()) ++roots;
      open.push_back(name);
    }
    i = end + 1;
  }
  if (!open.empty()) return "<" + open.back() + "> without its end";
  return roots == 1 ? "" : "not one root";
}

size_t count(const std::string& text, const std::string& what) {
  size_t found = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
  return found;
}

TEST(Draw, ShowsEveryMessageInWellFormedXml) {
  for (const Layout& layout : {Layout::one_node(1), Layout::one_node(2), Layout::one_node(7), Layout::uniform(8, 4),
                               Layout::of_sizes({3, 1, 2}), Layout{{1, 0, 1, 2, 1}}})
    for (const Collective collective : {Collective::kAllReduce, Collective::kBroadcast, Collective::kAllToAll})
      for (const std::string& name : schedule_names(collective, layout)) {
        const Schedule schedule = make_schedule(name, collective, layout);
        const std::string svg = draw(schedule, layout);
        ASSERT_EQ(flaw_in_xml(svg), "") << name;
        size_t messages = 0;
        for (const auto& round : messages_by_round(schedule)) messages += round.size();
        EXPECT_EQ(count(svg, "<g class=\"message "), messages) << name;
        EXPECT_EQ(count(svg, "<text class=\"rank\""), static_cast<size_t>(layout.num_ranks()));
        EXPECT_EQ(count(svg, "nan"), 0u);
      }
}

TEST(Draw, TellsRemoteLocalAndMulticastApart) {
  const Layout layout = Layout::uniform(2, 3);
  const Schedule schedule = make_schedule("hier:two_shot_multicast/one_shot", Collective::kAllReduce, layout);
  const std::string svg = draw(schedule, layout);
  EXPECT_EQ(count(svg, "<g class=\"message local\""), 2u * 3 * 2);
  EXPECT_EQ(count(svg, "<g class=\"message remote\""), 6u);
  EXPECT_EQ(count(svg, "<g class=\"message multicast\""), 6u);
  EXPECT_NE(svg.find("round 2: rank 0 to rank 3: chunk 0<"), std::string::npos);
  EXPECT_NE(svg.find("round 3: rank 0 to all others of its node: chunk 0<"), std::string::npos);
}

TEST(Draw, EscapesWhatIsWritten) {
  const Layout layout = Layout::one_node(2);
  const Schedule schedule = make_schedule("one_shot", Collective::kAllReduce, layout);
  const std::string svg = draw(schedule, layout, {.title = "a < b & \"c\"", .captions = {"1 > 0"}});
  EXPECT_EQ(flaw_in_xml(svg), "");
  EXPECT_NE(svg.find("a &lt; b &amp; &quot;c&quot;"), std::string::npos);
}

TEST(Draw, TheCheckOfXmlFindsFlaws) {
  for (const char* bad : {"<a>", "<a></b>", "<a>&</a>", "<a/><b/>", "<a b=\"<\"/>", "x<a/>", "<a"})
    EXPECT_NE(flaw_in_xml(bad), "") << bad;
  EXPECT_EQ(flaw_in_xml("<a b=\"c\"><d/>e &amp; f</a>\n"), "");
}

}  // namespace
}  // namespace lane::plan
