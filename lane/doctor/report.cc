#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "lane/base/units.h"
#include "lane/doctor/doctor.h"

namespace lane::doctor {
namespace {

struct Look {
  Verdict verdict;
  const char *name, *heading, *colour;
};
constexpr std::array kLooks = {
    Look{Verdict::kFatal, "fatal", "FATAL", "\x1b[1;31m"}, Look{Verdict::kWarning, "warning", "WARNING", "\x1b[1;33m"},
    Look{Verdict::kUnknown, "unknown", "UNKNOWN", "\x1b[1;35m"}, Look{Verdict::kNote, "note", "NOTE", "\x1b[1;36m"},
    Look{Verdict::kOk, "ok", "OK", "\x1b[1;32m"}};
constexpr const char* kReset = "\x1b[0m";
constexpr size_t kWidth = 112, kIndent = 11;

const Look& look_of(Verdict verdict) {
  return *std::find_if(kLooks.begin(), kLooks.end() - 1, [&](const Look& look) { return look.verdict == verdict; });
}

int count(const std::vector<Finding>& findings, Verdict verdict) {
  return static_cast<int>(std::count_if(findings.begin(), findings.end(),
                                        [&](const Finding& finding) { return finding.verdict == verdict; }));
}

// Words of files and devices may hold anything; a terminal gets no control characters.
std::string printable(std::string_view text) {
  std::string shown;
  for (const char c : text) shown += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return shown;
}

// Columns that UTF-8 text takes; all that is printed here is one column wide.
size_t columns(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

// "  label    words", broken between words, the later lines under the first word.
std::string paragraph(std::string_view label, std::string_view text, size_t indent = kIndent) {
  std::string out = fmt::format("  {:<{}}", label, indent - 2);
  size_t at = indent;
  bool first = true;
  const std::string shown = printable(text);
  for (size_t begin = 0; begin <= shown.size();) {
    const size_t end = std::min(shown.find(' ', begin), shown.size());
    const std::string_view word = std::string_view(shown).substr(begin, end - begin);
    begin = end + 1;
    if (!first && at + 1 + columns(word) > kWidth) {
      out += "\n" + std::string(indent, ' ');
      at = indent;
      first = true;
    }
    out += first ? "" : " ";
    out += word;
    at += columns(word) + (first ? 0 : 1);
    first = false;
  }
  return out + "\n";
}

std::string in_full(const Finding& finding, const Look& look, bool colour) {
  const std::string cost =
      finding.cost_us > 0 ? fmt::format("+{} per decode step", format_duration(finding.cost_us * 1e-6)) : "";
  std::string out =
      fmt::format("{}{:<8}{} {}", colour ? look.colour : "", look.heading, colour ? kReset : "", finding.id);
  const size_t at = 9 + finding.id.size();
  if (!cost.empty())
    out +=
        fmt::format("{:>{}}", "", std::max<size_t>(2, kWidth > at + columns(cost) ? kWidth - at - columns(cost) : 2)) +
        cost;
  out += "\n" + paragraph("", finding.what, 2);
  constexpr size_t kMostEvidence = 16;
  for (size_t i = 0; i < std::min(finding.evidence.size(), kMostEvidence); ++i)
    out += paragraph(i == 0 ? "seen" : "", finding.evidence[i].source + ": " + finding.evidence[i].value);
  if (finding.evidence.size() > kMostEvidence)
    out += paragraph("", fmt::format("and {} more (--json has all)", finding.evidence.size() - kMostEvidence));
  if (!finding.cost_why.empty()) out += paragraph("cost", finding.cost_why);
  if (!finding.fix.empty()) out += paragraph(finding.verdict == Verdict::kUnknown ? "needs" : "fix", finding.fix);
  if (!finding.undo.empty() && finding.verdict != Verdict::kUnknown) out += paragraph("undo", finding.undo);
  return out + paragraph("more", "docs/doctor.md#" + finding.id) + "\n";
}

std::string plural(int count, const char* one, const char* many) {
  return fmt::format("{} {}", count, count == 1 ? one : many);
}

std::string summary(const std::vector<Finding>& findings) {
  std::string out;
  const auto add = [&](const std::string& words) { out += (out.empty() ? "" : ", ") + words; };
  if (const int n = count(findings, Verdict::kFatal)) add(fmt::format("{} fatal", n));
  if (const int n = count(findings, Verdict::kWarning)) add(plural(n, "warning", "warnings"));
  if (const int n = count(findings, Verdict::kUnknown)) add(fmt::format("{} could not be told", n));
  if (const int n = count(findings, Verdict::kNote)) add(plural(n, "note", "notes"));
  add(fmt::format("{} fine", count(findings, Verdict::kOk)));
  return out;
}

}  // namespace

std::string_view name_of(Verdict verdict) { return look_of(verdict).name; }

int exit_status(const std::vector<Finding>& findings, bool strict) {
  const bool unknown = count(findings, Verdict::kUnknown) > 0;
  if (count(findings, Verdict::kFatal) > 0) return 2;
  if (count(findings, Verdict::kWarning) > 0 || (strict && unknown)) return 1;
  return unknown ? 3 : 0;
}

Json to_json(const std::vector<Finding>& findings) {
  Json list = Json::array();
  for (const Finding& finding : findings) {
    Json evidence = Json::array();
    for (const Evidence& one : finding.evidence) evidence.push_back({{"source", one.source}, {"value", one.value}});
    list.push_back({{"id", finding.id},
                    {"verdict", name_of(finding.verdict)},
                    {"what", finding.what},
                    {"evidence", evidence},
                    {"cost_us", finding.cost_us},
                    {"cost_why", finding.cost_why},
                    {"fix", finding.fix},
                    {"undo", finding.undo},
                    {"more", "docs/doctor.md#" + finding.id}});
  }
  Json counts = Json::object();
  for (const Look& look : kLooks) counts[look.name] = count(findings, look.verdict);
  return {{"schema", 1}, {"findings", list}, {"counts", counts}};
}

std::string to_text(const std::vector<Finding>& findings, bool colour, bool verbose) {
  std::string out;
  for (const Look& look : kLooks)
    for (const Finding& finding : findings) {
      if (finding.verdict != look.verdict) continue;
      if (look.verdict != Verdict::kOk)
        out += in_full(finding, look, colour);
      else if (verbose)
        out += fmt::format("{}{:<8}{} {:<26} {}\n", colour ? look.colour : "", look.heading, colour ? kReset : "",
                           finding.id, printable(finding.what));
    }
  if (verbose && count(findings, Verdict::kOk) > 0) out += "\n";
  return out + summary(findings) + "\n";
}

}  // namespace lane::doctor
