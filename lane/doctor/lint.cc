#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/doctor/lint/rules.h"

namespace lane::doctor {
namespace {

constexpr std::string_view kEnvironmentId = "environment";

// What is said of the settings as a whole.
std::vector<Finding> summary(const Lint& lint) {
  Finding made;
  made.verdict = Verdict::kOk;
  made.what = lint.variables.empty()
                  ? "no variable of NCCL, UCX, NVSHMEM or libfabric is set: their own choices are in force"
                  : fmt::format("{} variables were looked at", lint.variables.size());
  for (const Variable& variable : lint.variables) made.evidence.push_back({variable.source, words_for(variable)});
  std::vector<Finding> found{made};
  const bool has_nccl = std::any_of(lint.variables.begin(), lint.variables.end(),
                                    [](const Variable& variable) { return variable.name.starts_with("NCCL_"); });
  if (has_nccl && lint.nccl_version == 0) {
    Finding version;
    version.verdict = Verdict::kUnknown;
    version.what = "NCCL's version is not known: rules that depend on it say what each version does";
    version.evidence = {{"libnccl.so.2", "not found"}};
    version.fix = "lane doctor --env --nccl-version 2.28.9";
    found.push_back(version);
  }
  return found;
}

std::vector<Variable> in_force(const std::vector<EnvironmentSource>& sources) {
  std::map<std::string, Variable> by_name;
  for (const EnvironmentSource& source : sources)
    for (const auto& [name, value] : source.variables) {
      const auto found = by_name.find(name);
      // Of a file NCCL keeps the first value (setenv without overwriting).
      if (found != by_name.end() && source.is_file && found->second.source == source.name) continue;
      by_name[name] = {name, value, source.name};
    }
  std::vector<Variable> variables;
  for (auto& [name, variable] : by_name) variables.push_back(std::move(variable));
  return variables;
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// Letters to insert, delete or change (Levenshtein); case counts for nothing.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (lower(a[i - 1]) == lower(b[j - 1]) ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

const Variable* Lint::find(std::string_view name) const {
  for (const Variable& variable : variables)
    if (variable.name == name) return &variable;
  return nullptr;
}

bool Lint::is(std::string_view name, std::string_view value) const {
  const Variable* variable = find(name);
  return variable != nullptr && variable->value == value;
}

std::optional<int64_t> Lint::number(std::string_view name) const {
  const Variable* variable = find(name);
  if (variable == nullptr) return std::nullopt;
  const std::string& text = variable->value;
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

const topology::Host* Lint::host() const {
  return inventory == nullptr || inventory->topology.hosts.empty() ? nullptr : &inventory->topology.hosts.front();
}

std::string version_words(int version) {
  const int patch = version % 100;
  return patch == 0 ? fmt::format("{}.{}", version / 10000, version / 100 % 100)
                    : fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, patch);
}

std::string nearest_name(std::string_view name, std::span<const std::string_view> names) {
  constexpr size_t kLongest = 128;
  if (name.size() > kLongest) return {};
  size_t best = std::max<size_t>(1, name.size() / 3) + 1;
  std::string nearest;
  for (const std::string_view candidate : names) {
    const size_t distance = edit_distance(name, candidate);
    if (distance >= best) continue;
    best = distance;
    nearest = candidate;
  }
  return nearest;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

bool same_letters(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) { return lower(x) == lower(y); });
}

std::string words_for(const Variable& variable) {
  constexpr size_t kLongest = 200;
  std::string words = variable.name + "=" + variable.value;
  if (words.size() > kLongest) words = words.substr(0, kLongest) + "...";
  return words;
}

Finding about(Verdict verdict, const Variable& variable, std::string what, std::string fix, std::string cost_why) {
  Finding made;
  made.verdict = verdict;
  made.what = std::move(what);
  made.evidence = {{variable.source, words_for(variable)}};
  made.cost_why = std::move(cost_why);
  if (made.cost_why.empty() && verdict != Verdict::kNote) made.cost_why = "cannot be told without a measurement";
  made.fix = std::move(fix);
  made.undo = fmt::format("export {}='{}'", variable.name, variable.value.substr(0, 200));
  return made;
}

std::span<const Rule> rules() {
  static const std::vector<Rule> all = [] {
    std::vector<Rule> joined{{kEnvironmentId, summary}};
    for (const auto theme : {name_rules, nccl_rules, device_rules, other_rules})
      joined.insert(joined.end(), theme().begin(), theme().end());
    return joined;
  }();
  return all;
}

int nccl_version_of(std::string_view text) {
  const size_t digit = text.find_first_of("0123456789");
  if (digit == std::string_view::npos) return 0;
  int parts[3] = {0, 0, 0};
  const char *at = text.data() + digit, *end = text.data() + text.size();
  for (int& part : parts) {
    const auto [rest, error] = std::from_chars(at, end, part);
    if (error != std::errc{} || part < 0 || part > 99) return 0;
    if (rest == end || *rest != '.') break;
    at = rest + 1;
  }
  return parts[0] < 2 ? 0 : parts[0] * 10000 + parts[1] * 100 + parts[2];
}

std::vector<Finding> lint_environment(const std::vector<EnvironmentSource>& sources, int nccl_version,
                                      const inventory::Inventory* inventory) {
  const Lint lint{sources, in_force(sources), nccl_version, inventory};
  std::vector<Finding> findings;
  for (const Rule& rule : rules())
    for (Finding& finding : rule.run(lint)) {
      finding.id = rule.id;
      findings.push_back(std::move(finding));
    }
  put_worst_first(findings);
  return findings;
}

EnvironmentSource parse_conf(std::string_view text, const std::string& where) {
  constexpr size_t kLongestLine = 4095;  // NCCL reads lines into 4096 bytes and takes the rest for another line
  EnvironmentSource source{.name = where, .is_file = true};
  int number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find('\0') != std::string_view::npos)
      throw Error(ErrorCode::kCorruptData,
                  fmt::format("{}, line {}: a zero byte: expected lines of text like NCCL_DEBUG=WARN", where, number));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.front() == '#') continue;
    const size_t equals = line.find('=');
    if (line.size() > kLongestLine) {
      source.problems.push_back(
          fmt::format("line {} has {} bytes; NCCL cuts it after {}", number, line.size(), kLongestLine));
      continue;
    }
    if (equals == std::string_view::npos) {
      if (line.find_first_not_of(" \t") != std::string_view::npos)
        source.problems.push_back(fmt::format("line {} has no '=': NCCL passes over {}", number, in_quotes(line)));
      continue;
    }
    source.variables.emplace_back(line.substr(0, equals), line.substr(equals + 1));
  }
  return source;
}

}  // namespace lane::doctor
