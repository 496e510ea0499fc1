#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "lane/doctor/lint/rules.h"
#include "lane/doctor/lint/variables.h"

// Names and values by the table of known variables.
namespace lane::doctor {
namespace {

std::vector<Finding> unknown_names(const Lint& lint) {
  std::vector<std::string_view> names;
  for (const KnownVariable& known : known_variables()) names.push_back(known.name);
  std::vector<Finding> found;
  for (const Variable& variable : lint.variables) {
    if (!variable.name.starts_with("NCCL_") || find_known(variable.name) != nullptr) continue;
    // The example plugins of NCCL read settings of their own.
    if (variable.name.starts_with("NCCL_INSPECTOR_") || variable.name.starts_with("NCCL_PROFILE")) continue;
    const std::string nearest = nearest_name(variable.name, names);
    found.push_back(
        about(Verdict::kNote, variable,
              fmt::format("{} is not a variable of NCCL up to {}: it has no effect, unless a plugin reads it",
                          variable.name, version_words(kNewestKnownNccl)),
              nearest.empty() ? fmt::format("unset {}", variable.name) : fmt::format("did you mean {}?", nearest)));
  }
  return found;
}

std::vector<Finding> old_names(const Lint& lint) {
  std::vector<Finding> found;
  for (const Variable& variable : lint.variables) {
    const KnownVariable* known = find_known(variable.name);
    if (known == nullptr || known->old_since == 0 || lint.before(known->old_since)) continue;
    if (variable.name == "NCCL_LAUNCH_MODE" && !same_letters(variable.value, "GROUP")) continue;
    const std::string instead = *known->instead == 0 ? "" : fmt::format("; {} took its place", known->instead);
    const bool is_gone = known->is_gone;
    found.push_back(about(
        is_gone ? Verdict::kWarning : Verdict::kNote, variable,
        fmt::format("{} {} NCCL {}{}", variable.name, is_gone ? "has had no effect since" : "has been deprecated since",
                    version_words(known->old_since), instead),
        *known->instead == 0 ? fmt::format("unset {}", variable.name)
                             : fmt::format("unset {}; if it is needed: {}", variable.name, known->instead)));
  }
  return found;
}

std::vector<Finding> new_names(const Lint& lint) {
  std::vector<Finding> found;
  for (const Variable& variable : lint.variables) {
    const KnownVariable* known = find_known(variable.name);
    if (known == nullptr || known->since == 0 || !lint.before(known->since)) continue;
    found.push_back(about(Verdict::kWarning, variable,
                          fmt::format("{} came with NCCL {}; {} does not know it", variable.name,
                                      version_words(known->since), version_words(lint.nccl_version)),
                          fmt::format("unset {}, or use a newer NCCL", variable.name)));
  }
  return found;
}

// NCCL reads numbers with strtoll(value, nullptr, 0): "yes" is 0, and "4MB" is 4.
std::optional<int64_t> whole_number(std::string_view text) {
  bool negative = false;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    base = 16;
    text.remove_prefix(2);
  }
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (text.empty() || text[0] == '-' || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return negative ? -number : number;
}

std::string range_words(const KnownVariable& known, int64_t high) {
  if (high == kAny) return fmt::format("a whole number of {} or more", known.low);
  return known.low == 0 && high == 1 ? "0 or 1" : fmt::format("a whole number from {} to {}", known.low, high);
}

std::vector<Finding> values(const Lint& lint) {
  std::vector<Finding> found;
  for (const Variable& variable : lint.variables) {
    const KnownVariable* known = find_known(variable.name);
    if (known == nullptr || variable.value.empty()) continue;
    std::string wanted;
    if (known->kind == ValueKind::kNumber) {
      const auto number = whole_number(variable.value);
      int64_t high = known->high;
      if ((variable.name == "NCCL_MAX_CTAS" || variable.name == "NCCL_MIN_CTAS") && lint.before(22500)) high = 32;
      if (!number || *number < known->low || (high != kAny && *number > high)) wanted = range_words(*known, high);
      if (variable.name == "NCCL_NTHREADS" && number && *number != 64 && *number != 128 && *number != 256 &&
          *number != 512)
        wanted = "64, 128, 256 or 512";
    } else if (known->kind == ValueKind::kWord) {
      const auto words = split(known->words, '|');
      if (std::none_of(words.begin(), words.end(),
                       [&](std::string_view w) { return same_letters(w, variable.value); })) {
        wanted = fmt::format("one of {}", known->words);
        const std::string nearest = nearest_name(variable.value, words);
        if (!nearest.empty()) wanted += fmt::format(" (did you mean {}?)", nearest);
      }
    }
    if (wanted.empty()) continue;
    found.push_back(about(Verdict::kWarning, variable, fmt::format("{}: expected {}", words_for(variable), wanted),
                          fmt::format("correct it, or unset {}", variable.name)));
  }
  return found;
}

std::vector<Finding> overridden(const Lint& lint) {
  std::vector<Finding> found;
  for (const Variable& variable : lint.variables) {
    std::vector<Evidence> others;
    for (const EnvironmentSource& source : lint.sources)
      for (const auto& [name, value] : source.variables)
        if (name == variable.name && value != variable.value)
          others.push_back({source.name, words_for({name, value, {}})});
    if (others.empty()) continue;
    Finding made = about(Verdict::kNote, variable,
                         fmt::format("{} is set more than once; {} has the last word", variable.name, variable.source),
                         "keep one of them");
    made.evidence.insert(made.evidence.end(), others.begin(), others.end());
    found.push_back(made);
  }
  return found;
}

// nccl.conf is no shell script: NCCL takes a line apart at its first '=' and keeps all else as it is.
std::vector<Finding> conf_lines(const Lint& lint) {
  constexpr size_t kLongestValue = 1023;
  std::vector<Finding> found;
  for (const EnvironmentSource& source : lint.sources) {
    for (const std::string& problem : source.problems) {
      Finding made;
      made.verdict = Verdict::kWarning;
      made.what = fmt::format("{}: {}", source.name, problem);
      made.evidence = {{source.name, problem}};
      made.fix = "write NAME=value, one to a line, # at the start of a line for comments";
      found.push_back(made);
    }
    if (!source.is_file) continue;
    for (const auto& [name, value] : source.variables) {
      const Variable variable{name, value, source.name};
      std::string wrong;
      if (name.starts_with("export "))
        wrong = "\"export\" becomes part of the name, and the line has no effect";
      else if (name.find_first_of(" \t") != std::string::npos)
        wrong = "blanks become part of the name, and the line has no effect";
      else if (!value.empty() && (value.front() == '"' || value.front() == '\''))
        wrong = "the quotes become part of the value";
      else if (value.find(" #") != std::string::npos || value.find("\t#") != std::string::npos)
        wrong = "the comment becomes part of the value";
      else if (!value.empty() && (value.front() == ' ' || value.back() == ' ' || value.back() == '\t'))
        wrong = "the blanks become part of the value";
      else if (value.size() > kLongestValue)
        wrong = "NCCL cuts the value after 1023 letters";
      if (wrong.empty()) continue;
      found.push_back(
          about(Verdict::kWarning, variable,
                fmt::format("{}, {}: {} (nccl.conf is not read by a shell)", source.name, words_for(variable), wrong),
                "write NAME=value, without blanks, quotes and comments behind it"));
    }
  }
  return found;
}

}  // namespace

std::span<const Rule> name_rules() {
  static constexpr Rule kRules[] = {{"env-unknown-variable", unknown_names}, {"env-old-variable", old_names},
                                    {"env-newer-variable", new_names},       {"env-bad-value", values},
                                    {"env-set-twice", overridden},           {"conf-syntax", conf_lines}};
  return kRules;
}

}  // namespace lane::doctor
