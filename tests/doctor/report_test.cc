#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "lane/base/file.h"
#include "tests/doctor/machines.h"

namespace lane::doctor::test {
namespace {

Finding made(Verdict verdict, const std::string& id, double cost_us = 0) {
  Finding finding;
  finding.id = id;
  finding.verdict = verdict;
  finding.what = id + " was seen";
  finding.evidence = {{"/proc/x", "7"}};
  finding.cost_us = cost_us;
  finding.cost_why = "reckoned";
  finding.fix = "do it";
  finding.undo = "undo it";
  return finding;
}

TEST(Report, ExitStatusIsTheWorst) {
  using enum Verdict;
  const auto status = [](std::vector<Verdict> verdicts, bool strict = false) {
    std::vector<Finding> findings;
    for (const Verdict verdict : verdicts) findings.push_back(made(verdict, "x"));
    return exit_status(findings, strict);
  };
  EXPECT_EQ(status({}), 0);
  EXPECT_EQ(status({kOk, kNote}), 0);
  EXPECT_EQ(status({kOk, kUnknown, kNote}), 3);
  EXPECT_EQ(status({kUnknown, kWarning}), 1);
  EXPECT_EQ(status({kUnknown, kWarning, kFatal}), 2);
  EXPECT_EQ(status({kUnknown}, true), 1);
  EXPECT_EQ(status({kUnknown, kFatal}, true), 2);
  EXPECT_EQ(status({kNote}, true), 0);
}

TEST(Report, TextIsGroupedWorstFirstAndEndsInASum) {
  using enum Verdict;
  const std::vector<Finding> findings = {
      made(kOk, "fine-a"),    made(kUnknown, "dark"),       made(kWarning, "slow", 1234.5),
      made(kFatal, "broken"), made(kWarning, "slower", 12), made(kOk, "fine-b")};
  const std::string text = to_text(findings, false, false);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_LT(text.find("FATAL    broken"), text.find("WARNING  slow"));
  EXPECT_LT(text.find("WARNING  slower"), text.find("UNKNOWN  dark"));
  EXPECT_EQ(text.find("fine-a"), std::string::npos);
  EXPECT_NE(text.find("+1.23 ms per decode step\n"), std::string::npos) << text;
  EXPECT_NE(text.find("docs/doctor.md#slow\n"), std::string::npos);
  EXPECT_TRUE(text.ends_with("1 fatal, 2 warnings, 1 could not be told, 2 fine\n")) << text;
  const std::string all = to_text(findings, true, true);
  EXPECT_NE(all.find("OK      \x1b"), std::string::npos);
  EXPECT_NE(all.find("fine-b"), std::string::npos);
  EXPECT_NE(all.find("\x1b[1;31mFATAL"), std::string::npos);
  EXPECT_EQ(std::count(all.begin(), all.end(), '\x1b') % 2, 0);
  EXPECT_TRUE(to_text({}, false, true).ends_with("0 fine\n"));
}

TEST(Report, LinesAreShortAndHoldNoControlCharacters) {
  Finding finding = made(Verdict::kWarning, "odd");
  finding.what = "a\x1b[2Jb\tc " + std::string(300, 'w') + " " + [] {
    std::string words;
    for (int i = 0; i < 80; ++i) words += "word ";
    return words;
  }();
  const std::string text = to_text({finding}, false, false);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_EQ(text.find('\t'), std::string::npos);
  size_t too_long = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    too_long += end - begin > 112;
    begin = end + 1;
  }
  EXPECT_EQ(too_long, 1u) << "only the one word that cannot be broken";
}

TEST(Report, Json) {
  const Json json = to_json({made(Verdict::kWarning, "slow", 12), made(Verdict::kOk, "fine")});
  EXPECT_EQ(json["schema"], 1);
  EXPECT_EQ(json["counts"], (Json{{"fatal", 0}, {"warning", 1}, {"unknown", 0}, {"note", 0}, {"ok", 1}}));
  EXPECT_EQ(json["findings"][0], (Json{{"id", "slow"},
                                       {"verdict", "warning"},
                                       {"what", "slow was seen"},
                                       {"evidence", Json::array({{{"source", "/proc/x"}, {"value", "7"}}})},
                                       {"cost_us", 12.0},
                                       {"cost_why", "reckoned"},
                                       {"fix", "do it"},
                                       {"undo", "undo it"},
                                       {"more", "docs/doctor.md#slow"}}));
}

// Each id is a heading of the page, and each heading of the two lists of findings is an id.
TEST(Page, ExplainsEachFindingAndNoOther) {
  const std::string page = read_file(std::string(LANE_SOURCE_DIR) + "/docs/doctor.md");
  const std::vector<std::string> list = finding_ids();
  const std::set<std::string> ids(list.begin(), list.end());
  EXPECT_EQ(ids.size(), list.size()) << "an id is used twice";
  std::set<std::string> headings;
  for (size_t at = 0; (at = page.find("\n### ", at)) != std::string::npos;) {
    at += 5;
    headings.insert(page.substr(at, page.find('\n', at) - at));
  }
  EXPECT_EQ(headings, ids);
  // And each says what it is for: a heading is followed by text.
  for (const std::string& id : ids) {
    const size_t at = page.find("\n### " + id + "\n");
    ASSERT_NE(at, std::string::npos) << id;
    const size_t text = page.find_first_not_of('\n', at + 6 + id.size());
    EXPECT_TRUE(text != std::string::npos && page[text] != '#') << id;
  }
}

}  // namespace
}  // namespace lane::doctor::test
